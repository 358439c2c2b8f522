"""Offline inference with a number of tokens per image: images run in buckets of similar size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitjax.errors import UserError


class Bucket(NamedTuple):
    """Images that were run with the same ratio.

    Attributes:
        ratio: the share of tokens that each stage had room for; see `stage_ratios`.
        rows: (n,), which images these are, ascending.
        output: what `run` gave for them, on the host, n rows each.
    """

    ratio: float
    rows: np.ndarray
    output: dict[str, np.ndarray]


def bucketed(
    run: Callable[[Any, float], Mapping[str, Any]], images: Any, ratios: Sequence[float], *, batch_size: int
) -> list[Bucket]:
    """Runs a model of budget "own" so that every image keeps all the tokens its predictors want.

    All images begin with the first ratio. An image with overflow runs again with the first ratio whose
    first stage has room for it, and so on; with ratio 1 there is always room. Shapes: one batch size, one
    compilation for each ratio. Useful where most images fit a small ratio: the others are run again.

    Args:
        run: `(images, ratio) -> arrays by name`, jitted with the ratio static, each with one row per image.
            "overflow" and "scores" (of the first stage) must be among them, as a model with `budget="own"`
            gives them; what else is wanted is up to the caller.
        images: (n, ...), n at least 1.
        ratios: ascending, the last 1.
        batch_size: images per call; the last batch is padded with its first image.

    Returns:
        One bucket for each ratio that ended up with images.

    Raises:
        ValueError: ratios that do not ascend to 1.
    """
    ratios = [float(ratio) for ratio in ratios]
    if not ratios or ratios[-1] != 1 or sorted(set(ratios)) != ratios or ratios[0] <= 0:
        raise UserError(f"bucketed: ratios are {ratios}; expected ascending numbers above 0, the last 1.")
    bucket = np.zeros(len(images), int)  # of its ratio, for every image
    found = []
    for at, ratio in enumerate(ratios):
        rows = np.flatnonzero(bucket == at)
        parts = [
            _run(run, images, rows[i : i + batch_size], ratio, batch_size)
            for i in range(0, len(rows), batch_size)
        ]
        if not parts:
            continue
        output = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        fits = output["overflow"] == 0 if at + 1 < len(ratios) else np.ones(len(rows), bool)
        if fits.any():
            found.append(Bucket(ratio, rows[fits], {name: x[fits] for name, x in output.items()}))
        share = (output["scores"][..., 0] >= output["scores"][..., 1]).mean(axis=1)
        bucket[rows[~fits]] = np.maximum(np.searchsorted(ratios, share[~fits]), at + 1)
    return found


def _run(
    run: Callable, images: Any, rows: np.ndarray, ratio: float, batch_size: int
) -> dict[str, np.ndarray]:
    padded = np.concatenate([rows, np.repeat(rows[:1], batch_size - len(rows))])
    return {name: np.asarray(x)[: len(rows)] for name, x in run(images[padded], ratio).items()}
