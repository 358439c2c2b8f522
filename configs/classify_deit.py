r"""DeiT-S on ImageNet, dense and with tokens merged by ToMe, which needs no training.

python eval.py --config configs/classify_deit.py --workdir runs/classify_deit --config.data.images=DIR

Its weights come from the Hugging Face hub: `pip install -e '.[hub]'` first. DIR is ImageNet's validation set
with one sub-folder per class, whose order of names is the order of the classes, or any folder of sub-folders
with `--config.data.classes=FILE`; or, prepared by TFDS, `--config.data.source=tfds
--config.data.name=imagenet2012`. Published top-1 of the dense model: 79.8; the ToMe paper has 79.4 at r = 13
after training with it. Other reducers: `--config.reduce.name=evit --config.reduce.sweep=(0.9,0.7,0.5)`.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="hf:timm/deit_small_patch16_224.fb_in1k",
        batch_size=32,
        model=ModelConfig(name="deit_small_patch16_224"),
        data=DataConfig(on_bad_image="error"),
        reduce=ReduceConfig(name="tome", sweep=(8, 13, 16)),
    )
