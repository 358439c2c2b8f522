r"""What configs/fashion_mnist_dynamicvit.py trained, on Fashion-MNIST's 10,000 test images.

python train.py --config configs/fashion_mnist_vit.py --workdir runs/fashion_mnist_vit --config.data.dir=DIR
python train.py --config configs/fashion_mnist_dynamicvit.py --workdir runs/fashion_mnist_dynamicvit \
    --config.data.dir=DIR
python eval.py --config configs/classify_fashion.py --workdir runs/classify_fashion --config.data.images=DIR

DIR holds t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, .gz or not (Debian's package
dataset-fashion-mnist, for instance). The first two commands make the weights that the third reads; others
with --config.weights=FILE and --config.model.*.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="runs/fashion_mnist_dynamicvit/last.safetensors",
        batch_size=100,
        model=ModelConfig(
            name="dynamicvit_deit_small_patch16_224",
            img_size=28,
            patch_size=4,
            embed_dim=64,
            depth=9,
            num_heads=4,
            num_classes=10,
        ),
        data=DataConfig(
            source="idx", images="/usr/share/datasets/fashion-mnist", resize="squash", on_bad_image="error"
        ),
        reduce=ReduceConfig(sweep=(0.9, 0.8, 0.7, 0.6, 0.5)),
    )
