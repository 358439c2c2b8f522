"""docs/architecture.md shows the code as it is."""

import pathlib
import re

from tests import ROOT
from tests.test_imports import ALLOWED

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def tree() -> list[str]:
    """Paths of the modules in the page's tree, in its order."""
    found, folders = [], []
    for line in re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1].splitlines():
        name = line.split()[0]
        assert line.split()[1:], f"{name} has no description"
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        if not name.endswith("/"):
            found.append("/".join(folders))
    return found


def files() -> list[str]:
    """Paths of the modules that there are."""
    paths = [ROOT / "eval.py", ROOT / "train.py"]
    paths += [path for folder in ("vitjax", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    return [path.relative_to(ROOT).as_posix() for path in paths if path.name != "__init__.py"]


def test_the_tree_names_every_module_once():
    named = tree()
    assert set(files()) - set(named) == set()  # add these to the tree
    assert set(named) - set(files()) == set()  # remove these from it
    assert len(named) == len(set(named))


def test_the_import_order_is_that_of_the_test():
    section = PAGE.split("## Import order")[1].split("\n## ")[0]
    level = {
        part: int(number)
        for number, parts in re.findall(r"^(\d+)\. (`.*)$", section, re.MULTILINE)
        for part in re.findall(r"`(\w+)`", parts)
    }
    assert set(level) == set(ALLOWED)
    wrong = {
        (part, below) for part in level for below in ALLOWED[part] - {part} if level[below] >= level[part]
    }
    assert wrong == set()


def test_modules_that_the_text_names_exist():
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    named = [pathlib.Path(name) for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)+)/?`", text)]
    assert named
    bases = (ROOT, ROOT / "vitjax")
    missing = [
        name
        for name in named
        if not any((base / name).is_dir() or (base / name).with_suffix(".py").is_file() for base in bases)
    ]
    assert missing == []
