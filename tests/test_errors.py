"""What errors say: the library's speak of what it was given, and the programs add their flags."""

import ast
import pathlib
import pickle
import re

import pytest

from tests import ROOT
from vitjax.cli import flags
from vitjax.config import EvalConfig
from vitjax.config.fields import walk
from vitjax.config.train_config import TrainConfig
from vitjax.errors import GalleryError, UserError

LIBRARY = [
    path
    for part in (
        "data",
        "layers",
        "models",
        "ot",
        "retrieval",
        "sparsify",
        "system",
        "training",
        "viz",
        "weights",
    )
    for path in (ROOT / "vitjax" / part).rglob("*.py")
] + [ROOT / "vitjax" / name for name in ("ranges.py", "reranker.py", "sharding.py")]
FIELDS = {
    field.path.removeprefix("config."): config
    for config in (EvalConfig(), TrainConfig())
    for field in walk(config)
}
NAMED = re.compile(
    r"\bconfig\.(?!json)|(?<![\w.])(" + "|".join(re.escape(x) for x in FIELDS if "." in x) + r")\b"
)


def texts(path: pathlib.Path) -> list[tuple[int, str]]:
    """Line and text of the string constants of a file, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [(x.lineno, x.value) for x in constants if isinstance(x.value, str) and id(x) not in docstrings]


def test_what_is_looked_for_is_found():
    said = ("config.seed is 3", "raise distill.pool", "(data.timeout)", "set optim.lr lower")
    fine = ("config.json", "vitjax.data.prepare", "batch_size 3 is too small", "a.data.split")
    assert all(map(NAMED.search, said)) and not any(map(NAMED.search, fine))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT / "vitjax")))
def test_texts_of_the_library_name_no_field_of_a_program(path):
    wrong = [
        f"line {line}: {text}"
        for line, text in texts(path)
        # A field alone is no text: it is data, for `UserError(fields=)`.
        if NAMED.search(text) and text not in FIELDS
    ]
    assert wrong == []


def test_fields_that_errors_name_exist():
    named = [
        (path.name, field.value)
        for path in [*LIBRARY, *(ROOT / "vitjax" / "evaluation").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "fields" and isinstance(node.value, ast.Tuple)
        for field in node.value.elts
        if isinstance(field, ast.Constant)
    ]
    assert named
    assert [(name, field) for name, field in named if field not in FIELDS] == []


@pytest.mark.parametrize(("kind", "fields"), [(UserError, ("seed", "model.grid")), (GalleryError, ())])
def test_a_program_names_the_flags_that_decide(kind, fields, capsys):
    def main(config, workdir):
        raise kind("too many rows", fields=fields)

    assert flags._run(main, EvalConfig, "", ["prog", "--config", "demo", "--workdir=w"]) == 1
    hint = " (--config.seed, --config.model.grid)" if fields else ""
    assert capsys.readouterr().err == f"prog: too many rows{hint}\n"


def test_an_error_of_another_process_keeps_its_fields():
    found = pickle.loads(pickle.dumps(GalleryError("full", fields=["index.path"])))
    assert (str(found), found.fields, type(found)) == ("full", ("index.path",), GalleryError)
    assert (str(UserError("plain")), UserError("plain").args) == ("plain", ("plain",))
