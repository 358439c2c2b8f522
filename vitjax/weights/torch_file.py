"""PyTorch checkpoints (.pth) as arrays, without torch: the two file formats around the pickle.

Source: torch/serialization.py; the zip archive of torch >= 1.6 and the stream of older versions.
"""

import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vitjax.weights.errors import WeightsError
from vitjax.weights.pickle_tensors import Storage, Tensor, interpret, whole

_MAX_PICKLE = 64 * 2**20  # bytes; the largest published ViT checkpoints need less than 1 MiB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# What zipfile, pickletools, struct and numpy raise on bytes that make no sense.
_DAMAGE = (
    ValueError, TypeError, LookupError, EOFError, OverflowError, AttributeError, MemoryError, OSError,
    NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# States nested in a training checkpoint, the usual names first.
_NESTED = ("model", "state_dict", "teacher", "model_state_dict", "module", "net")


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint by name; out of its entry "model", "state_dict" or "teacher" if there is one.

    Args:
        path: a file written by `torch.save`.

    Returns:
        Arrays that share their storages' memory, in the types of the file. Values that are no tensors
        (epoch, optimizer, arguments) are left out.

    Raises:
        WeightsError: damaged, hostile, or not a checkpoint.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        try:
            if zipfile.is_zipfile(file):
                return _tensors(*_read_archive(file, path.stat().st_size))
            file.seek(0)
            return _tensors(*_read_stream(file, path.stat().st_size))
        except WeightsError as error:
            raise WeightsError(f"weights file {str(path)!r}: {error}") from error
        except _DAMAGE as error:
            raise WeightsError(
                f"weights file {str(path)!r} is not a whole PyTorch checkpoint "
                f"({type(error).__name__}: {str(error)[:120]!r}); fetch it again."
            ) from error


def _read_archive(file: Any, size: int) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """Reads the zip format: <name>/data.pkl and one member <name>/data/<key> per storage."""
    archive = zipfile.ZipFile(file)
    members = {info.filename: info for info in archive.infolist()}
    # torch stores, never compresses: so nothing unpacks to more than the file, and nothing overlaps.
    if any(i.compress_type != zipfile.ZIP_STORED for i in members.values()):
        raise WeightsError("its zip members are compressed, which torch never does; refused.")
    if sum(info.file_size for info in archive.infolist()) > size:
        raise WeightsError("its zip members claim more bytes than the file has; refused.")
    roots = [name.removesuffix("data.pkl") for name in members if name.split("/")[-1] == "data.pkl"]
    if len(roots) != 1:
        raise WeightsError(f"it holds {len(roots)} data.pkl, a PyTorch checkpoint holds one.")
    root = roots[0]
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
    if interpret(file) != _LEGACY_MAGIC:
        raise WeightsError("it is a pickle but no PyTorch checkpoint; check the file.")
    interpret(file)
    system = interpret(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("its numbers are not little-endian; save it again on such a machine.")
    storages: dict[str, Storage] = {}
    built = interpret(file, storages)
    keys = interpret(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("it does not list its storages; fetch it again.")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in storages:
            raise WeightsError(f"it holds a storage {key!r} that no tensor uses; fetch it again.")
        (count,) = struct.unpack("<q", file.read(8))
        length = whole(count, "a storage's size") * np.dtype(storages[key].dtype).itemsize
        if file.tell() + length > size:
            raise WeightsError("it ends before its last tensor; fetch it again.")
        places[key] = (file.tell(), length)
        file.seek(length, os.SEEK_CUR)

    def raw(storage: Storage) -> np.ndarray:
        if storage.key not in places:
            raise WeightsError(f"storage {storage.key!r} is missing; fetch it again.")
        file.seek(places[storage.key][0])
        return np.frombuffer(file.read(places[storage.key][1]), np.uint8)

    return built, raw


def _tensors(built: Any, raw: Callable[[Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of the state dictionary, in or under `built`, as views of their storages."""
    state = built
    for _ in range(3):
        if not isinstance(state, dict):
            raise WeightsError(f"it holds a {type(built).__name__}, expected a dictionary of tensors.")
        inner = [state[name] for name in _NESTED if isinstance(state.get(name), dict)]
        if not inner:
            break
        state = inner[0]
    found = {
        name: value for name, value in state.items() if isinstance(value, Tensor) and isinstance(name, str)
    }
    if not found:
        raise WeightsError(
            f"it holds no tensors; its entries: {', '.join(repr(entry)[:40] for entry in list(state)[:8])}."
        )
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
