"""Weight files as flat {name: array}; nothing in a file is ever executed."""

import math
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import safetensors

from vitjax.weights.errors import WeightsError
from vitjax.weights.onnx_file import read_onnx
from vitjax.weights.torch_file import read_torch

_PICKLES = (".pth", ".pt", ".bin", ".pth.tar", ".tar")
_SAFETENSORS_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

_TRAINED: dict[str, str] = dict.fromkeys(
    ("last.safetensors", "best.safetensors"),
    ", or run train.py first: it leaves one in its --workdir",
)


def read_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays of a weight file by their name in it.

    Args:
        path: .safetensors, .npz, .pth, .pt, .bin, .pth.tar (without torch) or .onnx (extra `onnx`).

    Returns:
        Arrays in the types of the file, some of them views of one buffer.

    Raises:
        WeightsError: the file is missing, damaged, hostile or of an unknown kind.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise WeightsError(f"weights file {str(path)!r} is a folder; give a file in it.")
    if not path.is_file():
        maker = _TRAINED.get(path.name, "")
        raise WeightsError(f"weights file {str(path)!r} does not exist; check the path{maker}.")
    source = f"weights file {str(path)!r}"
    try:
        if path.stat().st_size == 0:
            raise WeightsError(f"weights file {str(path)!r} is empty; fetch it again.")
        if path.suffix == ".safetensors":
            return check_state(_read_safetensors(path), source)
        if path.suffix == ".npz":
            return check_state(_read_npz(path), source)
        if path.suffix == ".onnx":
            return check_state(_read_onnx(path), source)
        if path.name.endswith(_PICKLES):
            return check_state(read_torch(path), source)
    except OSError as error:
        raise WeightsError(
            f"weights file {str(path)!r} cannot be read: {error.strerror or error}."
        ) from error
    raise WeightsError(
        f"weights file {str(path)!r} has an unknown ending; known: .safetensors .npz .onnx "
        f"{' '.join(_PICKLES)}."
    )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"weights file {str(path)!r} is not a whole safetensors file ({error}); fetch it again."
        ) from error
    state = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS_TYPES:
            raise WeightsError(
                f"weights file {str(path)!r}: {name!r} has type {tensor['dtype']}, not supported."
            )
        flat, shape = np.frombuffer(tensor["data"], _SAFETENSORS_TYPES[tensor["dtype"]]), tensor["shape"]
        if name in state or math.prod(shape) != flat.size or max(shape, default=0) > 2**40:
            raise WeightsError(f"weights file {str(path)!r}: {name!r} is there twice or has no shape.")
        state[name] = flat.reshape(shape)
    return state


def _read_onnx(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return read_onnx(path)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"weights file {str(path)!r} is not a whole .onnx of plain layers ({error}); fetch it again."
        ) from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(info.file_size for info in file.infolist())
            if len(set(file.namelist())) < len(file.namelist()):
                raise WeightsError(f"weights file {str(path)!r} holds a name twice; refused.")
        # Trained weights hardly compress; what unpacks to twenty times its size is made to fill the memory.
        if unpacked > max(64 * 2**20, 20 * path.stat().st_size):
            raise WeightsError(f"weights file {str(path)!r} unpacks to {unpacked} bytes; refused.")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (
        zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, NotImplementedError, struct.error,
        MemoryError, RuntimeError, SyntaxError, tokenize.TokenError,
    ) as error:  # fmt: skip
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"weights file {str(path)!r} is not a whole .npz of plain arrays ({error}); fetch it again."
        ) from error


def check_state(state: Mapping, source: str = "weights") -> dict[str, np.ndarray]:
    """Accepts arrays by name, from a file or handed over directly; torch tensors too.

    Args:
        state: the arrays.
        source: where they came from, for the message.

    Raises:
        WeightsError: a name that is no text, or a value that is no array of real numbers.
    """
    checked = {}
    for name, value in state.items():
        # A torch tensor may want gradients, or be of a type that NumPy lacks.
        array = np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
        if not isinstance(name, str) or not (array.dtype.kind in "fiub" or array.dtype == jnp.bfloat16):
            raise WeightsError(
                f"{source}: {name!r} is a {type(value).__name__} of {array.dtype}; "
                "expected an array of numbers."
            )
        checked[name] = array
    return checked
