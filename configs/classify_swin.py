r"""Swin-T on ImageNet.

python eval.py --config configs/classify_swin.py --workdir runs/classify_swin --config.data.images=DIR

DIR is ImageNet's validation set with one sub-folder per class, whose order of names is the order of the
classes, or any folder of sub-folders with `--config.data.classes=FILE`; or, prepared by TFDS,
`--config.data.source=tfds --config.data.name=imagenet2012`. Published top-1: 81.2.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="hf:timm/swin_tiny_patch4_window7_224.ms_in1k",
        batch_size=32,
        model=ModelConfig(name="swin_tiny_patch4_window7_224"),
        data=DataConfig(on_bad_image="error"),
        reduce=ReduceConfig(),
    )
