"""Structural similarity of two images: transport between their patch tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.ot.matches import partial_match
from vitjax.ot.outputs import StructuralMatch, Values
from vitjax.ot.problem import Number, Solver
from vitjax.ot.solve import partial_sinkhorn


def structural_match(
    query_tokens: Float[Values, "*batch n d"],
    candidate_tokens: Float[Values, "*batch m d"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    epsilon: Number = 0.05,
    mass: Number = 1.0,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
    compat: str | None = None,
) -> StructuralMatch:
    """Matches patch tokens by transport; returns the score, the plan and the similarities.

    Source: "Beyond the CLS Token", BMVC 2022: S = cosine similarity, cost = 1 - S, score = sum(plan * S), not
    divided by the mass. Differs from the released code in that the query is in the rows and every pair is
    solved for itself.

    Args:
        query_tokens: L2-normalised by the caller. A padded token (any finite value) is one whose weight is 0.
        candidate_tokens: likewise.
        a: weights of the query's tokens, sum 1.
        b: weights of the candidate's tokens, sum 1.
        epsilon: in units of the cost, which is 1 - cosine: 0 to 2.
        mass: share of each image that must be matched, in (0, 1]; 1 = balanced.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`.
        solver: as in `sinkhorn`.
        compat: "released" gives what the papers' code gives; its batch is all leading dimensions together.

    Returns:
        Score, plan and similarity; float32 whatever the tokens were.
    """
    similarity = _cosine(query_tokens, candidate_tokens)
    settings = {
        "mass": mass,
        "epsilon": epsilon,
        "iterations": iterations,
        "tolerance": tolerance,
        "solver": solver,
    }
    if compat is None:
        return partial_match(similarity, a, b, **settings)
    # The released code scales the candidate's side first, and stops before the order ceases to matter.
    found = partial_sinkhorn(1.0 - jnp.swapaxes(similarity, -1, -2), b, a, compat=compat, **settings)
    plan = jnp.swapaxes(found.plan, -1, -2)
    transport = found._replace(plan=plan, row_error=found.col_error, col_error=found.row_error)
    return StructuralMatch(jnp.sum(plan * similarity, axis=(-2, -1)), transport, similarity)


def structural_similarity(
    query_tokens: Float[Values, "*batch n d"],
    candidate_tokens: Float[Values, "*batch m d"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    epsilon: Number = 0.05,
    mass: Number = 1.0,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
    compat: str | None = None,
) -> Float[Array, "*batch"]:
    """Score of `structural_match` alone: sum of plan times similarity, in [-mass, mass]."""
    return structural_match(
        query_tokens,
        candidate_tokens,
        a,
        b,
        epsilon=epsilon,
        mass=mass,
        iterations=iterations,
        tolerance=tolerance,
        solver=solver,
        compat=compat,
    ).score


def _cosine(query_tokens: Values, candidate_tokens: Values) -> Array:
    dtype = jnp.promote_types(jnp.promote_types(query_tokens.dtype, candidate_tokens.dtype), jnp.float32)
    return jnp.einsum(
        "...nd,...md->...nm",
        query_tokens.astype(dtype),
        candidate_tokens.astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
