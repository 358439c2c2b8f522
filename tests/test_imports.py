"""Dependencies point one way; this reads the imports and holds it."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

from tests import ROOT

PACKAGE = ROOT / "vitjax"

ALLOWED = {
    "activations": set(),
    "ot": {"ot", "ranges"},
    "models": {"models", "sparsify", "activations", "config"},
    "sparsify": {"sparsify", "activations", "ranges"},
    "weights": {"weights", "files", "cached"},
    "data": {"data", "weights", "config", "files", "cached", "terminal"},
    "retrieval": {"retrieval", "ot", "sparsify", "config", "parallel", "files", "kinds"},
    "viz": {"viz", "files"},
    "backbone": {"models", "config"},
    "ranges": set(),
    "config": {"kinds"},
    "kinds": set(),
    "parallel": {"peers"},
    "peers": set(),
    "files": set(),
    "cached": {"files"},
    "terminal": set(),
    "record": {"files"},
    "program": {"command_line", "doctor", "files", "peers", "terminal"},
    "command_line": {"files"},
    "checkpoint": {"files", "record"},
    "sweep": {"config"},
    "training": {
        "training",
        "checkpoint",
        "backbone",
        "cached",
        "kinds",
        "console",
        "models",
        "sparsify",
        "ot",
        "data",
        "retrieval",
        "config",
        "parallel",
        "files",
        "record",
        "program",
        "weights",
    },
    "doctor": {"record", "cached", "terminal"},
    "console": {"parallel", "terminal"},
    "starting": {"cached", "console", "doctor", "files", "parallel", "program", "record"},
    "protocols": {"config", "data", "retrieval"},
    "reranker": {"models", "backbone", "config", "console", "data", "parallel", "retrieval", "weights"},
    "side": {"data", "reranker", "retrieval"},
    "indexing": {"data", "parallel", "reranker", "retrieval", "weights"},
    "classification": {
        "backbone",
        "config",
        "console",
        "data",
        "files",
        "parallel",
        "record",
        "reranker",
        "sparsify",
        "viz",
        "weights",
    },
    "screen": {"classification", "console", "parallel", "record", "retrieval", "viz"},
    "drawing": {"config", "console", "reranker", "retrieval", "screen", "side", "viz"},
}


def imported(path: pathlib.Path) -> set[str]:
    """Parts of vitjax that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("vitjax.")}
    return found


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_lies_below_it(part: str):
    files = list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    wrong = {str(f.relative_to(PACKAGE)): extra for f in files if (extra := imported(f) - ALLOWED[part])}
    assert wrong == {}


def test_every_part_is_in_the_table():
    parts = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()
    }
    assert parts - set(ALLOWED) == {"__init__"}  # which imports names when they are asked for


def test_no_part_lies_below_itself():
    graphlib.TopologicalSorter({part: below - {part} for part, below in ALLOWED.items()}).prepare()


def test_no_module_shares_a_name_with_a_public_name_of_its_package():
    import vitjax

    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules & set(vitjax.__all__) == set()


def test_importing_the_package_does_no_work():
    code = "import sys, vitjax; print(sorted({'jax', 'flax', 'ott', 'PIL', 'numpy'} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_importing_every_public_name_does_not_import_ott():
    code = "import sys, vitjax; [getattr(vitjax, n) for n in vitjax.__all__]; print('ott' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"


def test_nothing_private_of_jax_is_imported():
    wrong = [
        str(p) for p in PACKAGE.rglob("*.py") if "jax._src" in p.read_text() or "jaxlib" in p.read_text()
    ]
    assert wrong == [str(PACKAGE / "record.py")]  # names the package jaxlib to report its version
