r"""A small ViT on Fashion-MNIST's published files (10,000 test pictures of 28 x 28).

python eval.py --config configs/classify_fashion.py --workdir runs/classify_fashion \
    --config.data.images=DIR --config.weights=FILE

DIR holds t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, .gz or not; MNIST and KMNIST come in the same
form.
"""

from configs.parts import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="",
        batch_size=32,
        model=ModelConfig(name="vit_tiny_patch16_224", num_classes=10),
        data=DataConfig(source="idx", on_bad_image="error"),
        reduce=ReduceConfig(name="tome", sweep=(8, 13)),
    )
