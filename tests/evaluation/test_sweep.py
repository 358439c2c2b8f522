import re

import pytest

from tests import ROOT
from vitjax.config import RerankConfig, demo_config, validate_rerank
from vitjax.evaluation.sweep import parse_sweep


def test_all_combinations_come_in_order_and_keep_the_rest():
    base = RerankConfig(weight=0.25)
    found = parse_sweep("rerank.mass=0.5,auto  rerank.top_k=5,10 rerank.method=transport", base)
    assert [tuple(chosen.values()) for chosen, _ in found] == [
        (0.5, 5, "transport"), (0.5, 10, "transport"), ("auto", 5, "transport"), ("auto", 10, "transport"),
    ]  # fmt: skip
    assert found[1][1] == RerankConfig(weight=0.25, mass=0.5, top_k=10)
    assert parse_sweep(" ", base) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mass=0.5", "'mass=0.5' is not FIELD=VALUE,VALUE"),
        ("rerank.mass", "'rerank.mass' is not"),
        ("rerank.gate=x", "'rerank.gate=x' is not"),
        ("model.grid=7", "'model.grid=7' is not"),
        ("rerank.mass=0.5 rerank.mass=0.6", "is not FIELD=VALUE,VALUE with a field of its own"),
        ("rerank.epsilon=low", "rerank.epsilon is 'low'; expected a number"),
        ("rerank.top_k=2.5", "rerank.top_k is '2.5'; expected a number"),
        ("rerank.mass=0.5,1.5", r"{'rerank.mass': 1.5}: config.rerank.mass is 1.5"),
        ("rerank.mass=0.5,", "rerank.mass is ''"),
        ("rerank.tau=0.8 rerank.mass=0.5,x", "rerank.mass is 'x'; expected a number, or 'auto' or 'mutual'"),
        ("rerank.mass=0.5 rerank.tau=0.8", "set one of them to 1"),
        ("rerank.marginals=uniform,rollout", "also set --config.rerank.marginals=rollout"),
        ("rerank.marginals=keep", "also set --config.rerank.marginals=keep"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(text, words):
    with pytest.raises(ValueError, match=words):
        parse_sweep(text, RerankConfig())


@pytest.mark.parametrize("text", ["README.md", "vitjax/config/eval_config.py", "vitjax/evaluation/sweep.py"])
def test_the_examples_run_with_the_recipe_for_folders(text):
    written = (ROOT / text).read_text(encoding="utf-8")
    (example,) = re.findall(r"rerank\.\w+=\S+ rerank\.\w+=[\d.,]+\d", written)[:1]
    assert len(parse_sweep(example, demo_config().rerank)) >= 4


def test_a_mass_out_of_range_is_one_complaint():
    with pytest.raises(ValueError, match=r"^config.rerank.mass is 2; it must be in \(0, 1\]$"):
        validate_rerank(RerankConfig(mass=2, tau=0.83))


def test_a_sweep_of_too_many_combinations_is_refused_by_their_number_at_once():
    many = ",".join(str(0.01 * i) for i in range(1, 61))
    fields = ("epsilon", "tau", "weight", "price")
    with pytest.raises(ValueError, match=r"12,960,000 combinations; give at most 1,000"):
        parse_sweep(" ".join(f"rerank.{name}={many}" for name in fields), RerankConfig())


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "9" * 50, "9" * 5000])
def test_a_number_that_no_array_holds_is_named(value):
    for name in ("weight", "top_k", "tolerance"):
        with pytest.raises(ValueError, match=rf"rerank\.{name}"):
            parse_sweep(f"rerank.{name}={value}", RerankConfig())


def test_as_many_combinations_as_are_allowed_are_run():
    found = parse_sweep("rerank.top_k=" + ",".join(map(str, range(1, 1001))), RerankConfig())
    assert [rule.top_k for _, rule in found] == list(range(1, 1001))


def test_marginals_that_are_measured_already_may_be_swept():
    base = RerankConfig(marginals="rollout")
    assert [rule.marginals for _, rule in parse_sweep("rerank.tau=0.5,0.7", base)] == ["rollout"] * 2
    swept = parse_sweep("rerank.marginals=rollout,uniform", base)
    assert [rule.marginals for _, rule in swept] == ["rollout", "uniform"]
