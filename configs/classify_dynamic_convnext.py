r"""DynamicCNN-T on ImageNet: dense and at three keep ratios in one table.

python eval.py --config configs/classify_dynamic_convnext.py --workdir runs/classify_dynamic_convnext \
    --config.data.images=DIR --config.weights=FILE

DIR is ImageNet's validation set with one sub-folder per class, whose order of names is the order of the
classes, or any folder of sub-folders with `--config.data.classes=FILE`; or, prepared by TFDS,
`--config.data.source=tfds --config.data.name=imagenet2012`. Published top-1 of the official
checkpoint at its own ratio 0.7: 81.59.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="",
        batch_size=32,
        model=ModelConfig(name="dynamic_convnext_tiny"),
        data=DataConfig(on_bad_image="error"),
        reduce=ReduceConfig(sweep=(0.9, 0.8, 0.7)),
    )
