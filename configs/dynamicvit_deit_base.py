r"""DynamicViT on DeiT-B/16, keep ratio 0.7, ImageNet-1k.

Expect 81.4 % top-1 at 11.5 instead of 17.6 GMAC, as the authors report.

python train.py --config configs/dynamicvit_deit_base.py --workdir runs/dynamicvit_deit_base \
    --config.data.train=DIR --config.data.test=DIR
python train.py --config configs/dynamicvit_deit_base.py:smoke --workdir runs/smoke

Hardware: the authors used 8 GPUs, 128 images each; a batch that does not fit goes through in parts with
--config.optim.accumulate. Not trained by us yet: the figure is theirs, and how long the 37,530 steps take
is not measured here.

Stochastic depth is 0.2, as there. Should the loss become NaN, keep the batch at 1024 and resume from the
last checkpoint with another --config.seed, or --config.optim.clip=1.
"""

from configs.common import dynamic_on_imagenet, smoke
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    config = dynamic_on_imagenet(
        "dynamicvit_deit_base_patch16_224", weights="hf:timm/deit_base_patch16_224.fb_in1k", ratio=5.0
    )
    config.model.drop_path = 0.2
    return smoke(config, arg, img_size=32, embed_dim=24, depth=4, num_heads=2)
