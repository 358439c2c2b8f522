"""Arrays kept between runs, each with the key of what it was made of: of anything else it is no copy."""

import os
import pathlib
import zipfile
import zlib

import numpy as np

from vitjax.files import replacing

# What NumPy raises for files that are cut short, damaged, or of another kind.
_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError, NotImplementedError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


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
