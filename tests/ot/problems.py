"""Seeded problems, and a plain float64 log-domain Sinkhorn to compare with."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.compiled import compiled
from vitjax import ot


class Programs:
    """The functions of `vitjax.ot`, compiled."""

    def __getattr__(self, name: str) -> Callable:
        return compiled(getattr(ot, name))


programs = Programs()


def changed(x: np.ndarray, index: Any, value: Any) -> np.ndarray:
    """A copy with other values at an index, written as `np.s_[...]`."""
    x = x.copy()
    x[index] = value
    return x


def problem(seed: int, *shape: int, zeros: bool = False, dtype=jnp.float32) -> tuple[np.ndarray, ...]:
    """Returns cost in [0, 2] and marginals; `zeros`: the first row and the last column weigh nothing."""
    rng = np.random.default_rng(seed)
    *batch, n, m = shape
    cost = rng.uniform(0, 2, shape)
    a, b = rng.dirichlet(np.ones(n), batch), rng.dirichlet(np.ones(m), batch)
    if zeros:
        a[..., 0], b[..., -1] = 0, 0
        a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    return tuple(x.astype(dtype) for x in (cost, a, b))


def tokens(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape) + 1.0
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("f")


def difference(run, point: list, i: int, step: np.ndarray, h: float) -> tuple[np.ndarray, float]:
    """Central difference of `run` along a step of its argument i, and the step that was taken.

    Arguments 1 and 2 are marginals and move within what they are: zeros stay zero, the sum stays 1.
    """
    if i in (1, 2):
        live = np.asarray(point[i]) > 0
        step = np.where(live, step, 0.0)
        step -= np.where(live, step.sum(-1, keepdims=True) / live.sum(-1, keepdims=True), 0.0)
    ahead, behind = ([*point[:i], point[i] + sign * h * step, *point[i + 1 :]] for sign in (1, -1))
    return step, float((run(*ahead) - run(*behind)) / (2 * h))


def reference_plan(cost, a, b, epsilon: float, mass: float = 1.0, iterations: int = 5000) -> np.ndarray:
    """Solves one problem in float64, partial transport as one problem with a dummy point on each side."""
    cost, a, b = (np.asarray(x, np.float64) for x in (cost, a, b))
    n, m = cost.shape
    if mass < 1:
        cost = np.pad(cost, ((0, 1), (0, 1)), constant_values=1.0)
        cost[n, m] = np.inf
        a, b = np.append(a, 1 - mass), np.append(b, 1 - mass)
    g = np.zeros(len(b))
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    for i in range(iterations):
        f, before = _dual(log_a, (g[None, :] - cost) / epsilon, 1), g
        g = _dual(log_b, f[:, None] - cost / epsilon, 0) * epsilon
        if i % 50 == 0 and np.allclose(g, before, rtol=0, atol=1e-15):
            break
    return np.exp(f[:, None] + (g[None, :] - cost) / epsilon)[:n, :m]


def _dual(log_mass: np.ndarray, exponent: np.ndarray, axis: int) -> np.ndarray:
    top = exponent.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(exponent - top).sum(axis)) + top.squeeze(axis)
    return np.where(np.isfinite(log_mass), log_mass - total, -np.inf)
