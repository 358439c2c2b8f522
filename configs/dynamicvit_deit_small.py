r"""DynamicViT on DeiT-S/16, keep ratio 0.7, ImageNet-1k.

Expect 79.3 % top-1, 0.5 point below the dense model, at 2.98 instead of 4.6 GMAC, as the authors report.

python train.py --config configs/dynamicvit_deit_small.py --workdir runs/dynamicvit_deit_small \
    --config.data.train=DIR --config.data.test=DIR
python train.py --config configs/dynamicvit_deit_small.py:smoke --workdir runs/smoke

Hardware: the authors used 8 GPUs, 128 images each; a batch that does not fit goes through in parts with
--config.optim.accumulate. Not trained by us yet: the figure is theirs, and how long the 37,530 steps take
is not measured here.
"""

from configs.common import dynamic_on_imagenet, smoke
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    config = dynamic_on_imagenet(
        "dynamicvit_deit_small_patch16_224", weights="hf:timm/deit_small_patch16_224.fb_in1k", ratio=2.0
    )
    return smoke(config, arg, img_size=32, embed_dim=24, depth=4, num_heads=2)
