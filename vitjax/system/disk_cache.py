"""What is kept between runs: where, and arrays with the key of what each was made of.

Of anything else such an array is no copy.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vitjax.errors import UserError
from vitjax.system.files import expanded, replacing

_LOG = logging.getLogger(__name__)
# What NumPy raises for files that are cut short, damaged, or of another kind.
_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def cache_dir() -> pathlib.Path:
    """The folder: $VITJAX_CACHE, $XDG_CACHE_HOME/vitjax or ~/.cache/vitjax; it need not exist.

    Raises:
        ValueError: no variable names one, and the user has no home folder, as in a container that runs as a
            number.
    """
    own = os.environ.get("VITJAX_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(expanded(own or f"{base}/vitjax"))
    except ValueError:
        raise UserError("the cache has no home folder to lie in; set VITJAX_CACHE to a folder") from None


def writable_folder(name: str) -> pathlib.Path | None:
    """A sub-folder of the cache for what can be had again; None where nothing can be written there.

    Args:
        name: of the sub-folder, which is made.
    """
    try:
        folder = cache_dir() / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (ValueError, OSError):
        return None


def kept(name: str, made_of: Mapping[str, Any], measure: Callable[[], np.ndarray]) -> np.ndarray:
    """An array out of the cache folder; measured, and kept there, where it is not.

    A file that is damaged is measured again, with a line in the log; without a folder that can be written
    nothing is kept.

    Args:
        name: of the sub-folder.
        made_of: everything that decides the array, as plain data.
        measure: what makes it.
    """
    key = json.dumps(made_of, sort_keys=True)
    try:
        path = cache_dir() / name / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    except ValueError:
        return measure()
    found = load(path, key)
    if found is None:
        if path.exists():
            _LOG.warning("%s is damaged: what it held is measured again.", path)
        found = measure()
        with contextlib.suppress(OSError):
            save(path, key, found)
    return found


@functools.cache
def code_version(package: str | os.PathLike[str]) -> str:
    """Hash of the sources of a package, for keys of what its code decides.

    Args:
        package: its folder.
    """
    folder, whole = pathlib.Path(package), hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        whole.update(f"{file.relative_to(folder).as_posix()}\n".encode() + file.read_bytes())
    return whole.hexdigest()[:32]


def load(path: str | os.PathLike[str], made_of: str) -> np.ndarray | None:
    """The array that was kept; None where there is none of this key, or its file cannot be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            array = found["array"] if str(found["made_of"]) == made_of else None
            whole = array is not None and str(found["sha256"]) == _digest(made_of, array)
            return array if whole else None
    except _DAMAGE:
        return None


def save(path: str | os.PathLike[str], made_of: str, array: np.ndarray) -> None:
    """Keeps an array in place of the one before, whole or not at all.

    Args:
        path: an .npz file; its folder is made.
        made_of: key of everything that decides the array.
        array: of numbers.

    Raises:
        OSError: the folder cannot be written to.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb") as file:
        sha256 = np.array(_digest(made_of, array))
        np.savez(file, made_of=np.array(made_of), array=array, sha256=sha256)


def _digest(made_of: str, array: np.ndarray) -> str:
    head = f"{made_of}\n{array.dtype} {array.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
