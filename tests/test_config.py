import ast
import importlib
import pathlib
import re

import pytest

from vitjax import program
from vitjax.config import EvalConfig, demo_config, validate
from vitjax.training import config as training

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in {"__init__", "parts"}
)


@pytest.mark.parametrize("name", NAMES)
def test_each_config_builds_and_is_valid(name: str):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    (validate if isinstance(config, EvalConfig) else training.validate)(config)
    assert f"configs/{name}.py" in (module.__doc__ or ""), "the head docstring holds the command"
    with pytest.raises(ValueError, match="unknown"):
        module.get_config("nonsense")
    if f"{name}.py:smoke" in (module.__doc__ or ""):
        training.validate(module.get_config("smoke"))


@pytest.mark.parametrize("name", [*NAMES, "parts"])
def test_no_config_takes_from_another(name: str):
    nodes = list(ast.walk(ast.parse((ROOT / "configs" / f"{name}.py").read_text())))
    taken = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    taken |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {module for module in taken if f"{module}.".startswith("configs.")} <= {"configs.parts"}
    assert name != "parts" or "configs.parts" not in taken


@pytest.mark.parametrize("config", [EvalConfig(), training.TrainConfig()])
def test_every_field_is_read_somewhere(config):
    code = "\n".join(
        path.read_text()
        for path in [*ROOT.glob("vitjax/**/*.py"), ROOT / "eval.py", ROOT / "train.py"]
        if path.name != "config.py"
    )
    unread = [
        path for path, *_ in program.fields(config) if not re.search(rf"\.{path.rsplit('.', 1)[1]}\b", code)
    ]
    assert unread == []


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("rerank", "epsilon", 0.0),
        ("rerank", "epsilon", float("nan")),
        ("rerank", "mass", 1.5),
        ("rerank", "mass", 0.0),
        ("rerank", "mass", "atuo"),
        ("rerank", "price", -0.1),
        ("rerank", "price", 0.5),
        ("rerank", "tau", 1.5),
        ("rerank", "tau", float("nan")),
        ("rerank", "method", "transprot"),
        ("rerank", "tolerance", -1.0),
        ("rerank", "weight", float("nan")),
        ("rerank", "marginals", "rolout"),
        ("rerank", "top_k", 0),
        ("rerank", "held_out", 1.0),
        ("model", "dtype", "float16"),
        ("model", "center", "middle"),
        ("model", "facet", "keys"),
        ("model", "smooth", 2),
        ("model", "center", "mean"),
        ("data", "resize", "stretch"),
        ("figures", "matches", 0),
    ],
)
def test_a_value_out_of_range_is_named(part, field, value):
    config = demo_config()
    setattr(getattr(config, part), field, value)
    with pytest.raises(ValueError, match=rf"config\.{part}\.{field}"):
        validate(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", -1),
        ("sharding", "fspd"),
        ("model.dtype", "float16"),
        ("optim.lr", float("nan")),
        ("optim.lr", float("inf")),
        ("optim.beta1", 1.0),
        ("optim.beta2", 1.0),
        ("checkpoint.keep", 1),
        ("metric.per_class", 0),
        ("distill.negatives", -2),
        ("optim.accumulate", 3),
        ("data.source", "digit"),
        ("data.train", ""),
    ],
)
def test_a_value_of_training_out_of_range_is_named(field, value):
    config = training.TrainConfig()
    *parts, name = field.split(".")
    setattr(getattr(config, parts[0]) if parts else config, name, value)
    with pytest.raises(ValueError, match=rf"config\.{field}"):
        training.validate(config)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_or_all_classes_held_out_are_refused_where_none_are_given(share):
    config = training.TrainConfig(task="metric")
    config.data.train, config.metric.held_out = "here", share
    with pytest.raises(ValueError, match=r"config\.metric\.held_out"):
        training.validate(config)
    config.data.test = "there"
    training.validate(config)


def test_two_ways_to_leave_patches_out_are_one_too_many():
    config = demo_config()
    config.rerank.mass, config.rerank.tau = 0.5, 0.5
    with pytest.raises(ValueError, match=r"config\.rerank\.mass.*set one of them to 1"):
        validate(config)


def test_photos_for_no_center_are_refused():
    config = EvalConfig()
    config.data.center = "photos"
    with pytest.raises(ValueError, match=r"config\.data\.center is 'photos'"):
        validate(config)
    config.model.center = "mean"
    validate(config)


def test_all_wrong_fields_are_named_at_once():
    config = demo_config()
    config.rerank.mass, config.batch_size = 2.0, 0
    with pytest.raises(ValueError, match=r"batch_size.*rerank\.mass"):
        validate(config)
