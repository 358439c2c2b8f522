"""No function takes a long list of arguments: what belongs together is a record."""

import ast
import pathlib

from tests import ROOT

MOST = 6


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Parameters of a function, without keyword-only options that have a default."""
    given = function.args
    required = [
        name for name, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None
    ]
    return [a.arg for a in (*given.posonlyargs, *given.args, *required) if a.arg not in ("self", "cls")]


def longer(path: pathlib.Path) -> set[str]:
    """Functions of a file that take too many arguments."""
    return {
        f"{path.relative_to(ROOT)}: {node.name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(parameters(node)) > MOST
    }


def test_options_with_defaults_do_not_count():
    function = ast.parse("def f(self, a, b=1, *, c, d=2, **more): ...").body[0]
    assert isinstance(function, ast.FunctionDef) and parameters(function) == ["a", "b", "c"]


def test_functions_take_at_most_six_arguments():
    files = [ROOT / "eval.py", ROOT / "train.py", *(ROOT / "vitjax").rglob("*.py")]
    assert set().union(*map(longer, files)) == set()
