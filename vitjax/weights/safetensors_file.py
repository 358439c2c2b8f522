"""safetensors files, mapped into memory: the header is judged before any tensor is touched.

Source: the format's description in huggingface/safetensors, README.
"""

import math
import pathlib
import struct
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.errors import WeightsError
from vitjax.system.files import RepeatedName, parse_json

_MAX_HEADER = 100_000_000  # bytes, as in the format's own code
_MAX_DIMS = 32
_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(
    path: pathlib.Path, pick: Callable[[Collection[str]], Collection[str]] | None = None
) -> dict[str, np.ndarray]:
    """Tensors by name, as views of the file; see `vitjax.weights.read.read_state`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_MAX_HEADER, size - 8):
            raise WeightsError(f"its header claims {length} bytes; fetch it again.")
        text = file.read(length)
    try:
        header = parse_json(text)
    except RepeatedName:
        raise WeightsError("its header holds a name twice; refused.") from None
    if not isinstance(header, dict):
        raise WeightsError("its header is no list of tensors; fetch it again.")
    header.pop("__metadata__", None)
    room = size - 8 - length
    _check_offsets(header, room)
    # One byte more than nothing can be mapped.
    data = np.memmap(path, np.uint8, "r", offset=8 + length, shape=(room,)) if room else np.zeros(0, np.uint8)
    state = {}
    for name in header if pick is None else pick(header):
        dtype, shape, (start, end) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
        if dtype not in _TYPES:
            raise WeightsError(f"{name!r} has type {str(dtype)[:20]}, not supported.")
        kind = np.dtype(_TYPES[dtype])
        if math.prod(shape) * kind.itemsize != end - start:
            raise WeightsError(f"{name!r} has {end - start} bytes for shape {shape}; fetch it again.")
        state[name] = np.asarray(data[start:end]).view(kind).reshape(shape)
    return state


def _check_offsets(header: dict[str, Any], room: int) -> None:
    """Refuses shapes that cannot be, and offsets that overlap, leave gaps or do not end with the file."""
    offsets = []
    for name, tensor in header.items():
        if not isinstance(tensor, dict) or not {"dtype", "shape", "data_offsets"} <= set(tensor):
            raise WeightsError(f"{name[:80]!r} has no type, shape or offsets; fetch it again.")
        shape, span = tensor["shape"], tensor["data_offsets"]
        if not isinstance(shape, list) or len(shape) > _MAX_DIMS or not all(map(_is_count, shape)):
            raise WeightsError(f"{name[:80]!r} has shape {str(shape)[:80]}; refused.")
        if math.prod(max(side, 1) for side in shape) >= 2**56:
            raise WeightsError(f"{name[:80]!r} has shape {str(shape)[:80]}; refused.")
        if not isinstance(span, list) or len(span) != 2 or not all(map(_is_count, span)):
            raise WeightsError(f"{name[:80]!r} lies at {str(span)[:80]}; fetch it again.")
        offsets.append((*span, name))
    at = 0
    for start, end, name in sorted(offsets):
        if start != at or end < start:
            raise WeightsError(
                f"{name[:80]!r} lies at bytes {start} to {end}, expected {at}; fetch it again."
            )
        at = end
    if at != room:
        raise WeightsError(f"it has {room} bytes of tensors where its header tells of {at}; fetch it again.")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48
