"""Faithfulness of explanations: match accuracy against true correspondences, additivity, and deletion."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.explanation.correspondence import Correspondence, Grid
from vitjax.retrieval.reranking.rerank_candidates import rerank


class MatchAccuracy(NamedTuple):
    """Match accuracy of a plan against true correspondences; NaN where there is nothing to measure.

    "Within 1" is the true cell and the eight around it.

    Attributes:
        hit_0: share of the visible patches whose largest mass goes to their true cell. Where several cells
            tie, the share of these that is correct; a patch that moves no mass misses.
        hit_1: likewise, within 1 cell.
        mass_0: share of the plan's mass that goes to the true cell of a visible patch; mass of patches that
            are not visible is wrong wherever it goes.
        mass_1: likewise, within 1 cell.
        error: how far mass of visible patches goes from the truth on average, in cells of the candidate,
            from cell centre to true position.
        auroc: area under the ROC curve of a patch's mass against its visibility; .5 is chance.
        visible: share of the known patches that the candidate shows.
    """

    hit_0: float
    hit_1: float
    mass_0: float
    mass_1: float
    error: float
    auroc: float
    visible: float


def match_accuracy(
    plan: Float[Array | np.ndarray, "n m"], truth: Correspondence, *, resolution: float = 1e-3
) -> MatchAccuracy:
    """Patch-match accuracy of a plan against known correspondences.

    Patches whose truth is not known are left out, with their mass.

    Args:
        plan: mass between the query's n patches and the candidate's m, not negative, any total.
        truth: of the same patches.
        resolution: for the AUROC, row masses are rounded to this share of their mean: a solver's rounding
            says nothing about visibility.
    """
    plan = np.asarray(plan, np.float64)
    if plan.shape != (len(truth.known), truth.grid[0] * truth.grid[1]):
        raise UserError(
            f"match_accuracy: the plan is {plan.shape}, the truth speaks of {len(truth.known)} patches and a "
            f"{truth.grid[0]}x{truth.grid[1]} grid; give both for the same patches"
        )
    if not np.isfinite(plan).all() or (plan < 0).any():
        raise UserError(
            "match_accuracy: the plan has mass that is negative or not finite; give one that converged"
        )
    rows, visible = plan[truth.known], truth.visible[truth.known]
    seen, position = rows[visible], truth.position[truth.visible]
    centres = _centres(truth.grid)
    away = centres[None, :, :] - position[:, None, :]
    apart = np.abs(np.floor(centres)[None, :, :] - np.floor(position)[:, None, :]).max(axis=2)
    distance = np.hypot(away[..., 0], away[..., 1])
    largest = (seen == seen.max(axis=1, keepdims=True)) & (seen > 0)
    ties = np.maximum(largest.sum(axis=1), 1)
    hit_0, hit_1 = (_mean((largest & (apart <= r)).sum(axis=1) / ties) for r in (0, 1))
    mass_0, mass_1 = (_ratio((seen * (apart <= r)).sum(), rows.sum()) for r in (0, 1))
    error = _ratio((seen * distance).sum(), seen.sum())
    auroc = _auroc(rows, visible, resolution)
    return MatchAccuracy(hit_0, hit_1, mass_0, mass_1, error, auroc, _mean(visible))


def _auroc(rows: np.ndarray, visible: np.ndarray, resolution: float) -> float:
    from sklearn.metrics import roc_auc_score

    mass = rows.sum(axis=1)
    if not len(mass) or visible.all() or not visible.any():
        return float("nan")
    unit = resolution * mass.mean()
    return float(roc_auc_score(visible, np.rint(mass / unit) if unit > 0 else mass))


def true_plan(truth: Correspondence) -> Float[np.ndarray, "n m"]:
    """The best that any map from patches to patches can do: each visible patch goes to its true cell.

    Its `match_accuracy` is the ceiling of the grid: `error` is what the cells' size alone costs.

    Returns:
        Plan of mass 1; of zeros where nothing is visible.
    """
    plan = np.zeros((len(truth.visible), truth.grid[0] * truth.grid[1]))
    where = np.flatnonzero(truth.visible)
    plan[where, truth.cell[where]] = 1 / max(len(where), 1)
    return plan


def same_cell_plan(query_grid: Grid, candidate_grid: Grid | None = None) -> Float[np.ndarray, "n m"]:
    """Every patch goes to the cell at its own position: correct where nothing moved.

    Returns:
        Plan of mass 1.

    >>> same_cell_plan((1, 2)).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    to = candidate_grid or query_grid
    x, y = np.floor(_centres(query_grid) / query_grid[::-1] * to[::-1]).astype(int).T
    plan = np.zeros((len(x), to[0] * to[1]))
    plan[np.arange(len(x)), y * to[1] + x] = 1 / len(x)
    return plan


def additivity_error(
    contribution: Float[Array | np.ndarray, "n m"], structural: float, *, unmatched: float = 0.0
) -> float:
    """How far the parts of a score are from it in sum.

    Args:
        contribution: what each patch pair is said to add.
        structural: the score.
        unmatched: what unmatched mass adds (`vitjax.ot.unmatched_term`); 0 without a price.
    """
    return abs(float(np.sum(contribution, dtype=np.float64)) + unmatched - structural)


class Deletion(NamedTuple):
    """Structural scores of a pair after parts of the query were taken away.

    Attributes:
        whole: of the pair as it is.
        chosen: (e, s), without the patches that each of e explanations ranks first, a share of them at a
            time.
        random: (s,), without as many random ones, mean over the draws.
    """

    whole: float
    chosen: Float[np.ndarray, "e s"]
    random: Float[np.ndarray, " s"]

    @property
    def gain(self) -> Float[np.ndarray, " e"]:
        """How much deeper the score falls without chosen patches than without random ones, mean of shares.

        Above 0: the score depends on the patches that the explanation ranks first. In units of the score.
        """
        return (self.random[None, :] - self.chosen).mean(axis=1)


def deletion(
    query: Descriptors,
    candidate: Descriptors,
    importance: Float[Array | np.ndarray, "e n"],
    *,
    config: RerankConfig | None = None,
    shares: Sequence[float] = (0.125, 0.25, 0.375, 0.5),
    draws: int = 32,
    seed: int = 0,
) -> Deletion:
    """Deletion test: removes patches of the query (valid=False), matches again, and compares the scores.

    Source: the deletion test for saliency maps (Petsiuk et al. 2018, RISE, arXiv:1806.07421), on the tokens
    of one image of a pair instead of its pixels; the patches are not there, nothing stands in for them.

    Args:
        query: of one image.
        candidate: of one image.
        importance: of each of the query's n tokens in e explanations, the largest goes first; ties at random.
        config: how pairs are matched, with its price if it needs one; None: the defaults.
        shares: of the valid tokens that are taken away, each in (0, 1); at least one goes, one stays.
        draws: of random tokens, for each share.
        seed: of the draws and ties.

    Raises:
        ValueError: sizes that do not fit, or fewer than two valid tokens.
    """
    importance = np.asarray(importance, np.float64)
    valid = np.asarray(query.valid, bool)
    if (
        len(query) != 1
        or len(candidate) != 1
        or importance.ndim != 2
        or importance.shape[1] != valid.shape[1]
    ):
        raise UserError(
            f"deletion: {len(query)} queries, {len(candidate)} candidates and importance "
            f"{importance.shape}; give one of each and (e, {valid.shape[1]})"
        )
    count = int(valid.sum())
    if count < 2 or not all(0 < share < 1 for share in shares) or draws < 1:
        raise UserError(
            f"deletion: {count} valid tokens, shares {tuple(shares)}, {draws} draws; expected two tokens or "
            "more, shares in (0, 1) and a draw"
        )
    rng = np.random.default_rng(seed)
    chance = rng.random((len(importance) + draws, valid.shape[1]))
    key = np.concatenate([importance, np.zeros((draws, valid.shape[1]))])
    # By importance, ties at random; tokens that only pad come last.
    order = np.lexsort((chance, -key, ~np.broadcast_to(valid, key.shape)), axis=1)
    rank = np.argsort(order, axis=1)
    gone = np.clip(np.rint(count * np.asarray(shares)).astype(int), 1, count - 1)
    left = valid & (rank[:, None, :] >= gone[None, :, None])
    masks = np.concatenate([valid, left.reshape(-1, valid.shape[1])])
    copies = jax.tree.map(lambda x: np.repeat(np.asarray(x), len(masks), axis=0), sharding.fetch(query))
    copies = dataclasses.replace(copies, valid=masks, weights=np.where(masks, copies.weights, 0))
    index = np.zeros((len(masks), 1), np.int32)
    scores = np.asarray(rerank(copies, candidate, index, config=config).structural[:, 0], np.float64)
    each = scores[1:].reshape(-1, len(gone))
    return Deletion(float(scores[0]), each[: len(importance)], each[len(importance) :].mean(axis=0))


def _centres(grid: Grid) -> Float[np.ndarray, "m 2"]:
    """Centres of the cells in raster order, (x, y) in cells."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)


def _mean(x: np.ndarray) -> float:
    return float(np.mean(x)) if len(x) else float("nan")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
