"""K-medoids of tokens: the medoids stay, nothing is averaged."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.sparsify.decisions import take
from vitjax.sparsify.reduction.groups import distances


def k_medoids(
    x: Float[Array, "b n d"],
    count: int,
    *,
    iterations: int = 3,
    weights: Float[Array, "b n"] | None = None,
    first: int = 0,
) -> tuple[Int[Array, "b m"], Int[Array, "b n"]]:
    """Medoids of the tokens, and of each token the place of its medoid.

    Source: Marin et al. 2023, Token Pooling (arXiv:2110.03860), in the form of Haurum et al. 2023
    (arXiv:2308.04657): the cost of a medoid is its own weight times its distances to ALL tokens, not to those
    of its cluster; the start without weights adds the token with the largest distance to any chosen one.

    Args:
        x: all tokens take part.
        count: medoids.
        iterations: assignments and new medoids; 0 = the start.
        weights: the start is the tokens of the largest weight; CLS's attention, in that work. None = equal.
        first: of equal weights, the token to start from, the same in all images.
    """
    gap = distances(x)
    if weights is None:
        medoids, cost = _farthest(gap, count, first), gap.sum(axis=-1)
    else:
        medoids = jax.lax.top_k(weights, count)[1].astype(jnp.int32)
        cost = weights.astype(jnp.float32) * gap.sum(axis=-1)
    rows = jnp.arange(count, dtype=jnp.int32)[None, :, None]
    for _ in range(iterations):
        cluster = take(gap, medoids).argmin(axis=1).astype(jnp.int32)
        inside = jnp.where(cluster[:, None, :] == rows, cost[:, None, :], jnp.inf)
        medoids = inside.argmin(axis=-1).astype(jnp.int32)  # 0 for an empty cluster
    return medoids, take(gap, medoids).argmin(axis=1).astype(jnp.int32)


def _farthest(gap: Float[Array, "b n n"], count: int, first: int) -> Int[Array, "b m"]:
    batch = len(gap)
    chosen = jnp.full((batch, 1), first, jnp.int32)
    each = jnp.arange(batch)[:, None]
    for _ in range(count - 1):
        furthest = take(gap, chosen).max(axis=1).at[each, chosen].set(0.0)
        chosen = jnp.concatenate([chosen, furthest.argmax(axis=1).astype(jnp.int32)[:, None]], axis=1)
    return chosen
