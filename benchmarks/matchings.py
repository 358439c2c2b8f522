"""The ways of matching that `benchmarks.explanations` and `benchmarks.keypoints` compare."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vitjax.config import RerankConfig
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, match_pairs
from vitjax.retrieval.explanation.faithfulness import additivity_error, same_cell_plan


class Explained(NamedTuple):
    """What one way of matching says about a pair, patch by patch."""

    plan: np.ndarray
    contribution: np.ndarray
    additivity_error: float


def matchings(query: Descriptors, candidate: Descriptors, reranker: Reranker) -> dict[str, Explained]:
    """Every way of matching that the tables compare, by name."""
    rule, grid = reranker.rule, reranker.token_grid
    n = grid[0] * grid[1]
    similarity = np.zeros((n, n))

    def matched(config: RerankConfig) -> Explained:
        """Every patch pair of a way of matching, put back on the grid."""
        zero = np.zeros(1, int)
        top = query.sizes.tokens * candidate.sizes.tokens
        found = match_pairs(query, candidate, zero, zero, config=config, top=top)
        pairs = found.query_patch[0], found.candidate_patch[0]
        placed = (pairs[0] >= 0) & (pairs[1] >= 0)
        at = pairs[0][placed], pairs[1][placed]
        plan, contribution = np.zeros((n, n)), np.zeros((n, n))
        np.add.at(plan, at, found.mass[0][placed])
        np.add.at(contribution, at, found.contribution[0][placed])
        similarity[at] = found.similarity[0][placed]
        # Every pair is in it, so the remainder is what unmatched mass adds.
        left = float(found.remainder[0])
        error = additivity_error(found.contribution[:1], float(found.structural[0]), unmatched=left)
        return Explained(plan, contribution, error)

    def given(plan: np.ndarray) -> Explained:
        return Explained(plan, plan * similarity, float("nan"))  # of no score, so no parts of one

    balanced = replace(rule, method="transport", mass=1.0, tau=1.0)
    explained = {
        f"the config's: {_name(rule)}": matched(rule),
        "balanced transport": matched(balanced),
        "chamfer": matched(replace(rule, method="chamfer")),
        "mutual nearest neighbours": matched(replace(rule, method="mutual")),
    }
    nearest = np.zeros((n, n))
    nearest[np.arange(n), similarity.argmax(axis=1)] = 1 / n
    return explained | {
        "nearest neighbour": given(nearest),
        "same cell": given(same_cell_plan(grid)),
        "uniform plan": given(np.full((n, n), 1 / n**2)),
    }


def _name(rule: RerankConfig) -> str:
    if rule.method != "transport":
        return rule.method
    part = f"tau {rule.tau:g}" if rule.tau < 1 else f"mass {rule.mass}"
    return f"transport, {part}, epsilon {rule.epsilon:g}"
