import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ROOT
from vitjax.config import EvalConfig, demo_config, validate
from vitjax.config import train_config as training

NAMES = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in {"__init__", "common"}
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


@pytest.mark.parametrize("name", [*NAMES, "common"])
def test_no_config_takes_from_another(name: str):
    nodes = list(ast.walk(ast.parse((ROOT / "configs" / f"{name}.py").read_text())))
    taken = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    taken |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {module for module in taken if f"{module}.".startswith("configs.")} <= {"configs.common"}
    assert name != "common" or "configs.common" not in taken


ALIASES = {"choices": "augment"}  # a section as a field of another class


def fields_read(function: ast.FunctionDef) -> set[tuple[str, str]]:
    """Fields of configs that a function reads: (class or name of the section, field).

    A section goes by its name, `config.data.split`, by a name whose annotation says its class, or by one that
    is short for a section, `wanted = config.augment`. A mere `data.split` is none.
    """
    nodes, short = list(ast.walk(function)), {"config": {"config"}}
    for node in nodes:
        if isinstance(node, ast.arg) and node.annotation is not None:
            short[node.arg] = set(re.findall(r"\w+Config", ast.unparse(node.annotation)))
    for target, value in (pair for node in nodes for pair in assigned(node)):
        if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
            short[target.id] = short.get(target.id, set()) | {ALIASES.get(value.attr, value.attr)}

    def owners(section: ast.expr) -> set[str]:
        if isinstance(section, ast.Attribute):
            return {section.attr} if ast.unparse(section.value).endswith("config") else set()
        return short.get(section.id, set()) if isinstance(section, ast.Name) else set()

    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found |= {(owner, node.attr) for owner in owners(node.value)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":  # names in a tuple nearby
            found |= {(owner, word) for owner in owners(node.args[0]) for word in words}
    return found


def assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.Assign):
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            yield from zip(target.elts, value.elts, strict=True)
        else:
            yield target, value


def sections(config: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    yield name, config
    for item in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, item.name)):
            yield from sections(value, item.name)


@pytest.mark.parametrize("config", [EvalConfig(), training.TrainConfig()])
def test_every_field_is_read_somewhere(config):
    if isinstance(config, training.TrainConfig):
        files = [*ROOT.glob("vitjax/training/*.py"), ROOT / "vitjax/data/augment.py", ROOT / "train.py"]
        files.append(ROOT / "vitjax/models/from_config.py")
    else:
        files = [path for path in ROOT.glob("vitjax/**/*.py") if path.parent.name != "training"]
        files.append(ROOT / "eval.py")
    files = [path for path in files if path.parent.name != "config"]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    read = set().union(*(fields_read(node) for node in nodes if isinstance(node, ast.FunctionDef)))
    unread = [
        f"{name}.{item.name}"
        for name, section in sections(config)
        for item in dataclasses.fields(section)
        if not {(name, item.name), (type(section).__name__, item.name)} & read
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
