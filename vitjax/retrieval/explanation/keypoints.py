"""Keypoint transfer: transport plans against annotated keypoints (PCK)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Real

from vitjax.errors import UserError
from vitjax.retrieval.explanation.correspondence import Grid, Matrix


class PartTransfer(NamedTuple):
    """How many parts of a pair a plan carries over; PCK is `hits` by `parts`, over as many pairs as wanted.

    Attributes:
        hits: (a,), parts that land within each tolerance. Where a patch has several largest masses, the share
            of these that is correct.
        ceiling: (a,), parts that would if each went to the cell that it truly lies in: what the size of the
            cells alone costs.
        parts: how many were asked for: those marked in both images that the model sees in both.
    """

    hits: Float[np.ndarray, " a"]
    ceiling: Float[np.ndarray, " a"]
    parts: int


def part_transfer(
    plan: Float[Array | np.ndarray, "n m"],
    query_points: Real[np.ndarray, "k 2"],
    candidate_points: Real[np.ndarray, "k 2"],
    marked: Bool[np.ndarray, " k"],
    box: tuple[float, float],
    *,
    query_grid: Grid,
    candidate_grid: Grid | None = None,
    query_placement: Matrix | None = None,
    candidate_placement: Matrix | None = None,
    alphas: Sequence[float] = (0.05, 0.1, 0.2),
) -> PartTransfer:
    """Carries keypoints over by a plan: percentage of correct keypoints, PCK, at a share of the object's box.

    Source: Yang and Ramanan 2013 (PCK); the tolerance is alpha times the longer side of the candidate's box,
    as in work on semantic correspondence. A point goes to the centre of the cell that gets the largest mass
    of the patch in which the point lies: a plan says no more. A patch that moves nothing misses.

    Args:
        plan: mass between the query's n patches and the candidate's m, not negative, any total.
        query_points: (x, y) in pixels.
        candidate_points: of the same parts.
        marked: True where a part is marked, and visible, in both.
        box: width and height of the object in the candidate, pixels.
        query_grid: (h, w) of the query's patches.
        candidate_grid: of the candidate's; None: the same.
        query_placement: takes pixels of the query to shares of what the model sees of it; see
            `Preprocess.placement`. None: they are shares.
        candidate_placement: likewise; `box` is in the units of `candidate_points` in any case.
        alphas: tolerances.
    """
    to = candidate_grid or query_grid
    plan = np.asarray(plan, np.float64)
    sizes = (query_grid[0] * query_grid[1], to[0] * to[1])
    if plan.shape != sizes or not np.isfinite(plan).all() or (plan < 0).any():
        raise UserError(
            f"part_transfer: the plan is {plan.shape}, the grids have {sizes} patches; give masses for "
            "these, finite and not negative"
        )
    ways = [
        np.eye(3) if m is None else np.asarray(m, np.float64) for m in (query_placement, candidate_placement)
    ]
    patch, seen = _cells(query_points, ways[0], query_grid)
    own, seen_there = _cells(candidate_points, ways[1], to)
    asked = np.asarray(marked, bool) & seen & seen_there
    rows, columns = np.mgrid[: to[0], : to[1]]
    centres = np.stack([(columns.ravel() + 0.5) / to[1], (rows.ravel() + 0.5) / to[0]], axis=1)
    centres = _moved(centres, np.linalg.inv(ways[1]))
    away = np.linalg.norm(
        centres[None, :, :] - np.asarray(candidate_points, np.float64)[asked][:, None, :], axis=2
    )
    near = away[None, :, :] <= np.asarray(alphas)[:, None, None] * max(box)
    sent = plan[patch[asked]]
    largest = (sent == sent.max(axis=1, keepdims=True)) & (sent > 0)
    hits = (near * (largest / np.maximum(largest.sum(axis=1, keepdims=True), 1))[None]).sum(axis=(1, 2))
    ceiling = near[:, np.arange(len(sent)), own[asked]].sum(axis=1).astype(np.float64)
    return PartTransfer(hits, ceiling, int(asked.sum()))


def _cells(points: np.ndarray, placement: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The patch in which each point lies, in raster order, and whether the model sees it."""
    shares = _moved(np.asarray(points, np.float64), placement)
    seen = np.asarray(((shares >= 0) & (shares < 1)).all(axis=1))
    x, y = np.floor(np.where(seen[:, None], shares, 0) * grid[::-1]).astype(int).T
    return y * grid[1] + x, seen


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    mapped = np.append(points, np.ones((len(points), 1)), axis=1) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]
