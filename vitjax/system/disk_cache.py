"""What is kept between runs: where, and arrays with the key of what each was made of.

Of anything else such an array is no copy.
"""

import os
import pathlib
import tempfile
import zipfile
import zlib

import numpy as np

from vitjax.errors import UserError
from vitjax.system.files import expanded, replacing

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


def load(path: str | os.PathLike[str], made_of: str) -> np.ndarray | None:
    """The array that was kept; None where there is none of this key, or its file cannot be read."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            return kept["array"] if str(kept["made_of"]) == made_of else None
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
        np.savez(file, made_of=np.array(made_of), array=array)
