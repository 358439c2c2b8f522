import importlib
import pathlib

import pytest

from vitjax.program import UserError
from vitjax.training.config import StudentConfig, TrainConfig
from vitjax.training.initial import build, check_dynamic
from vitjax.training.pictures import model_input

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIGS = sorted(p.stem for p in ROOT.glob("configs/*.py") if "-> TrainConfig" in p.read_text())


def dense(name: str = "deit_small_patch16_224", **fields) -> TrainConfig:
    return TrainConfig(model=StudentConfig(name=name, **fields))


def checked(config: TrainConfig) -> None:
    check_dynamic(config, build(config, model_input(config), classes=3))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("model", "keep_ratio", 0.5),
        ("sparsify", "teacher", "file.npz"),
        ("sparsify", "ratio", 5.0),
        ("optim", "freeze_epochs", 5.0),
    ],
)
def test_what_only_dynamic_models_do_is_refused_of_a_dense_one_with_the_name_of_the_other(part, field, value):
    config = dense()
    checked(config)
    setattr(getattr(config, part), field, value)
    with pytest.raises(UserError, match=rf"{part}\.{field}: .*'dynamicvit_deit_small_patch16_224'"):
        checked(config)
    config.model.name = "dynamicvit_deit_small_patch16_224"
    checked(config)


def test_the_backbone_may_rest_while_a_new_embedding_learns():
    config = dense()
    config.task, config.optim.freeze_epochs = "metric", 5.0
    checked(config)


@pytest.mark.parametrize("task", ["metric", "distill"])
def test_a_dynamic_model_is_refused_where_nothing_would_hold_its_share_of_tokens(task):
    config = dense("dynamicswin_tiny_patch4_window7_224")
    config.task = task
    with pytest.raises(UserError, match="choose a plain model"):
        checked(config)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "parts"])
def test_no_config_asks_for_what_its_model_does_not_do(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    for argument in ("", "teacher") if name == "smoke" else ("",):
        checked(get_config(argument))
