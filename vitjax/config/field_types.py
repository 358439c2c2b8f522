"""Type checks of config values against their annotations; both programs run them first."""

import dataclasses
import math
import numbers
import os
import types
from typing import Annotated, Any, get_args, get_origin

INT32 = 2**31 - 1  # whole numbers end up in arrays of 32 bits
FLOAT32 = (2 - 2**-23) * 2.0**127  # the largest


def wrong_kinds(config: Any, prefix: str = "config") -> list[str]:
    """One line for each field, nested ones included, whose value is of another kind or fits no array.

    Scalars of NumPy and JAX count as Python's. Ranges of single fields are not looked at.
    """
    found = []
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}.{item.name}"
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            if isinstance(value, item.type):
                found += wrong_kinds(value, name)
            else:
                found.append(f"{name} is {_shown(value)}; it must be a {item.type.__name__}")
        elif not _is_of(value, item.type):
            found.append(f"{name} is {_shown(value)}; it must be {_asked(item.type)}")
    return found


def is_number(value: Any) -> bool:
    """Whether a value is a number of Python, NumPy or JAX that float32 can hold; no bool, NaN or infinity."""
    value = _plain(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and abs(float(value)) <= FLOAT32
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _plain(value: Any) -> Any:
    """A value of Python, also where it is a scalar or an array without dimensions."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _is_of(value: Any, kind: Any) -> bool:
    value = _plain(value)
    if get_origin(kind) is Annotated:
        return _is_of(value, get_args(kind)[0])
    if isinstance(kind, types.UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(_is_of(each, get_args(kind)[0]) for each in value)
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and is_number(value) and abs(value) <= INT32
    return is_number(value) if kind is float else isinstance(value, str | os.PathLike)


def _asked(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _asked(get_args(kind)[0])
    if isinstance(kind, types.UnionType):
        if any(get_origin(each) is tuple for each in get_args(kind)):
            return f"{_asked(get_args(kind)[0])}, or several"
        return "a finite number" + (" or a word" if str in get_args(kind) else "")
    if get_origin(kind) is tuple:
        return f"several, each {_asked(get_args(kind)[0])}"
    whole = f"a whole number from -{INT32} to {INT32}"
    return {bool: "True or False", int: whole, float: "a finite number"}.get(kind, "text")


def _shown(value: Any) -> str:
    """A value in short; a number of thousands of digits has no text."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
