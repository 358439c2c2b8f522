r"""DynamicViT on DeiT-S, ImageNet: dense and at five keep ratios in one table.

python eval.py --config configs/classify_dynamicvit.py --workdir runs/classify_dynamicvit \
    --config.data.images=DIR --config.weights=FILE

DIR is ImageNet's validation set with one sub-folder per class, whose order of names is the order of the
classes, or any folder of sub-folders with `--config.data.classes=FILE`; or, prepared by TFDS,
`--config.data.source=tfds --config.data.name=imagenet2012`. Published top-1 of the official
checkpoint at its own ratio 0.7: 79.32. On LV-ViT: `--config.model.name=dynamicvit_lvvit_s`, 83.08 at 0.7.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="",
        batch_size=32,
        model=ModelConfig(name="dynamicvit_deit_small_patch16_224"),
        data=DataConfig(on_bad_image="error"),
        reduce=ReduceConfig(sweep=(0.9, 0.8, 0.7, 0.6, 0.5)),
    )
