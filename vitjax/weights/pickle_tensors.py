"""PyTorch checkpoints (.pth) read without torch and without running anything that is written in them.

A pickle is a program; the usual reader looks up any function it names and calls it. The reader here is an
interpreter of its own for the few instructions checkpoints need. It can build numbers, text, containers
and tensors, and nothing else: a name outside one table is an error that quotes it, never an import. Every
tensor must lie within its storage and hold no more elements than it.

Formats: the zip archive of torch >= 1.6 and the stream of older versions (torch/serialization.py).
"""

import math
import os
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from vitjax.weights.errors import WeightsError

_MAX_PICKLE = 64 * 2**20  # bytes; the largest published ViT checkpoints need less than 1 MiB
_MAX_STEPS = 5_000_000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_DTYPES = {
    "float64": np.float64,
    "double": np.float64,
    "float32": np.float32,
    "float": np.float32,
    "float16": np.float16,
    "half": np.float16,
    "bfloat16": jnp.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
# States nested in a training checkpoint, the usual names first.
_NESTED = ("model", "state_dict", "teacher", "model_state_dict", "module", "net")


def read_pickle(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint by name, out of the entry "model", "state_dict" or "teacher" where there is one.

    Args:
        path: a file written by `torch.save`.

    Returns:
        Arrays that share their storages' memory, in the types of the file. Values that are no tensors
        (epoch, optimizer, arguments) are left out.

    Raises:
        WeightsError: damaged, hostile, or not a checkpoint.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _tensors(*_read_archive(file, path.stat().st_size))
            file.seek(0)
            return _tensors(*_read_stream(file, path.stat().st_size))
    except WeightsError as error:
        raise WeightsError(f"weights file {str(path)!r}: {error}") from error
    except (
        ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError, MemoryError,
        NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, RecursionError, UnicodeError,
    ) as error:  # fmt: skip
        raise WeightsError(
            f"weights file {str(path)!r} is not a whole PyTorch checkpoint "
            f"({type(error).__name__}: {str(error)[:120]}); fetch it again."
        ) from error


@dataclass(frozen=True)
class _Global:
    """A name the table knows; `build` is called with the arguments the file gives, if it is callable at all."""

    name: str
    build: Callable[..., Any] | None = None
    dtype: Any = None


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: Any
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


class _Ignored:
    """Stands for an object whose content is of no use, such as the command line of a training run."""


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise WeightsError(f"{what} is {value if isinstance(value, int) else type(value).__name__}; refused.")
    return value


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any, dtype: Any = None) -> _Tensor:
    if not isinstance(storage, _Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise WeightsError("a tensor is not described by a storage, a shape and strides; refused.")
    if len(shape) != len(strides) or len(shape) > 8:
        raise WeightsError(f"a tensor has {len(shape)} dimensions and {len(strides)} strides; refused.")
    shape = tuple(_whole(s, "a tensor's size") for s in shape)
    strides = tuple(_whole(s, "a tensor's stride") for s in strides)
    offset = _whole(offset, "a tensor's offset")
    dtype = np.dtype(storage.dtype if dtype is None else dtype)
    room = storage.count
    if dtype != np.dtype(storage.dtype):
        room = storage.count * np.dtype(storage.dtype).itemsize // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    elements = math.prod(max(1, size) for size in shape)
    if elements > max(1, room) or (0 not in shape and last >= room):
        raise WeightsError(
            f"a tensor of shape {shape}, strides {strides}, offset {offset} does not lie within its storage of "
            f"{room} elements; refused."
        )
    return _Tensor(storage, offset, shape, strides, dtype)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    if len(rest) < 3 or not isinstance(rest[2], _Global) or rest[2].dtype is None:
        raise WeightsError("a tensor does not say its type; refused.")
    return _rebuild_tensor(storage, offset, shape, strides, dtype=rest[2].dtype)


def _rebuild_parameter(tensor: Any, *rest: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise WeightsError("a parameter holds no tensor; refused.")
    return tensor


def _plain_items(items: Any = ()) -> list:
    if not isinstance(items, (list, tuple)):
        raise WeightsError("a container is not built from a list; refused.")
    return list(items)


def _ordered_dict(items: Any = ()) -> dict:
    built: dict = {}
    for pair in _plain_items(items):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise WeightsError("a dictionary is not built from pairs; refused.")
        built[_key(pair[0])] = pair[1]
    return built


def _key(value: Any) -> Any:
    # Only plain values: hashing a tuple nested a million deep would overflow the stack of the interpreter.
    if not isinstance(value, (str, int, float, bytes, type(None))):
        raise WeightsError(f"a dictionary key is a {type(value).__name__}; refused.")
    return value


_GLOBALS = {
    ("collections", "OrderedDict"): _Global("OrderedDict", _ordered_dict),
    ("builtins", "dict"): _Global("dict", _ordered_dict),
    ("builtins", "list"): _Global("list", _plain_items),
    ("builtins", "tuple"): _Global("tuple", lambda items=(): tuple(_plain_items(items))),
    ("builtins", "set"): _Global("set", lambda items=(): {_key(item) for item in _plain_items(items)}),
    ("torch", "Size"): _Global("Size", lambda items=(): tuple(_plain_items(items))),
    ("torch", "device"): _Global("device", lambda *_: _Ignored()),
    ("argparse", "Namespace"): _Global("Namespace", lambda *_: _Ignored()),
    ("torch._utils", "_rebuild_tensor"): _Global("_rebuild_tensor", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Global("_rebuild_tensor_v2", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Global("_rebuild_tensor_v3", _rebuild_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Global("_rebuild_parameter", _rebuild_parameter),
    **{("torch", name): _Global(name, dtype=dtype) for name, dtype in (_STORAGES | _DTYPES).items()},
    **{
        ("torch.storage", name): _Global(name, dtype=np.uint8)
        for name in ("UntypedStorage", "TypedStorage", "_UntypedStorage")
    },
    ("torch", "UntypedStorage"): _Global("UntypedStorage", dtype=np.uint8),
}
_GLOBALS |= {("__builtin__", name): entry for (module, name), entry in _GLOBALS.items() if module == "builtins"}


def _global(module: Any, name: Any) -> _Global:
    if (module, name) not in _GLOBALS:
        raise WeightsError(
            f"the file asks for {f'{module}.{name}'[:200]!r}, which is no tensor or container; refused, nothing was run. "
            f"If you trust the file, convert it to .safetensors."
        )
    return _GLOBALS[module, name]


def _storage(key: Any) -> _Storage:
    if type(key) is not tuple or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], _Global):
        raise WeightsError("a tensor does not name its storage; refused.")
    if key[1].dtype is None or not isinstance(key[2], str) or (len(key) > 5 and key[5] is not None):
        raise WeightsError(f"storage {str(key[2])[:40]!r} is of an unknown kind; refused.")
    return _Storage(key[2], key[1].dtype, _whole(key[4], "a storage's size"))


class _Mark:
    """Where a run of items starts on the stack."""


def _interpret(file: IO[bytes]) -> Any:
    """Runs one pickle up to its STOP and returns what it built."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for step, (opcode, arg, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if step > _MAX_STEPS:
            raise WeightsError(f"its pickle has more than {_MAX_STEPS} instructions; refused.")
        if name in _SKIP:
            continue
        if name == "STOP":
            return stack.pop()
        if name in _LITERALS:
            stack.append(arg)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[arg])
        elif name == "GLOBAL":
            stack.append(_global(*arg.split(" ", 1)))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _RULES:
            _RULES[name](stack)
        else:
            raise WeightsError(f"its pickle uses the instruction {name}, which no checkpoint needs; refused.")
    raise WeightsError("its pickle has no end; fetch it again.")


def _since_mark(stack: list) -> list:
    at = len(stack) - 1
    while not isinstance(stack[at], _Mark):
        at -= 1
        if at < 0:
            raise WeightsError("its pickle takes items that are not there; fetch it again.")
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _take(stack: list, count: int) -> tuple:
    if count > len(stack):
        raise WeightsError("its pickle takes items that are not there; fetch it again.")
    items = tuple(stack[len(stack) - count :])
    del stack[len(stack) - count :]
    return items


def _reduce(stack: list) -> None:
    called, args = _take(stack, 2)
    if not isinstance(called, _Global) or called.build is None or type(args) is not tuple:
        raise WeightsError("its pickle calls something that is no tensor or container; refused, nothing was run.")
    stack.append(called.build(*args))


def _set_state(stack: list) -> None:
    # What is attached to an OrderedDict (its _metadata) or a Namespace is of no use to us.
    target, _ = _take(stack, 2)
    if not isinstance(target, (dict, _Ignored)):
        raise WeightsError("its pickle changes an object's attributes; refused.")
    stack.append(target)


def _set_items(stack: list, items: list) -> None:
    if not stack or type(stack[-1]) is not dict or len(items) % 2:
        raise WeightsError("its pickle fills something that is no dictionary; refused.")
    stack[-1].update((_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))


def _append(stack: list, items: list) -> None:
    if not stack or type(stack[-1]) not in (list, set):
        raise WeightsError("its pickle fills something that is no list; refused.")
    if type(stack[-1]) is list:
        stack[-1].extend(items)
    else:
        stack[-1].update(map(_key, items))


_SKIP = {"PROTO", "FRAME"}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": _Mark,
}
_RULES: dict[str, Callable[[list], None]] = {
    "POP": lambda s: _take(s, 1) and None,
    "POP_MARK": lambda s: _since_mark(s) and None,
    "DUP": lambda s: s.append(s[-1]),
    "TUPLE": lambda s: s.append(tuple(_since_mark(s))),
    "TUPLE1": lambda s: s.append(_take(s, 1)),
    "TUPLE2": lambda s: s.append(_take(s, 2)),
    "TUPLE3": lambda s: s.append(_take(s, 3)),
    "LIST": lambda s: s.append(_since_mark(s)),
    "DICT": lambda s: (items := _since_mark(s), s.append({}), _set_items(s, items)) and None,
    "APPEND": lambda s: _append(s, list(_take(s, 1))),
    "APPENDS": lambda s: _append(s, _since_mark(s)),
    "ADDITEMS": lambda s: _append(s, _since_mark(s)),
    "SETITEM": lambda s: _set_items(s, list(_take(s, 2))),
    "SETITEMS": lambda s: _set_items(s, _since_mark(s)),
    "STACK_GLOBAL": lambda s: s.append(_global(*_take(s, 2))),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "BUILD": _set_state,
    "BINPERSID": lambda s: s.append(_storage(*_take(s, 1))),
}


def _read_archive(file: IO[bytes], size: int) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
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
        built = _interpret(pickled)

    def raw(storage: _Storage) -> np.ndarray:
        name = f"{root}data/{storage.key}"
        if name not in members:
            raise WeightsError(f"storage {storage.key!r} is missing; fetch it again.")
        return np.frombuffer(archive.read(name), np.uint8)

    return built, raw


def _read_stream(file: IO[bytes], size: int) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Reads the older format: five pickles one after another, then every storage with its length."""
    if file.read(1) != b"\x80":
        raise WeightsError("it is no PyTorch checkpoint (neither a zip archive nor a pickle); check the file.")
    file.seek(0)
    if _interpret(file) != _LEGACY_MAGIC:
        raise WeightsError("it is a pickle but no PyTorch checkpoint; check the file.")
    _interpret(file)
    system = _interpret(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("its numbers are not little-endian; save it again on such a machine.")
    built = _interpret(file)
    keys = _interpret(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("it does not list its storages; fetch it again.")
    places: dict[str, tuple[int, int]] = {}
    widths = {s.key: np.dtype(s.dtype).itemsize for s in _storages(built)}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        bytes_ = _whole(count, "a storage's size") * widths.get(key, 1)
        if file.tell() + bytes_ > size:
            raise WeightsError("it ends before its last tensor; fetch it again.")
        places[key] = (file.tell(), bytes_)
        if key not in widths:
            raise WeightsError(f"storage {key!r} belongs to no tensor we can find; convert it to .safetensors.")
        file.seek(bytes_, os.SEEK_CUR)

    def raw(storage: _Storage) -> np.ndarray:
        if storage.key not in places:
            raise WeightsError(f"storage {storage.key!r} is missing; fetch it again.")
        file.seek(places[storage.key][0])
        return np.frombuffer(file.read(places[storage.key][1]), np.uint8)

    return built, raw


def _tensors(built: Any, raw: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of the state dictionary, in or under `built`, as views of their storages."""
    state = built
    for _ in range(3):
        if not isinstance(state, dict):
            raise WeightsError(f"it holds a {type(built).__name__}, expected a dictionary of tensors.")
        inner = [state[name] for name in _NESTED if isinstance(state.get(name), dict)]
        if not inner:
            break
        state = inner[0]
    found = {name: value for name, value in state.items() if isinstance(value, _Tensor) and isinstance(name, str)}
    if not found:
        raise WeightsError(f"it holds no tensors; its entries: {', '.join(map(repr, list(state)[:8]))}.")
    buffers: dict[str, np.ndarray] = {}
    arrays = {}
    for name, tensor in found.items():
        storage = tensor.storage
        if storage.key not in buffers:
            buffers[storage.key] = raw(storage)
        wanted = storage.count * np.dtype(storage.dtype).itemsize
        if buffers[storage.key].size < wanted:
            raise WeightsError(f"the storage of {name!r} has {buffers[storage.key].size} bytes, needs {wanted}.")
        width = tensor.dtype.itemsize
        flat = buffers[storage.key][: wanted // width * width].view(tensor.dtype)
        arrays[name] = np.lib.stride_tricks.as_strided(
            flat[tensor.offset :], tensor.shape, tuple(s * width for s in tensor.strides), writeable=False
        )
    return arrays
