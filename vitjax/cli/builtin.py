"""Paths of the programs and configs that come with vitjax.

In a checkout they stand at its top level; a wheel carries the same files inside the package.
"""

import difflib
import pathlib

import vitjax

_PACKAGE = pathlib.Path(vitjax.__file__).parent


def is_installed() -> bool:
    """Returns whether the programs lie inside the package, as in a wheel."""
    return (_PACKAGE / "_programs").is_dir()


def folder() -> pathlib.Path:
    """Returns the folder that holds eval.py, train.py and configs/."""
    return _PACKAGE / "_programs" if is_installed() else _PACKAGE.parent


def config_names() -> list[str]:
    """Returns the names of the built-in configs, sorted: what `--config NAME` finds from any folder."""
    helpers = {"__init__", "common"}
    return sorted(path.stem for path in (folder() / "configs").glob("*.py") if path.stem not in helpers)


def config_file(name: str) -> pathlib.Path | None:
    """Returns the file of a built-in config, None where there is none of that name."""
    return folder() / "configs" / f"{name}.py" if name in config_names() else None


def nearest_configs(name: str) -> list[str]:
    """Returns built-in configs whose names resemble `name`, best first."""
    return difflib.get_close_matches(name, config_names(), n=3, cutoff=0.5)
