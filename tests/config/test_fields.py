"""A field's description is the only place of its words, its range and its meaning."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from vitjax import config as evaluating
from vitjax.config import train_config as training
from vitjax.config.fields import Option, open_names, option, walk, wrong_values
from vitjax.errors import UserError

CONFIGS = [(evaluating.EvalConfig, evaluating.validate), (training.TrainConfig, training.validate)]


@pytest.mark.parametrize("config_type", [config_type for config_type, _ in CONFIGS])
def test_every_field_says_what_it_means_and_its_default_is_allowed(config_type):
    config = config_type()
    assert [field.path for field in walk(config) if len(field.option.help) < 10] == []
    assert wrong_values(config) == []


@pytest.mark.parametrize(("config_type", "validate"), CONFIGS)
def test_a_number_beyond_either_end_and_an_unknown_word_are_refused_in_every_field(config_type, validate):
    tried = 0
    for path, _, value, limits in walk(config_type()):
        wrong = [-1 if isinstance(value, int) else -0.5] * (limits.low == 0 or limits.above == 0)
        wrong += [] if limits.high is None else [limits.high + 1]
        wrong += [edge for edge in (limits.above, limits.below) if edge is not None]
        wrong += ["nonsense"] * bool(limits.words)
        for each in wrong:
            config = config_type()
            *parents, name = path.split(".")[1:]
            section = getattr(config, parents[0]) if parents else config
            setattr(section, name, type(value)(each) if isinstance(each, int | float) else each)
            with pytest.raises(UserError, match=path.replace(".", r"\.")):
                validate(config)
            tried += 1
    assert tried > 40


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        (Option(low=0), (0, 0.0, 7), (-1, -1e-9), "at least 0"),
        (Option(above=0), (1e-30, 5), (0, -1, 1e-50), "above 0"),
        (Option(above=0, high=1), (0.2, 1), (0, 1.001), "in (0, 1]"),
        (Option(low=0, below=1, unit="metres"), (0, 0.99), (1, 0.999999999), "in [0, 1), in metres"),
        (Option(low=1, odd=True), (1, 3), (0, 2, -1), "at least 1 and odd"),
        (Option(choices=("crop", "squash")), ("crop",), ("corp", ""), "one of 'crop', 'squash'"),
        (Option(choices=("auto",), above=0, high=1), ("auto", 1), ("atuo",), "in (0, 1], or 'auto'"),
    ],
)
def test_a_value_is_compared_with_its_range_and_the_line_says_what_is_allowed(limits, inside, outside, words):
    assert [value for value in inside if limits.mistake(value)] == []
    for value in outside:
        assert words in limits.mistake(value)


def test_numbers_of_numpy_and_elements_of_tuples_are_compared_too():
    limits = Option(low=0, high=0.1)
    assert limits.mistake(np.float64(0.1)) == limits.mistake((np.float32(0.1), 0)) == ""
    assert limits.mistake((0.05, 0.2)) == "it must be in [0, 0.1]"


def test_the_nearest_word_is_named():
    assert Option(choices=("transport", "mutual")).mistake("transprot").endswith("did you mean 'transport'?")


def test_a_table_that_a_program_has_added_to_is_read_without_importing_it(monkeypatch):
    names = open_names(("topk",), "tests.no_such_module", "TABLE")
    assert names() == ("topk",)
    monkeypatch.setitem(
        sys.modules, "tests.no_such_module", types.SimpleNamespace(TABLE={"topk": 1, "mine": 2})
    )

    @dataclasses.dataclass
    class Section:
        name: str = option("mine", "one of an open set", choices=names)

    assert names() == ("topk", "mine")
    assert wrong_values(Section()) == []
    assert wrong_values(Section("other")) == ["config.name is 'other'; it must be one of 'topk', 'mine'"]


def test_a_reducer_from_outside_can_be_named_in_a_config(monkeypatch):
    from vitjax.sparsify import REDUCERS

    config = evaluating.EvalConfig()
    config.reduce.name = "mine"
    with pytest.raises(UserError, match=r"config\.reduce\.name is 'mine'"):
        evaluating.validate(config)
    monkeypatch.setitem(REDUCERS, "mine", REDUCERS["topk"])
    evaluating.validate(config)


def test_the_words_of_a_config_are_those_of_the_library():
    from vitjax.ot import marginals
    from vitjax.sparsify import reducers

    kinds = reducers.REDUCERS.items()
    assert set(evaluating.REDUCERS) == {"", *reducers.REDUCERS}
    assert set(evaluating.BY_R) == {name for name, kind in kinds if hasattr(kind, "r")}
    assert set(evaluating.RANKING) == {"", *(name for name, kind in kinds if kind.scores_tokens)}
    assert evaluating.BUDGETS == reducers.BUDGETS
    assert set(evaluating.MARGINALS) == set(marginals.KINDS)
