"""PyTorch checkpoints (.pth) as arrays, without torch: the two file formats around the pickle.

Source: torch/serialization.py; the zip archive of torch >= 1.6 and the stream of older versions.
"""

import os
import pathlib
import struct
import zipfile
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from vitjax.errors import WeightsError
from vitjax.weights.archive import open_archive
from vitjax.weights.damage import naming
from vitjax.weights.entries import flatten
from vitjax.weights.pickle_tensors import Storage, Tensor, interpret, whole

_MAX_PICKLE = 64 * 2**20  # bytes; the largest published ViT checkpoints need less than 1 MiB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch(
    path: str | os.PathLike[str], pick: Callable[[Collection[str]], Collection[str]] | None = None
) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint by name; those in nested dictionaries by dotted name.

    Args:
        path: a file written by `torch.save`.
        pick: names to names that are wanted, asked before any tensor is read. None = all; where one nested
            dictionary holds all of them, without its name.

    Returns:
        Arrays that share their storages' memory, in the types of the file. Values that are no tensors
        (epoch, optimizer, arguments) are left out.

    Raises:
        WeightsError: damaged, hostile, or not a checkpoint.
    """
    path = pathlib.Path(path)
    with naming(path, "PyTorch checkpoint"), path.open("rb") as file:
        if zipfile.is_zipfile(file):
            built, raw = _read_archive(file, path.stat().st_size)
        else:
            file.seek(0)
            built, raw = _read_stream(file, path.stat().st_size)
        found = _named_tensors(built)
        if pick is not None:
            return _arrays({name: found[name] for name in pick(found)}, raw)
        alone = {name.split(".")[0] for name in found} if not set(built) & set(found) else set()
        outer = f"{alone.pop()}." if len(alone) == 1 else ""
        return _arrays({name.removeprefix(outer): tensor for name, tensor in found.items()}, raw)


def _read_archive(file: Any, size: int) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """Reads the zip format: <name>/data.pkl and one member <name>/data/<key> per storage."""
    archive = open_archive(file)
    members = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in members if name.split("/")[-1] == "data.pkl"]
    if len(roots) != 1:
        raise WeightsError(f"it holds {len(roots)} data.pkl, a PyTorch checkpoint holds one.")
    root = roots[0]
    # torch stores, never compresses, all but TorchScript's code, which is not read: so nothing unpacks to
    # more than the file, and nothing overlaps.
    read = [info for name, info in members.items() if not name.startswith(f"{root}code/")]
    if any(info.compress_type != zipfile.ZIP_STORED for info in read):
        raise WeightsError("its zip members are compressed, which torch never does; refused.")
    if sum(info.file_size for info in read) > size:
        raise WeightsError("its zip members claim more bytes than the file has; refused.")
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
        raise WeightsError("its numbers are not little-endian; save it again on such a machine.")
    if members[f"{root}data.pkl"].file_size > _MAX_PICKLE:
        raise WeightsError(f"its pickle is larger than {_MAX_PICKLE} bytes; refused.")
    with archive.open(f"{root}data.pkl") as pickled:
        built = interpret(pickled)

    def raw(storage: Storage) -> np.ndarray:
        name = f"{root}data/{storage.key}"
        if name not in members:
            raise WeightsError(f"storage {storage.key!r} is missing; fetch it again.")
        return np.frombuffer(archive.read(name), np.uint8)

    return built, raw


def _read_stream(file: Any, size: int) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """Reads the older format: five pickles one after another, then every storage with its length."""
    if file.read(1) != b"\x80":
        raise WeightsError(
            "it is no PyTorch checkpoint (neither a zip archive nor a pickle); check the file."
        )
    file.seek(0)
    pickles = _Limited(file)
    if interpret(pickles) != _LEGACY_MAGIC:
        raise WeightsError("it is a pickle but no PyTorch checkpoint; check the file.")
    interpret(pickles)
    system = interpret(pickles)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("its numbers are not little-endian; save it again on such a machine.")
    storages: dict[str, Storage] = {}
    built = interpret(pickles, storages)
    keys = interpret(pickles)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("it does not list its storages; fetch it again.")
    spans: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in storages:
            raise WeightsError(f"it holds a storage {key!r} that no tensor uses; fetch it again.")
        (count,) = struct.unpack("<q", file.read(8))
        length = whole(count, "a storage's size") * np.dtype(storages[key].dtype).itemsize
        if file.tell() + length > size:
            raise WeightsError("it ends before its last tensor; fetch it again.")
        spans[key] = (file.tell(), length)
        file.seek(length, os.SEEK_CUR)

    def raw(storage: Storage) -> np.ndarray:
        if storage.key not in spans:
            raise WeightsError(f"storage {storage.key!r} is missing; fetch it again.")
        file.seek(spans[storage.key][0])
        return np.frombuffer(file.read(spans[storage.key][1]), np.uint8)

    return built, raw


class _Limited:
    """The pickles at the head of a stream: no instruction makes it read more than a checkpoint needs."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, _MAX_PICKLE

    def read(self, count: int) -> bytes:
        return self._count(self._file.read(min(count, self._left + 1)))

    def readline(self) -> bytes:
        return self._count(self._file.readline(self._left + 1))

    def _count(self, raw: bytes) -> bytes:
        self._left -= len(raw)
        if self._left < 0:
            raise WeightsError(f"its pickle is larger than {_MAX_PICKLE} bytes; refused.")
        return raw


def _named_tensors(built: Any) -> dict[str, Tensor]:
    """Tensors by name, in or under a dictionary."""
    if not isinstance(built, dict):
        raise WeightsError(f"it holds a {type(built).__name__}, expected a dictionary of tensors.")
    found = flatten(built, lambda value: isinstance(value, Tensor))
    if not found:
        entries = ", ".join(repr(entry)[:40] for entry in list(built)[:8])
        raise WeightsError(f"it holds no tensors; its entries: {entries}.")
    return found


def _arrays(found: dict[str, Tensor], raw: Callable[[Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors as views of their storages."""
    buffers: dict[str, np.ndarray] = {}
    arrays = {}
    for name, tensor in found.items():
        storage = tensor.storage
        if storage.key not in buffers:
            buffers[storage.key] = raw(storage)
        wanted = storage.count * np.dtype(storage.dtype).itemsize
        if buffers[storage.key].size < wanted:
            raise WeightsError(
                f"the storage of {name!r} has {buffers[storage.key].size} bytes, needs {wanted}."
            )
        if 0 in tensor.shape:
            arrays[name] = np.zeros(tensor.shape, storage.dtype)
            continue
        width = np.dtype(storage.dtype).itemsize
        flat = buffers[storage.key][: wanted // width * width].view(storage.dtype)
        arrays[name] = np.lib.stride_tricks.as_strided(
            flat[tensor.offset :], tensor.shape, tuple(s * width for s in tensor.strides), writeable=False
        )
    return arrays
