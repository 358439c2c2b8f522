r"""DynamicSwin-T, keep ratio 0.7, ImageNet-1k.

Expect 80.9 % top-1 at 4.0 GMAC, as the authors report.

python train.py --config configs/dynamicswin_tiny.py --workdir runs/dynamicswin_tiny \
    --config.data.train=DIR --config.data.test=DIR
python train.py --config configs/dynamicswin_tiny.py:smoke --workdir runs/smoke

Hardware: the authors used 8 GPUs, 128 images each, gradients of four batches added up.
Not trained by us yet: the figure is theirs, and how long the 37,440 steps take is not measured here.
Stochastic depth is 0.2, as there.
"""

from configs.common import smoke, two_paths_on_imagenet
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    config = two_paths_on_imagenet(
        "dynamicswin_tiny_patch4_window7_224", weights="hf:timm/swin_tiny_patch4_window7_224.ms_in1k"
    )
    return smoke(config, arg, img_size=56, embed_dim=24)
