"""Matching by nearest neighbours, as plans: baselines for transport.

A plan says which share of the mass goes from one token to another, as in `sinkhorn`, so that scores and
explanations are made of it in the same way. Nothing is solved: marginal errors are 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.ot.outputs import Transport, Values

EMPTY_DOCUMENT = -1e9  # `maxsim` of a document without tokens


def chamfer(
    cost: Float[Values, "*batch n m"], a: Float[Values, "*batch n"], b: Float[Values, "*batch m"]
) -> Transport:
    """Every point goes to its nearest point of the other set, half of the mass each way.

    Source: Barrow et al. 1977 (IJCAI), with weights: sum(plan * cost) is the mean of the two weighted means
    of nearest distances. It is also the mean of the two limits epsilon -> 0 of `relaxed_sinkhorn` with one
    marginal kept and the other free. Neither marginal is kept: many points may go to one.

    Args:
        cost: finite wherever both marginals have mass.
        a: weights of the rows, sum 1. An exact 0 takes the row out, for the columns as well.
        b: weights of the columns, likewise.

    Returns:
        A plan of mass 1 (0 where either side has none). Ties share evenly. Its gradient is that of the
        nearest distances.

    >>> import jax.numpy as jnp
    >>> chamfer(jnp.asarray([[0.0, 1.0], [0.2, 1.0]]), jnp.full(2, 0.5), jnp.full(2, 0.5)).plan.tolist()
    [[0.5, 0.125], [0.25, 0.125]]
    """
    to_row, to_col, a, b = _nearest(cost, a, b)
    return _exact(0.5 * (a[..., :, None] * to_col + b[..., None, :] * to_row))


def mutual_nearest(
    cost: Float[Values, "*batch n m"], a: Float[Values, "*batch n"], b: Float[Values, "*batch m"]
) -> Transport:
    """Pairs of points that are each other's nearest move as much as both have.

    Source: the mutual nearest-neighbour count of local feature matching, with weights: for n points of equal
    weight on both sides, `mass` is the count divided by n.

    Args:
        cost: as in `chamfer`.
        a: as in `chamfer`.
        b: as in `chamfer`.

    Returns:
        A plan whose row sums are at most a and whose column sums are at most b. Its `mass`, in [0, 1], is the
        share of the images that finds itself in the other: the score. Ties share evenly. The cost has no
        gradient.

    >>> import jax.numpy as jnp
    >>> float(mutual_nearest(jnp.asarray([[0.0, 1.0], [0.2, 1.0]]), jnp.full(2, 0.5), jnp.full(2, 0.5)).mass)
    0.5
    """
    to_row, to_col, a, b = _nearest(cost, a, b)
    return _exact(jnp.minimum(a[..., :, None] * to_col, b[..., None, :] * to_row))


def maxsim(
    similarity: Float[Values, "*batch n m"],
    query_valid: Bool[Values, "*#batch n"] | None = None,
    document_valid: Bool[Values, "*#batch m"] | None = None,
    *,
    mean: bool = False,
) -> Float[Array, "*batch"]:
    """Best match of each query token, summed: late interaction, as sentence-transformers scores it.

    Source: ColBERT (Khattab and Zaharia 2020); the values of sentence-transformers 6.2. Half of the means
    both ways is what `chamfer_match` gives for uniform weights.

    Args:
        similarity: of query tokens (rows) with document tokens.
        query_valid: False for padding; None: all are real.
        document_valid: likewise.
        mean: divide by the number of real query tokens.

    Returns:
        The score; 0 for a query without tokens, -1e9 for a document without any.

    >>> import jax.numpy as jnp
    >>> float(maxsim(jnp.asarray([[0.5, 1.0], [0.25, 0.0]])))
    1.25
    """
    similarity = jnp.asarray(similarity, jnp.float32)
    rows = jnp.ones(similarity.shape[:-1], bool) if query_valid is None else jnp.asarray(query_valid)
    columns = jnp.ones(similarity.shape[-1:], bool) if document_valid is None else jnp.asarray(document_valid)
    best = jnp.where(columns[..., None, :], similarity, -jnp.inf).max(-1)
    some, asked = columns.any(-1), rows.any(-1)
    total = jnp.where(rows & some[..., None], best, 0.0).sum(-1)
    total = total / jnp.maximum(rows.sum(-1), 1) if mean else total
    return jnp.where(asked & ~some, EMPTY_DOCUMENT, total)


def _nearest(cost: Values, a: Values, b: Values) -> tuple[Array, Array, Array, Array]:
    """Each column's nearest rows and each row's nearest columns, as shares; and float32 weights."""
    cost, a, b = jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b)
    dtype = jnp.promote_types(cost.dtype, jnp.float32)
    a, b = a.astype(dtype), b.astype(dtype)
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    cost = jnp.where(live, cost.astype(dtype), jnp.inf)
    return _share(cost, live, -2), _share(cost, live, -1), a, b


def _share(cost: Array, live: Array, axis: int) -> Array:
    least = cost.min(axis, keepdims=True)
    nearest = (cost == least) & live
    share = nearest / jnp.maximum(nearest.sum(axis, keepdims=True), 1).astype(cost.dtype)
    # What cannot be compared shows in the result; asked entry by entry, since XLA's minimum may drop a NaN.
    return jnp.where(jnp.isnan(cost).any(axis, keepdims=True), jnp.nan, share)


def _exact(plan: Array) -> Transport:
    none = jnp.zeros(plan.shape[:-2], plan.dtype)
    return Transport(plan, none, none, plan.sum((-2, -1)))
