"""NumPy archives (.npz) of plain arrays; pickled objects in them are refused unread."""

import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.errors import WeightsError
from vitjax.weights.archive import open_archive

_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes
_MAX_DIMS = 32


def read_npz(
    path: pathlib.Path, pick: Callable[[Collection[str]], Collection[str]] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an archive by name; see `vitjax.weights.read.read_state`.

    Two bytes of no type are bfloat16, which the format has no name for.
    """
    with path.open("rb") as file, open_archive(file) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.compress_type not in _PACKED for info in members):
            raise WeightsError("its members are packed in a way that NumPy never uses; refused.")
        unpacked = sum(info.file_size for info in members)
        # Trained weights hardly compress; what unpacks to twenty times its size is made to fill the memory.
        if unpacked > max(64 * 2**20, 20 * os.fstat(file.fileno()).st_size):
            raise WeightsError(f"it unpacks to {unpacked} bytes; refused.")
        by_name = {info.filename.removesuffix(".npy"): info for info in members}
        if len(by_name) < len(members):
            raise WeightsError("it holds a name twice; refused.")
        wanted = by_name if pick is None else pick(by_name)
        return {name: _read_array(archive, by_name[name], name) for name in wanted}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(info) as member:
        shape, column_major, dtype = _header(member, name)
        if dtype.hasobject:
            raise WeightsError(
                f"{name!r} is an array of Python objects; expected plain arrays, nothing was run."
            )
        raw = member.read()
    if dtype == np.dtype("V2"):
        dtype = np.dtype(jnp.bfloat16)
    if len(shape) > _MAX_DIMS or not all(type(side) is int and 0 <= side < 2**40 for side in shape):
        raise WeightsError(f"{name!r} has shape {str(shape)[:80]}; fetch it again.")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise WeightsError(f"{name!r} has {len(raw)} bytes for shape {shape} of {dtype}; fetch it again.")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if column_major else "C")


def _header(member: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise WeightsError(f"{name!r} is an .npy of version {version}; expected plain arrays.")
    return readers[version](member)
