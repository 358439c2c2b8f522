r"""What configs/smoke.py trained, on the 360 held-out digits: dense and at five keep ratios in one table.

python train.py --config configs/smoke.py --workdir runs/smoke
python eval.py --config configs/classify_digits.py --workdir runs/classify_digits

The first command makes the weights that the second reads, runs/smoke/last.safetensors, in a minute.
"""

from configs.common import no_argument
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return EvalConfig(
        task="classify",
        weights="runs/smoke/last.safetensors",
        batch_size=60,
        model=ModelConfig(
            name="dynamicvit_deit_small_patch16_224",
            img_size=8,
            patch_size=2,
            embed_dim=48,
            depth=4,
            num_heads=3,
            num_classes=10,
        ),
        data=DataConfig(source="digits", resize="squash", on_bad_image="error"),
        reduce=ReduceConfig(sweep=(0.9, 0.8, 0.7, 0.6, 0.5)),
    )
