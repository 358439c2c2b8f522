r"""LV-ViT-S on ImageNet, dense and with the best tokens by CLS attention.

python eval.py --config configs/classify_lvvit.py --workdir runs/classify_lvvit \
    --config.data.images=DIR --config.weights=FILE

DIR is ImageNet's validation set with one sub-folder per class, whose order of names is the order of the
classes, or any folder of sub-folders with `--config.data.classes=FILE`; or, prepared by TFDS,
`--config.data.source=tfds --config.data.name=imagenet2012`. Published top-1 of the dense model:
83.3.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="",
        batch_size=32,
        model=ModelConfig(name="lvvit_s"),
        data=DataConfig(on_bad_image="error"),
        reduce=ReduceConfig(name="topk", sweep=(0.9, 0.7, 0.5)),
    )
