"""Every field of both configs refuses what is not of its kind, by name."""

import copy
import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import config as evaluating
from vitjax.config import train_config as training
from vitjax.config.field_types import is_number, wrong_kinds

CONFIGS = {
    "eval": (evaluating.EvalConfig(), evaluating.validate),
    "train": (training.TrainConfig(), training.validate),
}
HUGE = (10**400, -(10**20), 2**31, 10**5000)
WRONG = {
    int: (*HUGE, 1.5, True, "1", None, np.float32(1), np.uint64(2**63), float("nan")),
    float: (10**400, float("nan"), float("inf"), np.float32("-inf"), 1e39, "1", True, None, jnp.ones(1)),
    bool: (1, "True", None, 0.0),
    str: (1, None, b"x", ("x",)),
}  # fmt: skip
RIGHT = [
    {int: np.int64(1), float: np.float32(0.5), bool: np.bool_(True), str: np.str_("x")},
    {int: jnp.int32(1), float: jnp.bfloat16(0.5), bool: jnp.bool_(True), str: "x"},
    {int: np.array(1), float: np.array(0.5), bool: np.array(True), str: "x"},
]


def leaves(config: Any, prefix: str = "config") -> Iterator[tuple[Any, str, str, Any]]:
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}.{item.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, name)
        else:
            yield config, item.name, name, item.type


def basic(kind: Any) -> Any:
    """A kind's own type, or that of its elements; None for a choice of several."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(kind) is tuple:
        return basic(get_args(kind)[0])
    return None if isinstance(kind, types.UnionType) else kind


@pytest.mark.parametrize("name", CONFIGS)
def test_a_value_of_another_kind_is_named_in_every_field(name):
    config, validate = CONFIGS[name]
    for section, field, path, kind in leaves(config):
        before = getattr(section, field)
        several = get_origin(kind) is tuple
        for value in WRONG.get(basic(kind), (float("nan"), None, 10**400)):
            setattr(section, field, (value,) if several else value)
            with pytest.raises(ValueError, match=path.replace(".", r"\.")) as told:
                validate(config)
            assert "\n" not in str(told.value) and len(str(told.value)) < 300
            setattr(section, field, before)
    assert wrong_kinds(config) == []


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("name", CONFIGS)
def test_scalars_of_numpy_and_jax_count_as_pythons(name, right):
    config = copy.deepcopy(CONFIGS[name][0])
    for section, field, _, kind in leaves(config):
        if basic(kind) is not None:
            one = right[basic(kind)]
            setattr(section, field, (one,) if get_origin(kind) is tuple else one)
    assert wrong_kinds(config) == []


def test_a_section_of_another_kind_is_named():
    config = evaluating.EvalConfig()
    config.model = evaluating.RerankConfig()
    with pytest.raises(ValueError, match=r"config\.model is .*; it must be a ModelConfig"):
        evaluating.validate(config)


def test_a_seed_below_zero_is_named():
    for config, validate in CONFIGS.values():
        changed = dataclasses.replace(config, seed=-1)
        with pytest.raises(ValueError, match=r"config\.seed is -1"):
            validate(changed)


def test_numbers_are_finite_and_fit_float32():
    assert all(map(is_number, (0, -3, 1.5, np.float16(2), np.int64(7), 3e38)))
    assert not any(map(is_number, (True, "1", None, 10**400, 1e39, float("inf"), np.float64("nan"), 1j, [1])))
