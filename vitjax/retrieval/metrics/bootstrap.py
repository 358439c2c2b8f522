"""Bootstrap confidence intervals of means over queries."""

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
RESAMPLES = 1000
_BLOCK = 2**22  # draws at a time


def bootstrap_intervals(
    values: Float[np.ndarray, "q m"], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "m 2"]:
    """Intervals of the means of several columns over the same queries.

    Source: Efron 1979, the percentile bootstrap. Every resample draws as many queries as there are, with
    replacement, and takes all columns of a query together: so the interval of a column of differences is that
    of paired samples, far narrower than the two intervals it is the difference of. Queries are taken to be
    independent of each other; where they share images or places, the intervals are too narrow.

    Args:
        values: of each query; NaN = not counted.
        level: share of resamples whose mean lies inside.
        resamples: how many.
        seed: of the draws.

    Returns:
        lower and upper end for each column; NaN where no query counts.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values).all(axis=1)]
    q, m = values.shape
    if not q:
        return np.full((m, 2), np.nan)
    counted = ~np.isnan(values)
    both = np.concatenate([np.where(counted, values, 0.0), counted], axis=1)
    draw, means = np.random.default_rng(seed), []
    step = max(1, _BLOCK // q)
    for start in range(0, resamples, step):
        block = min(step, resamples - start)
        rows = draw.integers(0, q, (block, q)) + q * np.arange(block)[:, None]
        times = np.bincount(rows.ravel(), minlength=block * q).reshape(block, q)
        sums = times.astype(np.float64) @ both
        with np.errstate(invalid="ignore"):
            means.append(sums[:, :m] / sums[:, m:])
    tail = (1.0 - level) / 2.0
    with np.errstate(invalid="ignore"):
        return np.nanquantile(np.concatenate(means), [tail, 1.0 - tail], axis=0).T
