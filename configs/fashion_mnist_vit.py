r"""A small ViT on Fashion-MNIST (49 tokens, 9 blocks): real training on a laptop, then a teacher.

python train.py --config configs/fashion_mnist_vit.py --workdir runs/fashion_mnist_vit --config.data.dir=DIR
python train.py --config configs/fashion_mnist_vit.py:smoke --workdir runs/smoke

DIR holds the four published files (train-images-idx3-ubyte and so on, .gz or not); its default is where the
package dataset-fashion-mnist of Debian and Ubuntu puts them. CIFAR-10 from its binary version:
--config.data.source=cifar --config.data.dir=DIR. The same command resumes a stopped run.
configs/fashion_mnist_dynamicvit.py starts from its result.
"""

from configs.common import smoke
from vitjax.config.train_config import (
    AugmentConfig,
    CheckpointConfig,
    OptimConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)


def get_config(arg: str = "") -> TrainConfig:
    config = TrainConfig(
        batch_size=128,
        epochs=10.0,
        model=StudentConfig(
            name="deit_small_patch16_224", img_size=28, patch_size=4, embed_dim=64, depth=9, num_heads=4
        ),
        data=TrainDataConfig(
            source="idx", dir="/usr/share/datasets/fashion-mnist", resize="squash", on_bad_image="error"
        ),
        augment=AugmentConfig(shift=2, flip=True, smoothing=0.1),
        optim=OptimConfig(lr=1e-3, warmup_epochs=1.0, ema=0.999),
        checkpoint=CheckpointConfig(every=200),
    )
    return smoke(config, arg, img_size=28, depth=4)
