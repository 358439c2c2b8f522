r"""DynamicCNN-S, keep ratio 0.7, ImageNet-1k.

Expect 82.6 % top-1 at 5.8 GMAC, as the authors report.

python train.py --config configs/dynamic_convnext_small.py --workdir runs/dynamic_convnext_small \
    --config.data.train=DIR --config.data.test=DIR

Hardware: the authors used 8 GPUs, 128 images each, gradients of four batches added up.
Not trained by us yet: the figure is theirs, and how long the 37,440 steps take is not measured here.
Stochastic depth is 0.2, as there. `dynamic_convnext_tiny` has a smoke run.
"""

from configs.common import no_argument, two_paths_on_imagenet
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    no_argument(arg)
    return two_paths_on_imagenet("dynamic_convnext_small", weights="hf:timm/convnext_small.fb_in1k")
