"""Results of `vitjax.ot`: named tuples, pytrees that may also hold NumPy arrays or shardings."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

Values = Array | np.ndarray  # what public functions take


class Transport(NamedTuple):
    """A transport plan and how far it is from what was asked.

    Args:
        plan: share of mass that moves from row i to column j; exactly 0 where a marginal is 0.
        row_error: L1 distance between the plan's row sums and the wanted ones, unitless. Partial transport:
            of the extended problem, dummy point included. Relaxed transport: the wanted row sums are those
            that the relaxed problem's own optimality condition asks of the last potentials.
        col_error: the same for columns. NaN in either error: the problem held NaN. (A cost of +inf forbids a
            match.)
        mass: sum of the plan.
    """

    plan: Float[Array, "*batch n m"]
    row_error: Float[Array, "*batch"]
    col_error: Float[Array, "*batch"]
    mass: Float[Array, "*batch"]


class StructuralMatch(NamedTuple):
    """How well the patch tokens of two images match.

    Args:
        score: sum of plan times similarity; in [-mass, mass] for unit tokens.
        transport: the plan behind the score and its errors.
        similarity: cosine similarity of every token pair.
    """

    score: Float[Array, "*batch"]
    transport: Transport
    similarity: Float[Array, "*batch n m"]


class PairMarginals(NamedTuple):
    """Patch weights of both images of a pair.

    Args:
        a: weights of the query's tokens; sum 1, or all 0 where the image has no valid token.
        b: weights of the candidate's tokens; likewise.
        fallback: True where a marginal was all zero or not finite and uniform weights over the valid tokens
            (or zeros, where there is none) replaced it.
    """

    a: Float[Array, "*batch n"]
    b: Float[Array, "*batch m"]
    fallback: Bool[Array, "*batch"]
