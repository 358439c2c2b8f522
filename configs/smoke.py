r"""DynamicViT with a dense teacher on 1,437 handwritten digits: all of training in a minute, no download.

python train.py --config configs/smoke.py --workdir runs/smoke

On 2 CPU cores: under a minute; the teacher has 97 % accuracy on the 360 held-out digits, the student somewhat
less with the 5 of 16 tokens that a keep ratio of 0.7 leaves.
The teacher (configs/digits_teacher.safetensors) comes from the same loop:

python train.py --config configs/smoke.py:teacher --workdir runs/digits_teacher
"""

import pathlib

from vitjax.config.train_config import (
    AugmentConfig,
    CheckpointConfig,
    OptimConfig,
    SparsifyConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)

TEACHER = pathlib.Path(__file__).parent / "digits_teacher.safetensors"


def get_config(arg: str = "") -> TrainConfig:
    config = TrainConfig(
        batch_size=64,
        epochs=6.0,
        log_every=10,
        model=StudentConfig(
            name="dynamicvit_deit_small_patch16_224",
            weights=str(TEACHER),
            img_size=8,
            patch_size=2,
            embed_dim=48,
            depth=4,
            num_heads=3,
            keep_ratio=0.7,
        ),
        data=TrainDataConfig(source="digits", resize="squash"),
        sparsify=SparsifyConfig(ratio=20.0),  # of few tokens and few steps: more than the published 2
        augment=AugmentConfig(smoothing=0.1),
        optim=OptimConfig(lr=3e-3, warmup_epochs=0.5, freeze_epochs=1.0, backbone_lr=0.5, ema=0.95),
        checkpoint=CheckpointConfig(every=20),
    )
    if arg == "teacher":
        config.epochs, config.log_every, config.eval_every = 60.0, 100, 330
        config.model.name, config.model.weights = "deit_small_patch16_224", ""
        config.model.keep_ratio, config.augment.mixup = 0.0, 0.4
        config.sparsify = SparsifyConfig()
        config.optim = OptimConfig(lr=3e-3, warmup_epochs=3.0, weight_decay=0.1, ema=0.99)
        config.checkpoint.every = 500
    elif arg:
        raise ValueError(f"config argument {arg!r} is unknown; known: 'teacher'")
    return config
