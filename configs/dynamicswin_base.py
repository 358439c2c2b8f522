r"""DynamicSwin-B, keep ratio 0.7, ImageNet-1k.

Expect 83.4 % top-1 at 12.1 GMAC, as the authors report.

python train.py --config configs/dynamicswin_base.py --workdir runs/dynamicswin_base \
    --config.data.train=DIR --config.data.test=DIR
python train.py --config configs/dynamicswin_base.py:smoke --workdir runs/smoke

Hardware: the authors used 8 GPUs, 128 images each, gradients of four batches added up.
Not trained by us yet: the figure is theirs, and how long the 37,440 steps take is not measured here.
Stochastic depth is 0.5, as there.
"""

from configs.common import smoke, two_paths_on_imagenet
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    config = two_paths_on_imagenet(
        "dynamicswin_base_patch4_window7_224", weights="hf:timm/swin_base_patch4_window7_224.ms_in1k"
    )
    config.model.drop_path = 0.5
    return smoke(config, arg, img_size=56, embed_dim=32)
