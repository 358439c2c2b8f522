"""Functions that experiments share; a config file takes what it needs from here, never from another."""

from vitjax.config import EvalConfig, ModelConfig, RerankConfig, demo_config
from vitjax.config.train_config import (
    AugmentConfig,
    OptimConfig,
    SparsifyConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)
from vitjax.pretrained import MODELS, cost_of, pretrained_source

# Families of backbones: the model that describes images, and the one that has a text tower besides.
FAMILIES = {
    "dinov2": ("vit_small_patch14_dinov2", ""),
    "dinov2_giant": ("vit_giant_patch14_dinov2", ""),
    "dinov3": ("vit_small_patch16_dinov3", ""),
    "dinov3_convnext": ("convnext_tiny_dinov3", ""),
    "clip": ("vit_base_patch16_clip_quickgelu_224", "clip_vit_base_patch16"),
    "siglip": ("vit_base_patch16_siglip_224", "siglip_base_patch16_224"),
    "siglip2": ("vit_base_patch16_siglip_256.v2_webli", "siglip2_base_patch16_256"),
    "tipsv2": ("vit_base_patch14_tipsv2", "tipsv2_b14"),
    "pe_core": ("vit_pe_core_base_patch16_224", "pe_core_b16_224"),
}


def preset(arg: str) -> EvalConfig:
    """The recipe of the demo; with an argument, on another backbone.

    That is one of `FAMILIES`, or a model's name, whose published weights are taken. Tokens are then those of
    its last block, on the demo's grid where the model has one as fine. That, and how patches are matched, was
    measured with CLIP alone (docs/results.md): `--config.model.block=` and `--config.rerank.tau=` are yours
    to choose.
    """
    config = demo_config()
    if not arg:
        return config
    if arg not in FAMILIES and arg.partition(".")[0] not in MODELS:
        raise ValueError(
            f"config argument {arg!r} is unknown; known: {', '.join(FAMILIES)}, or a name of `vitjax models`"
        )
    known = FAMILIES[arg][0] if arg in FAMILIES else arg
    name = known.partition(".")[0]
    cost, whole = cost_of(name), config.model.grid**2
    config.weights, config.model.name, config.model.block = pretrained_source(known), name, -1
    config.model.grid = config.model.grid if cost and cost.tokens >= whole else 0
    # Other weights are used at the size that they were trained at last; DINOv2's own evaluation is at 224.
    config.model.img_size = 224 if name.endswith("dinov2") else 0
    return config


def paper_deit() -> EvalConfig:
    """DeiT-S as in "Beyond the CLS Token"; see configs/paper_deit.py."""
    model = ModelConfig(name="deit_small_patch16_224", grid=7)
    return _balanced("hf:timm/deit_small_patch16_224.fb_in1k", model, marginals="softmax")


def paper_cvt() -> EvalConfig:
    """CvT-13 as in "Beyond the CLS Token"; see configs/paper_cvt.py."""
    return _balanced("hf:microsoft/cvt-13", ModelConfig(name="cvt_13", grid=7), marginals="rollout")


def paper_swin() -> EvalConfig:
    """Swin-T as in "Beyond the CLS Token"; see configs/paper_swin.py."""
    model = ModelConfig(name="swin_tiny_patch4_window7_224")
    return _balanced("hf:timm/swin_tiny_patch4_window7_224.ms_in1k", model, marginals="cross_correlation")


def paper_resnet() -> EvalConfig:
    """ResNet-50 as in DIML; see configs/paper_resnet.py."""
    model = ModelConfig(name="resnet50", grid=4)
    return _balanced("hf:timm/resnet50.tv_in1k", model, marginals="cross_correlation")


def _balanced(weights: str, model: ModelConfig, *, marginals: str) -> EvalConfig:
    """Balanced transport of 100 candidates, its score added to the pooled cosine, as in both papers."""
    rerank = RerankConfig(top_k=100, epsilon=0.05, mass=1.0, weight=1.0, marginals=marginals)
    return EvalConfig(weights=weights, model=model, rerank=rerank)


BACKBONES = {
    "deit": paper_deit,
    "cvt": paper_cvt,
    "swin": paper_swin,
    "resnet": paper_resnet,
}


def paper_backbone(arg: str) -> EvalConfig:
    """The preset of a backbone: deit, cvt, swin or resnet as the papers have them; or as `preset` has it."""
    if arg not in (*BACKBONES, *FAMILIES):
        raise ValueError(f"config argument {arg!r} is unknown; known: {', '.join((*BACKBONES, *FAMILIES))}")
    if arg in BACKBONES:
        return BACKBONES[arg]()
    config = preset(arg)
    config.rerank.top_k = 100
    return config


def benchmark(source: str, arg: str) -> EvalConfig:
    """A published benchmark with the preset of a backbone, DINOv2 without an argument.

    Whole images are squashed to the square: nothing of a box or of a frame is cut off.
    """
    config = paper_backbone(arg or "dinov2")
    config.data.source, config.data.on_bad_image, config.data.resize = source, "error", "squash"
    return config


def two_towers(arg: str) -> str:
    """The model with a text tower that `--config FILE:arg` names; SigLIP 2 B/16 without an argument."""
    name = FAMILIES.get(arg or "siglip2", ("", arg))[1]
    if name not in MODELS or MODELS[name].text is None:
        families = [family for family, (_, text) in FAMILIES.items() if text]
        known = ", ".join([*families, *(known for known, card in MODELS.items() if card.text)])
        raise ValueError(f"config argument {arg!r} is unknown; with a text tower: {known}")
    return name


def no_argument(arg: str) -> None:
    """Refuses `--config FILE:arg` where the file has no variants."""
    if arg:
        raise ValueError(f"config argument {arg!r} is unknown; this file takes none")


def dynamic_on_imagenet(name: str, *, weights: str, ratio: float, keep_ratio: float = 0.7) -> TrainConfig:
    """What the official recipes of DynamicViT share: 30 epochs, the backbone frozen for 5 of them.

    As there: float32 for student and teacher (on GPUs and TPUs XLA multiplies such matrices in TF32 or
    bfloat16 unless `jax_default_matmul_precision` is set), one draw of mixup or cutmix for each 128 images,
    an EMA of constant decay that is evaluated beside the parameters themselves.
    Different: batch norm (of LV-ViT's stem) and the mean over kept tokens are of the whole batch, there of
    the 128 images of a GPU; `--config.optim.accumulate=8` makes them so.
    """
    return TrainConfig(
        batch_size=1024,
        epochs=30.0,
        eval_raw=True,
        model=StudentConfig(name=name, weights=weights, keep_ratio=keep_ratio),
        sparsify=SparsifyConfig(ratio=ratio),
        data=TrainDataConfig(train="imagenet/train", test="imagenet/val", workers=8, processes=8),
        augment=AugmentConfig(
            crop=0.08,
            flip=True,
            rand_augment=2,
            erase=0.25,
            mixup=0.8,
            cutmix=1.0,
            mix_group=128,
            smoothing=0.1,
        ),
        optim=OptimConfig(
            backbone_lr=0.01,
            freeze_epochs=5.0,
            frozen=("cls_token", "pos_embed"),
            ema=0.9999,
            ema_warmup=False,
        ),
    )


def two_paths_on_imagenet(name: str, *, weights: str) -> TrainConfig:
    """What the official recipes of DynamicSwin and DynamicCNN share: 120 epochs at four times the batch.

    Different: a token has one value in training as at inference; the official code trains with two, another
    function than it evaluates (`compat="released"` of `SwinTransformer` and `ConvNeXt`).
    """
    config = dynamic_on_imagenet(name, weights=weights, ratio=10.0)
    config.batch_size, config.epochs, config.optim.accumulate = 4096, 120.0, 4
    config.optim.lr, config.optim.warmup_epochs, config.optim.backbone_lr = 4e-3, 20.0, 0.2
    config.optim.frozen = ()  # it has neither a CLS token nor a table of positions
    config.model.drop_path = 0.2
    return config


def smoke(config: TrainConfig, arg: str, *, img_size: int, **sizes: int) -> TrainConfig:
    """The config itself, or for "smoke" four steps of it on digits with a small model of the same kind."""
    if arg not in ("", "smoke"):
        raise ValueError(f"config argument {arg!r} is unknown; known: 'smoke'")
    if arg:
        config.data.source, config.data.resize, config.data.processes = "digits", "squash", 0
        config.batch_size, config.steps, config.eval_every, config.log_every = 16, 4, 4, 1
        config.model.weights, config.model.img_size = "", img_size
        config.optim.freeze_epochs = min(config.optim.freeze_epochs, 0.01)
        for name, value in sizes.items():
            setattr(config.model, name, value)
    return config
