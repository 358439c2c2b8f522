"""MaxSim and Chamfer similarity against sentence-transformers' (kind h4)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.ot import chamfer_match, maxsim


def check_maxsim(fixture: Fixture) -> None:
    given = fixture.inputs
    rows, columns = (given[f"{side}_valid"].astype(bool) for side in "ab")
    pairs = fixture.meta["config"]["pairs"]
    ours: dict[str, Any] = {}
    for kind in ("raw", "unit"):
        a, b = given["a"], given["b"]
        if kind == "unit":
            a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        dots = np.einsum("ind,jmd->ijnm", a, b)
        back, masks = dots.swapaxes(-1, -2), (rows[:, None], columns[None])
        there = [maxsim(dots, *masks, mean=mean) for mean in (False, True)]
        reverse = [maxsim(back, *masks[::-1], mean=mean) for mean in (False, True)]
        found = {
            "maxsim": maxsim(dots),
            "maxsim_masked": there[0],
            "mean": maxsim(dots, mean=True),
            "mean_masked": there[1],
            "pairwise": maxsim(dots[np.arange(pairs), np.arange(pairs)]),
            "pairwise_mean_masked": there[1][np.arange(pairs), np.arange(pairs)],
            "reverse_masked": reverse[0],
            "symmetric_sum": there[0] + reverse[0],
            "symmetric_mean": 0.5 * (there[1] + reverse[1]),
            "symmetric_min": np.minimum(there[1], reverse[1]),
        }
        found["chamfer_distance"] = _distance(a, b, dots, rows, columns)
        ours |= {f"{kind}/{name}": np.asarray(x) for name, x in found.items()}
        if kind == "unit":  # the score of ours that is the same
            weights = [x / x.sum(1, keepdims=True, dtype=np.float32) for x in (rows, columns)]
            a_weights = np.broadcast_to(weights[0][:, None], dots.shape[:3])
            b_weights = np.broadcast_to(weights[1][None], (*dots.shape[:2], dots.shape[3]))
            matched = chamfer_match(dots, a_weights, b_weights)
            ours["unit/symmetric_mean"] = np.asarray(matched.score)
    ours["ragged/maxsim"] = ours["raw/maxsim_masked"]
    zero = np.einsum("ind,jmd->ijnm", given["a_with_zero_row"], given["b"])
    there = (np.abs(given["a_with_zero_row"]).sum(-1) > 0)[:, None]
    ours |= {"zero_row/maxsim": maxsim(zero), "zero_row/mean": maxsim(zero, there, mean=True)}
    dots = np.einsum("ind,jmd->ijnm", given["a"], given["b"])
    ours["empty/document"] = maxsim(dots[:, 0], None, np.zeros(dots.shape[-1], bool))
    ours["empty/query"] = maxsim(dots[0], np.zeros(dots.shape[-2], bool))
    ours["empty/others"] = maxsim(dots, None, columns[None])[:, :-1]
    assert_all_compared(fixture, {name: np.asarray(x) for name, x in ours.items()})


def _distance(a: np.ndarray, b: np.ndarray, dots: np.ndarray, rows: np.ndarray, columns: np.ndarray):
    """Means of the nearest squared distances of both sides, added."""
    squares = (a**2).sum(-1)[:, None, :, None] + (b**2).sum(-1)[None, :, None, :] - 2 * dots
    masks = rows[:, None], columns[None]
    there = maxsim(-squares, *masks, mean=True) + maxsim(-squares.swapaxes(-1, -2), *masks[::-1], mean=True)
    return -there


CHECKS: dict[str, Callable[[Fixture], None]] = {"h4": check_maxsim}
