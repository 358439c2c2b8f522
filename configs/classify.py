r"""Classify images with any backbone: by the names of the classes, or with a classifier that you trained.

python eval.py --config configs/classify.py:siglip2 --workdir runs/classify --config.data.images=DIR
python eval.py --config configs/classify.py:dinov3 --workdir runs/classify --config.data.images=DIR \
    --config.weights=runs/caltech101/last.safetensors --config.model.num_classes=100 \
    --config.model.img_size=224

DIR has a folder for each class. Families with a text tower (clip, siglip, siglip2, tipsv2, pe_core) need no
training, see configs/classify_zero_shot.py; the others (dinov2, dinov2_giant, dinov3, dinov3_convnext) have
published weights without a classifier: `vitjax train` makes one, see configs/caltech101.py. Names of
`vitjax models` are taken, too. Needs the extras hub and text: `pip install -e '.[hub,text]'`.
"""

from configs.common import FAMILIES, preset
from vitjax.config import DataConfig, EvalConfig, ModelConfig


def get_config(arg: str = "") -> EvalConfig:
    arg = arg or "siglip2"
    known = preset(FAMILIES.get(arg, ("", ""))[1] or arg)
    return EvalConfig(
        task="classify",
        weights=known.weights,
        batch_size=32,
        model=ModelConfig(name=known.model.name, img_size=known.model.img_size),
        data=DataConfig(on_bad_image="error"),
    )
