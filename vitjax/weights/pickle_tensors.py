"""The pickle inside a PyTorch checkpoint, read without running anything that is written in it.

A pickle is a program; the usual reader looks up any function it names and calls it. The reader here is an
interpreter of its own for the few instructions checkpoints need. It can build numbers, text, containers
and tensors, and nothing else: a name outside one table is an error that quotes it, never an import; classes
of TorchScript are dictionaries of the tensors in them. Every tensor must lie within its storage and hold no
more elements than it.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.errors import WeightsError

_MAX_STEPS = 500_000  # the largest training states of published ViTs take a third
_MAX_COPIED = 2_000_000
_MAX_NAME = 300  # characters
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
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Global:
    """A name the table knows; `build` is called with the arguments the file gives, if it can be called."""

    name: str
    build: Callable[..., Any] | None = None
    dtype: Any = None


@dataclass(frozen=True)
class Storage:
    """A run of numbers of one type that tensors are views of; `count` is in elements."""

    key: str
    dtype: Any
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, known to lie within it; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Stateful:
    """What a pickle may build first and fill afterwards."""

    def fill(self, state: Any) -> None:
        """Takes what the pickle says of it."""
        raise NotImplementedError


class Module(dict[Any, Any], Stateful):
    """The tensors of a TorchScript module by dotted name, those of the modules in it too."""

    def fill(self, state: Any) -> None:
        """Takes the attributes of the module, which are complete by then."""
        for key, value in state.items() if type(state) is dict else ():
            if isinstance(value, Tensor):
                self[key] = value
            elif isinstance(value, Module):
                if len(key) + max(map(len, value), default=0) > _MAX_NAME:
                    raise WeightsError(f"it names a tensor by more than {_MAX_NAME} characters; refused.")
                self.update({f"{key}.{name}": tensor for name, tensor in value.items()})


class _Ignored:
    """Stands for an object whose content is of no use: the command line of a run, its best accuracy."""


def _ignored(*args: Any) -> _Ignored:
    return _Ignored()


def _number_type(name: Any = None, *rest: Any) -> _Ignored:
    # A NumPy type that is no number or text may hold any object.
    if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?[?biufcSUmM]\d{0,8}", name):
        raise WeightsError(f"the file holds a NumPy value of type {str(name)[:40]!r}, no number; refused.")
    return _Ignored()


def _scalar(dtype: Any = None, *rest: Any) -> _Ignored:
    if not isinstance(dtype, _Ignored):
        raise WeightsError("a NumPy scalar has no type; refused.")
    return _Ignored()


def whole(value: Any, what: str) -> int:
    """Passes a plausible count on, and raises on anything else."""
    if type(value) is not int or not 0 <= value < 2**62:
        raise WeightsError(f"{what} is {value if isinstance(value, int) else type(value).__name__}; refused.")
    return value


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise WeightsError("a tensor is not described by a storage, a shape and strides; refused.")
    if len(shape) != len(strides) or len(shape) > 8:
        raise WeightsError(f"a tensor has {len(shape)} dimensions and {len(strides)} strides; refused.")
    shape = tuple(whole(s, "a tensor's size") for s in shape)
    strides = tuple(whole(s, "a tensor's stride") for s in strides)
    offset = whole(offset, "a tensor's offset")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
        raise WeightsError(
            f"a tensor of shape {shape}, strides {strides}, offset {offset} does not lie within its storage "
            f"of {storage.count} elements; refused."
        )
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *rest: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
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


class _Key(str):
    """A key that is no text, in words: numbers can be made to have one hash, text cannot."""


def _key(value: Any) -> str:
    # Only plain values: hashing a tuple nested a million deep would overflow the stack of the interpreter.
    if isinstance(value, str):
        return value
    if not isinstance(value, (int, float, bytes, type(None))):
        raise WeightsError(f"a dictionary key is a {type(value).__name__}; refused.")
    return _Key(f"{type(value).__name__} {hex(value) if isinstance(value, int) else value!r}")


_GLOBALS = {
    ("collections", "OrderedDict"): Global("OrderedDict", _ordered_dict),
    ("builtins", "dict"): Global("dict", _ordered_dict),
    ("builtins", "list"): Global("list", _plain_items),
    ("builtins", "tuple"): Global("tuple", lambda items=(): tuple(_plain_items(items))),
    ("builtins", "set"): Global("set", lambda items=(): {_key(item) for item in _plain_items(items)}),
    ("torch", "Size"): Global("Size", lambda items=(): tuple(_plain_items(items))),
    ("torch", "device"): Global("device", _ignored),
    ("argparse", "Namespace"): Global("Namespace", _ignored),
    ("numpy", "dtype"): Global("dtype", _number_type),
    ("numpy._core.multiarray", "scalar"): Global("scalar", _scalar),
    ("numpy.core.multiarray", "scalar"): Global("scalar", _scalar),
    # Bytes, of a NumPy scalar for one, as the pickles that torch writes spell them.
    ("_codecs", "encode"): Global("encode", _ignored),
    ("builtins", "bytes"): Global("bytes", _ignored),
    ("torch._utils", "_rebuild_tensor"): Global("_rebuild_tensor", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Global("_rebuild_tensor_v2", _rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Global("_rebuild_parameter", _rebuild_parameter),
    **{("torch", name): Global(name, dtype=dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): Global(name) for name in _TYPES},
    **{
        (module, "UntypedStorage"): Global("UntypedStorage", dtype=np.uint8)
        for module in ("torch", "torch.storage")
    },
}
_GLOBALS |= {
    ("__builtin__", name): entry for (module, name), entry in _GLOBALS.items() if module == "builtins"
}


def _global(module: Any, name: Any) -> Global:
    # Text first: other things may be too deep to hash.
    if not (isinstance(module, str) and isinstance(name, str)):
        raise WeightsError("its pickle names a function by something that is no text; refused.")
    if f"{module}.".startswith("__torch__."):  # a class that TorchScript compiled; its code is not read
        return Global(name, lambda *args: Module())
    if (module, name) not in _GLOBALS:
        raise WeightsError(
            f"the file asks for {f'{module}.{name}'[:200]!r}, which is no tensor or container; refused, "
            "nothing was run. If you trust the file, save its state_dict() as .safetensors."
        )
    return _GLOBALS[module, name]


def _storage(key: Any) -> Storage:
    if type(key) is not tuple or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], Global):
        raise WeightsError("a tensor does not name its storage; refused.")
    if key[1].dtype is None or not isinstance(key[2], str) or (len(key) > 5 and key[5] is not None):
        raise WeightsError(f"storage {str(key[2])[:40]!r} is of an unknown kind; refused.")
    return Storage(key[2], key[1].dtype, whole(key[4], "a storage's size"))


class _Mark:
    """Where a run of items starts on the stack."""


Find = Callable[[Any, Any], Global]


def interpret(file: Any, storages: dict[str, Storage] | None = None, *, find: Find = _global) -> Any:
    """Runs one pickle up to its STOP and returns what it built; notes every storage it names.

    Args:
        file: open for reading.
        storages: filled with those of tensors.
        find: (module, name) -> what the pickle may call by that name; raises where there is none.

    Raises:
        WeightsError: the pickle wants something that no checkpoint needs; damaged ones also raise what
            `pickletools` does, IndexError, KeyError or TypeError.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    copied = 0
    for step, (opcode, arg, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if step > _MAX_STEPS:
            raise WeightsError(f"its pickle has more than {_MAX_STEPS} instructions; refused.")
        if name == "STOP":
            return stack.pop()
        if name in _LITERALS:
            stack.append(arg)
        elif name in _PUT:
            memo[len(memo) if arg is None else whole(arg, "a memo's number")] = stack[-1]
        elif name in _GET:
            stack.append(memo[arg])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(find(*(str(arg).split(" ", 1) if name == "GLOBAL" else _take(stack, 2))))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _RULES:
            copied += _items_of_call(stack) if name in ("REDUCE", "NEWOBJ") else 0
            copied += _items_of_state(stack) if name == "BUILD" else 0
            if copied > _MAX_COPIED:  # more than any file can hold once
                raise WeightsError(f"its pickle copies more than {_MAX_COPIED} items; refused.")
            _RULES[name](stack)
        elif name not in _SKIP:
            raise WeightsError(f"its pickle uses the instruction {name}, which no checkpoint needs; refused.")
        if name == "BINPERSID" and storages is not None:
            storages[stack[-1].key] = stack[-1]
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


def _items_of_call(stack: list) -> int:
    """How many items the container that a call is about to build takes."""
    args = stack[-1] if stack else ()
    return sum(len(x) for x in args if isinstance(x, (list, tuple))) if type(args) is tuple else 0


def _items_of_state(stack: list) -> int:
    """How many tensors a module is about to take from the modules in it."""
    state = stack[-1] if stack else {}
    return sum(len(x) for x in state.values() if isinstance(x, Module)) if type(state) is dict else 0


def _reduce(stack: list) -> None:
    called, args = _take(stack, 2)
    if not isinstance(called, Global) or called.build is None or type(args) is not tuple:
        raise WeightsError(
            "its pickle calls something that is no tensor or container; refused, nothing was run."
        )
    stack.append(called.build(*args))


def _set_state(stack: list) -> None:
    # What is attached to an OrderedDict (its _metadata) or a Namespace is of no use to us.
    target, state = _take(stack, 2)
    if isinstance(target, Stateful):
        target.fill(state)
    elif not isinstance(target, (dict, _Ignored)):
        raise WeightsError("its pickle changes an object's attributes; refused.")
    stack.append(target)


def _set_items(stack: list, items: list) -> None:
    if not stack or type(stack[-1]) is not dict:
        raise WeightsError("its pickle fills something that is no dictionary; refused.")
    stack[-1].update(_paired(items))


def _paired(items: list) -> dict:
    return {_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _append(stack: list, items: list) -> None:
    if not stack or type(stack[-1]) not in (list, set):
        raise WeightsError("its pickle fills something that is no list; refused.")
    if type(stack[-1]) is list:
        stack[-1].extend(items)
    else:
        stack[-1].update(map(_key, items))


_SKIP = {"PROTO", "FRAME"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BYTEARRAY8",
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
_RULES: dict[str, Callable[[list], object]] = {
    "POP": lambda s: _take(s, 1),
    "POP_MARK": _since_mark,
    "DUP": lambda s: s.append(s[-1]),
    "TUPLE": lambda s: s.append(tuple(_since_mark(s))),
    "TUPLE1": lambda s: s.append(_take(s, 1)),
    "TUPLE2": lambda s: s.append(_take(s, 2)),
    "TUPLE3": lambda s: s.append(_take(s, 3)),
    "LIST": lambda s: s.append(_since_mark(s)),
    "DICT": lambda s: s.append(_paired(_since_mark(s))),
    "APPEND": lambda s: _append(s, list(_take(s, 1))),
    "APPENDS": lambda s: _append(s, _since_mark(s)),
    "ADDITEMS": lambda s: _append(s, _since_mark(s)),
    "SETITEM": lambda s: _set_items(s, list(_take(s, 2))),
    "SETITEMS": lambda s: _set_items(s, _since_mark(s)),
    "BINPERSID": lambda s: s.append(_storage(*_take(s, 1))),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "BUILD": _set_state,
}
