r"""DynamicViT on LV-ViT-S, keep ratio 0.7, ImageNet-1k.

Expect 83.1 % top-1 at 4.65 instead of 6.6 GMAC, as the authors report.

python train.py --config configs/dynamicvit_lvvit_s.py --workdir runs/dynamicvit_lvvit_s \
    --config.data.train=DIR --config.data.test=DIR
python train.py --config configs/dynamicvit_lvvit_s.py:smoke --workdir runs/smoke

Hardware: the authors used 8 GPUs, 128 images each; a batch that does not fit goes through in parts with
--config.optim.accumulate. Not trained by us yet: the figure is theirs, and how long the 37,530 steps take
is not measured here.

The weights are the file of that name from the LV-ViT release; put it here or set --config.model.weights.
"""

from configs.common import dynamic_on_imagenet, smoke
from vitjax.config.train_config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    config = dynamic_on_imagenet("dynamicvit_lvvit_s", weights="lvvit_s-26M-224-83.3.pth.tar", ratio=2.0)
    return smoke(config, arg, img_size=32, embed_dim=24, depth=4, num_heads=2)
