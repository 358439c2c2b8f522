"""Ranges of numbers, one check for Python, NumPy and JAX values; what is traced is left alone."""

import math
from typing import Any

import jax.core
import numpy as np

from vitjax.errors import UserError


def known(value: Any) -> np.ndarray | None:
    """The value on the host; None where it is traced, or held by other processes."""
    if isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(value)


def known_number(value: Any) -> float | None:
    """One number that is known before tracing, whatever its type; None for anything else."""
    found = known(value)
    return None if found is None or found.ndim else float(found)


def check(
    where: str,
    name: str,
    value: Any,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    above: bool = False,
) -> None:
    """Refuses NaN, infinities and numbers outside of [low, high] as far as they are known.

    Args:
        where: begins the message.
        name: of the argument.
        value: a number, or an array of them.
        low: least number allowed.
        high: largest number allowed.
        above: whether `low` itself is out.

    Raises:
        ValueError: naming the first number that is out of range.

    >>> check("sinkhorn", "epsilon", np.float32(-1), 0, above=True)
    Traceback (most recent call last):
    ...
    vitjax.errors.UserError: sinkhorn: epsilon is -1.0; it must be above 0
    """
    found = known(value)
    if found is None:
        return
    wide = found.astype(np.float64)  # bfloat16 warns where NaN is compared
    good = np.isfinite(wide) & (wide <= high) & (wide > low if above else wide >= low)
    if good.all():
        return
    if math.isinf(high):
        wanted = "finite" if math.isinf(low) else f"{'above' if above else 'at least'} {low}"
    else:
        wanted = f"above {low} and at most {high}" if above else f"from {low} to {high}"
    first = found[~good].flat[0]
    if math.isinf(first) and wanted != "finite":
        wanted += " and finite"
    raise UserError(f"{where}: {name} is {first}; it must be {wanted}")
