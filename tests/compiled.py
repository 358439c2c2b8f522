"""Functions as compiled programs: a test that calls one as it is compiles each of its operations."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

TRACED = ("epsilon", "price", "mass")


@functools.cache
def compiled(function: Callable) -> Callable:
    """The function as one program for the shapes and settings it is called with; gives NumPy arrays.

    What comes by position, arrays, dictionaries, and numbers named in `TRACED` are traced (not 1, at which
    partial transport is balanced); other settings are known before. Within another trace it is the function.
    """

    def run(*arrays: Any, **settings: Any) -> Any:
        if any(isinstance(x, Tracer) for x in jax.tree.leaves((arrays, settings))):
            return function(*arrays, **settings)
        kinds = (dict, np.ndarray, np.generic, jax.Array)
        traced = {n: x for n, x in settings.items() if isinstance(x, kinds) or (n in TRACED and x != 1)}
        known = tuple(sorted((name, x) for name, x in settings.items() if name not in traced))
        return on_host(_program(function, known)(arrays, traced))

    return run


@functools.cache
def _program(function: Callable, known: tuple) -> Callable:
    return jax.jit(lambda arrays, traced: function(*arrays, **traced, **dict(known)))


def on_host(tree: Any) -> Any:
    """A result with NumPy arrays for JAX's; unlike `jax.device_get` it calls no typed constructor."""
    if isinstance(tree, jax.Array):
        return np.asarray(tree)
    if isinstance(tree, dict):
        return {name: on_host(part) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = map(on_host, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree):
        new = copy.copy(tree)
        for field in dataclasses.fields(tree):
            object.__setattr__(new, field.name, on_host(getattr(tree, field.name)))
        return new
    return tree
