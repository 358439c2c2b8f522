"""Examples in docstrings run as their readers would run them."""

import doctest
import importlib
import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): text.count(">>> ")
    for path in sorted((ROOT / "vitjax").rglob("*.py"))
    if ">>> " in (text := path.read_text("utf-8"))
}


@pytest.mark.parametrize(("module", "examples"), EXAMPLES.items(), ids=list(EXAMPLES))
def test_the_examples_of_a_module_give_what_they_show(module, examples):
    with jax.numpy_rank_promotion("allow"):
        found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0
    assert found.attempted == examples  # none is hidden by a decorator
