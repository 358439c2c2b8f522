r"""What configs/caltech101.py trained, on the photos that it held out: top-1 and the mean of the classes.

python eval.py --config configs/classify_caltech101.py --workdir runs/caltech101_eval \\
  --config.data.images=DIR --config.data.split_file=runs/caltech101/split.json
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="runs/caltech101/last.safetensors",
        batch_size=50,
        model=ModelConfig(name="vit_base_patch16_clip_quickgelu_224", num_classes=100),
        data=DataConfig(images="caltech-101", split_file="runs/caltech101/split.json"),
    )
