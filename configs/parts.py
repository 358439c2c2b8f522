"""Functions that experiments share; a config file itself is complete and inherits from nothing."""

from vitjax.config import EvalConfig, demo_config
from vitjax.training.config import (
    AugmentConfig,
    OptimConfig,
    SparsifyConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)


def dinov2_saliency() -> EvalConfig:
    """The backbone every machine can fetch from its package index; see `vitjax.demo_config`."""
    return demo_config()


def dinov2() -> EvalConfig:
    """DINOv2's own ViT-S/14 with the recipe of the demo, on its last block."""
    config = demo_config()
    config.weights = "hf:timm/vit_small_patch14_dinov2.lvd142m"
    config.model.block = -1
    config.rerank.top_k = 100
    return config


def paper_backbone(arg: str) -> EvalConfig:
    """The preset of a backbone: deit, cvt, swin, resnet or dinov2."""
    from configs import paper_cvt, paper_deit, paper_resnet, paper_swin  # they need this module

    presets = {
        "deit": paper_deit.get_config,
        "cvt": paper_cvt.get_config,
        "swin": paper_swin.get_config,
        "resnet": paper_resnet.get_config,
        "dinov2": dinov2,
    }
    if arg not in presets:
        raise ValueError(f"config argument {arg!r} is unknown; known: {', '.join(presets)}")
    return presets[arg]()


def no_argument(arg: str) -> None:
    """Refuses `--config FILE:arg` where the file has no variants."""
    if arg:
        raise ValueError(f"config argument {arg!r} is unknown; this file takes none")


def dynamic_on_imagenet(name: str, *, weights: str, ratio: float, keep_ratio: float = 0.7) -> TrainConfig:
    """What the official recipes of DynamicViT share: 30 epochs, the backbone resting for 5 of them."""
    return TrainConfig(
        batch_size=1024,
        epochs=30.0,
        model=StudentConfig(name=name, weights=weights, keep_ratio=keep_ratio, dtype="bfloat16"),
        sparsify=SparsifyConfig(ratio=ratio),
        data=TrainDataConfig(train="imagenet/train", test="imagenet/val", workers=8, processes=8),
        augment=AugmentConfig(
            crop=0.08, flip=True, rand_augment=2, erase=0.25, mixup=0.8, cutmix=1.0, smoothing=0.1
        ),
        optim=OptimConfig(backbone_lr=0.01, freeze_epochs=5.0, frozen=("cls_token", "pos_embed"), ema=0.9999),
    )


def dynamic_swin_on_imagenet(name: str, *, weights: str) -> TrainConfig:
    """What the official recipes of DynamicSwin share: 120 epochs at four times the batch."""
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
