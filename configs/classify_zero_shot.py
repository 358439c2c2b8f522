r"""Classify images by the names of the classes, without training on them.

python eval.py --config configs/classify_zero_shot.py --workdir runs/zero_shot --config.data.images=DIR

DIR has a folder for each class, named as one would say it; or `--config.data.classes=FILE` names class i in
line i. `--config.data.templates=FILE` has a prompt in each line, "a photo of a {}, a type of food."; a class
is the mean of its prompts' embeddings. `--config configs/classify_zero_shot.py:NAME` takes another model with
two towers. Needs the extras hub and text: `pip install -e '.[hub,text]'`.
"""

from configs.common import two_towers
from vitjax.config import DataConfig, EvalConfig, ModelConfig
from vitjax.pretrained import pretrained_source


def get_config(arg: str = "") -> EvalConfig:
    name = two_towers(arg)
    return EvalConfig(
        task="classify",
        weights=pretrained_source(name),
        batch_size=32,
        model=ModelConfig(name=name),
        data=DataConfig(on_bad_image="error"),
    )
