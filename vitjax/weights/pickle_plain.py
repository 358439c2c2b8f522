"""Pickles of numbers, text, containers and arrays, read without running what is written in them.

The interpreter is that of PyTorch checkpoints (`pickle_tensors`), with another table of names: a pickle that
names anything but an array or a number of NumPy is refused.
"""

import os
import re
from typing import Any

import numpy as np

from vitjax.errors import UserError, WeightsError
from vitjax.system.files import expanded
from vitjax.weights.pickle_tensors import Global, Stateful, interpret

_MOST_BYTES = 2**26  # ground truths of published sets have a few million
_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]")


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """What a pickle holds: numbers, text, None, lists, tuples, dictionaries with text as keys, and arrays.

    Args:
        path: the file, of any pickle protocol; as Python 2 wrote it, too.

    Raises:
        UserError: the file is missing, damaged, or asks for anything else; nothing in it was run.
    """
    try:
        with open(expanded(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise UserError(f"{os.fspath(path)} has more than {_MOST_BYTES} bytes; refused")
            return _finished(interpret(file, find=_find))
    except FileNotFoundError:
        raise UserError(f"{os.fspath(path)} does not exist; is the download whole?") from None
    except WeightsError as error:
        raise UserError(f"{os.fspath(path)} is not read: {error}") from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        line = " ".join(str(error).split())[:120]
        raise UserError(
            f"{os.fspath(path)} is no pickle that can be read ({line}); download it again"
        ) from None


class _Type(Stateful):
    """A number type of NumPy, of which the byte order follows."""

    def __init__(self, name: Any = None, *rest: Any) -> None:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise WeightsError(f"it holds a NumPy value of type {str(name)[:40]!r}, no number; refused.")
        self.dtype = np.dtype(name)

    def fill(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise WeightsError("a NumPy type has no byte order; refused.")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(Stateful):
    """An array of numbers, of which shape, type and bytes follow."""

    values: np.ndarray | None = None

    def fill(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightsError("an array is not described by shape, type and bytes; refused.")
        _, shape, kind, by_columns, data = state
        if not (isinstance(kind, _Type) and isinstance(shape, tuple) and all(type(n) is int for n in shape)):
            raise WeightsError("an array is not described by shape, type and bytes; refused.")
        values = np.frombuffer(_bytes(data), kind.dtype)
        if min(shape, default=0) < 0 or int(np.prod(shape, dtype=np.float64)) != values.size:
            raise WeightsError(f"an array of shape {shape} has {values.size} numbers; refused.")
        self.values = values.reshape(shape, order="F" if by_columns is True else "C")


def _bytes(data: Any) -> bytes | bytearray:
    """Bytes as Python 3 pickles them, or as text of one byte a letter, which Python 2 did."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise WeightsError(f"the numbers of an array are a {type(data).__name__}; refused.")
    return data


def _from_buffer(
    data: Any = None, kind: Any = None, shape: Any = None, order: Any = "C", *rest: Any
) -> _Array:
    array = _Array()
    array.fill((1, shape, kind, order == "F", data))
    return array


def _encoded(text: Any = None, code: Any = None) -> bytes:
    if not isinstance(text, str) or code not in ("latin1", "latin-1"):
        raise WeightsError("bytes are not spelt as text of one byte a letter; refused.")
    return text.encode("latin-1")


def _scalar(kind: Any = None, data: Any = None) -> Any:
    if not isinstance(kind, _Type):
        raise WeightsError("a NumPy number has no type; refused.")
    (value,) = np.frombuffer(_bytes(data), kind.dtype).tolist()
    return value


_NAMES = {
    ("numpy", "dtype"): Global("dtype", _Type),
    ("numpy", "ndarray"): Global("ndarray"),
    ("_codecs", "encode"): Global("encode", _encoded),
    ("numpy.core.numeric", "_frombuffer"): Global("_frombuffer", _from_buffer),
    ("numpy._core.numeric", "_frombuffer"): Global("_frombuffer", _from_buffer),
    # Empty bytes, as protocols below 3 spell them.
    **{(module, "bytes"): Global("bytes", lambda: b"") for module in ("builtins", "__builtin__")},
    **{
        (f"numpy.{core}.multiarray", name): Global(name, build)
        for core in ("core", "_core")
        for name, build in (("scalar", _scalar), ("_reconstruct", lambda *args: _Array()))
    },
}


def _find(module: Any, name: Any) -> Global:
    if not (isinstance(module, str) and isinstance(name, str)) or (module, name) not in _NAMES:
        raise WeightsError(f"it asks for {f'{module}.{name}'[:200]!r}, no number or array; nothing was run.")
    return _NAMES[module, name]


def _finished(value: Any) -> Any:
    """Arrays in place of what they were built as."""
    if isinstance(value, _Array):
        return np.zeros(0) if value.values is None else value.values
    if isinstance(value, dict):
        return {str(key): _finished(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_finished(item) for item in value)
    if not isinstance(value, str | bytes | int | float | type(None)):
        raise WeightsError(f"it holds a {type(value).__name__.strip('_')}; refused.")
    return value
