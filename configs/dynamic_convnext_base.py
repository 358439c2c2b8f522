r"""DynamicCNN-B, keep ratio 0.7, ImageNet-1k.

Expect 83.5 % top-1 at 10.2 GMAC, as the authors report.

python train.py --config configs/dynamic_convnext_base.py --workdir runs/dynamic_convnext_base \
    --config.data.train=DIR --config.data.test=DIR

Hardware: the authors used 8 GPUs, 128 images each, gradients of four batches added up.
Not trained by us yet: the figure is theirs, and how long the 37,440 steps take is not measured here.
Stochastic depth is 0.5, as there. `dynamic_convnext_tiny` has a smoke run.
"""

from configs.common import no_argument, two_paths_on_imagenet
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    no_argument(arg)
    config = two_paths_on_imagenet("dynamic_convnext_base", weights="hf:timm/convnext_base.fb_in1k")
    config.model.drop_path = 0.5
    return config
