"""Dependencies point one way; this reads the imports and holds it."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

from tests import ROOT

PACKAGE = ROOT / "vitjax"

# Each part imports only errors.py and the parts named here; the order is that of docs/architecture.md,
# leaves first.
ALLOWED = {
    "_moved": set(),
    "errors": set(),
    "ranges": set(),
    "pretrained": {"system"},
    "system": {"system"},
    "sharding": {"system"},
    "config": {"config", "data", "pretrained"},
    "layers": {"layers"},
    "ot": {"ot", "ranges"},
    "sparsify": {"sparsify", "layers", "ranges"},
    "doctor": {"system"},
    "weights": {"weights", "system"},
    "text": {"text", "pretrained", "system", "weights"},
    "models": {"models", "layers", "sparsify", "config", "pretrained", "text"},
    "data": {"data", "pretrained", "system", "weights"},
    "retrieval": {"retrieval", "ot", "sparsify", "config", "sharding", "system"},
    "viz": {"viz", "system"},
    "cli": {"cli", "config", "doctor", "pretrained", "sharding", "system", "weights"},
    "__main__": {"cli"},
    "reranker": {"config", "data", "doctor", "models", "retrieval", "sharding", "system", "text", "weights"},
    "training": {
        "training",
        "reranker",
        "cli",
        "config",
        "data",
        "doctor",
        "models",
        "ot",
        "ranges",
        "retrieval",
        "sharding",
        "sparsify",
        "system",
        "weights",
    },
    "evaluation": {
        "evaluation",
        "cli",
        "config",
        "data",
        "doctor",
        "models",
        "reranker",
        "retrieval",
        "sharding",
        "sparsify",
        "system",
        "text",
        "viz",
        "weights",
    },
}


# Modules directly in vitjax/; everything else has a package.
LOOSE = {"_moved", "doctor", "errors", "pretrained", "ranges", "reranker", "sharding"}
# Parts that print, and so may import the command line's parts; one that leaves the set never comes back.
CLI_USERS = {"__main__", "cli", "evaluation", "training"}
# Imports inside functions that close a circle of modules; the list only gets shorter.
CIRCLES: set[tuple[str, str]] = set()


def imported_names(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported(path: pathlib.Path) -> set[str]:
    """Parts of vitjax that a file imports, at any depth of its code."""
    return {name.split(".")[1] for name in imported_names(path) if name.startswith("vitjax.")}


def files_of(part: str) -> list[pathlib.Path]:
    """The files of a part, which is a package or one module."""
    return list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]


def imported_modules() -> dict[str, set[str]]:
    """For each module of vitjax and benchmarks, those of them that it imports."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in ("vitjax", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    below = {}
    for module, path in files.items():
        names = imported_names(path)
        below[module] = {n if n in files else n.rpartition(".")[0] for n in names} & set(files) - {module}
    return below


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_lies_below_it(part: str):
    wrong = {
        str(f.relative_to(PACKAGE)): extra
        for f in files_of(part)
        if (extra := imported(f) - ALLOWED[part] - {"errors"})
    }
    assert wrong == {}


def test_every_part_is_in_the_table():
    parts = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()
    }
    assert parts - set(ALLOWED) == {"__init__"}  # which imports names when they are asked for


def test_no_part_lies_below_itself():
    graphlib.TopologicalSorter({part: below - {part} for part, below in ALLOWED.items()}).prepare()


def test_modules_import_in_no_circle():
    below = imported_modules()
    assert all(upper in below[lower] for lower, upper in CIRCLES)  # a circle that is gone leaves the list
    for lower, upper in CIRCLES:
        below[lower].discard(upper)
    graphlib.TopologicalSorter(below).prepare()


def test_only_parts_that_print_import_the_command_line():
    users = {part for part in ALLOWED for path in files_of(part) if "cli" in imported(path)}
    assert users == CLI_USERS


def test_few_modules_have_no_package():
    assert {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"} == LOOSE


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


def test_importing_every_public_name_does_not_import_what_few_calls_need():
    """SciPy's statistics alone take as long to import as JAX."""
    code = (
        "import sys, vitjax; [getattr(vitjax, n) for n in vitjax.__all__]; "
        "print(sorted({'ott', 'scipy', 'skimage', 'orbax', 'onnx', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_nothing_private_of_jax_is_imported():
    wrong = [
        str(p) for p in PACKAGE.rglob("*.py") if "jax._src" in p.read_text() or "jaxlib" in p.read_text()
    ]
    assert wrong == [str(PACKAGE / "doctor.py")]  # names the package jaxlib to report its version
