"""Thresholds with a proven share of errors, and conformal quantiles (kind h5)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.retrieval.reranking import accept


def _finite(x: float) -> np.float64:
    """The fixture writes -1 where nothing qualifies."""
    return np.float64(-1 if math.isinf(x) else x)


def check_accept(fixture: Fixture) -> None:
    given, config = fixture.inputs, fixture.meta["config"]
    grid = given["grid"]
    counts = accept.count(given["score"], given["wrong"].astype(bool), grid)
    ours: dict[str, Any] = {"n": counts.n.astype(np.int32), "k": counts.k.astype(np.int32)}
    ours["rate"] = counts.k / np.maximum(counts.n, 1)
    falling = np.argsort(-grid, kind="stable")
    down = grid[falling], accept.Counts(counts.n[falling], counts.k[falling])
    for delta in config["deltas"]:
        ours[f"delta{delta:g}/upper_bound"] = accept.upper_bounds(counts, delta)
    for alpha in config["alphas"]:
        ours[f"alpha{alpha:g}/p_value"] = accept.p_values(counts, alpha)
        for delta in config["deltas"]:
            least = accept.least_accepted(alpha, delta)
            found = {
                "fixed_sequence": accept.fixed_sequence(*down, alpha, delta),
                "fixed_sequence_from_top": accept.fixed_sequence(*down, alpha, delta, start=0),
                "bonferroni": accept.bonferroni(grid, counts, alpha, delta),
                "holm": accept.holm(grid, counts, alpha, delta),
            }
            name = f"alpha{alpha:g}/delta{delta:g}"
            ours |= {f"{name}/{key}": _finite(x) for key, x in found.items()}
            ours[f"{name}/n_min"] = np.int32(least)
            ours[f"{name}/start"] = np.int32(np.argmax(down[1].n >= least))
    for name in fixture.outputs:
        kind, _, alpha = name.partition("/")
        if kind == "quantile":
            ours[name] = _finite(accept.conformal_quantile(given["residual"], float(alpha)))
        if kind == "quantile_rank":
            ours[name] = np.int32(accept.conformal_rank(len(given["residual"]), float(alpha)))
    k, n = given["clopper_pearson/k"], given["clopper_pearson/n"]
    both = np.array([accept.clopper_pearson(*map(int, pair)) for pair in zip(k, n, strict=True)])
    ours |= {"clopper_pearson/low": both[:, 0], "clopper_pearson/high": both[:, 1]}
    assert_all_compared(fixture, ours)


CHECKS: dict[str, Callable[[Fixture], None]] = {"h5": check_accept}
