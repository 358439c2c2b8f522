r"""DynamicCNN-T, keep ratio 0.7, ImageNet-1k.

Expect 81.6 % top-1 at 3.6 GMAC, as the authors report.

python train.py --config configs/dynamic_convnext_tiny.py --workdir runs/dynamic_convnext_tiny \
    --config.data.train=DIR --config.data.test=DIR
python train.py --config configs/dynamic_convnext_tiny.py:smoke --workdir runs/smoke

Hardware: the authors used 8 GPUs, 128 images each, gradients of four batches added up.
Not trained by us yet: the figure is theirs, and how long the 37,440 steps take is not measured here.
Stochastic depth is 0.2, as there.
"""

from configs.common import smoke, two_paths_on_imagenet
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    config = two_paths_on_imagenet("dynamic_convnext_tiny", weights="hf:timm/convnext_tiny.fb_in1k")
    return smoke(config, arg, img_size=64)
