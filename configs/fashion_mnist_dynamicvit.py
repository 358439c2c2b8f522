r"""DynamicViT at a keep ratio of 0.7 on Fashion-MNIST, with configs/fashion_mnist_vit.py's model as teacher.

python train.py --config configs/fashion_mnist_vit.py --workdir runs/fashion_mnist_vit --config.data.dir=DIR
python train.py --config configs/fashion_mnist_dynamicvit.py --workdir runs/fashion_mnist_dynamicvit \
    --config.data.dir=DIR
python train.py --config configs/fashion_mnist_dynamicvit.py:smoke --workdir runs/smoke

About 95 minutes on one CPU core; test accuracy 86.7 %, the teacher 86.1 %.
It starts from what the first command leaves, runs/fashion_mnist_vit/last.safetensors; elsewhere with
--config.model.weights=FILE. Data as there.
"""

from configs.common import smoke
from vitjax.config.train_config import (
    AugmentConfig,
    CheckpointConfig,
    OptimConfig,
    SparsifyConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)


def get_config(arg: str = "") -> TrainConfig:
    config = TrainConfig(
        batch_size=128,
        epochs=12.0,
        model=StudentConfig(
            name="dynamicvit_deit_small_patch16_224",
            weights="runs/fashion_mnist_vit/last.safetensors",
            img_size=28,
            patch_size=4,
            embed_dim=64,
            depth=9,
            num_heads=4,
            keep_ratio=0.7,
        ),
        data=TrainDataConfig(
            source="idx", dir="/usr/share/datasets/fashion-mnist", resize="squash", on_bad_image="error"
        ),
        sparsify=SparsifyConfig(ratio=10.0),
        augment=AugmentConfig(shift=2, flip=True, smoothing=0.1),
        optim=OptimConfig(lr=2e-3, warmup_epochs=0.2, backbone_lr=0.5, freeze_epochs=0.2, ema=0.999),
        checkpoint=CheckpointConfig(every=200),
    )
    return smoke(config, arg, img_size=28, depth=4)
