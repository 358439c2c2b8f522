"""K-medoids of tokens: the medoids stay, nothing is averaged."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.sparsify.decisions import take
from vitjax.sparsify.reduction.base import KeepRatio, StepInput, in_raster_order
from vitjax.sparsify.reduction.groups import distances
from vitjax.sparsify.token_map import TokenMap


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
    """Tokens that are furthest from any chosen before; a loop, as their number can be large."""
    batch, n = gap.shape[:2]
    each = jnp.arange(batch)

    def add(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        chosen, furthest, free = state
        token = jnp.where(free, furthest, 0.0).argmax(axis=1).astype(jnp.int32)
        furthest = jnp.maximum(furthest, gap[each, token])
        return chosen.at[:, i].set(token), furthest, free.at[each, token].set(False)

    chosen = jnp.full((batch, count), first, jnp.int32)
    free = jnp.ones((batch, n), bool).at[:, first].set(False)
    return jax.lax.fori_loop(1, count, add, (chosen, gap[:, first], free))[0]


@dataclass(frozen=True)
class KMedoids(KeepRatio):
    """Keeps the medoids, as many as `DynamicViT` keeps, unchanged; each stands for its cluster.

    See `k_medoids`, with equal weights, from the first token. Works before a block, from the tokens alone: no
    attention, no CLS, no training. The start takes one pass per medoid, one after the other.

    Attributes:
        iterations: see `k_medoids`.
    """

    iterations: int = 3

    name = "kmedoids"
    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        medoids, cluster = k_medoids(tokens, kept, iterations=self.iterations)
        return in_raster_order(take(tokens, medoids), token_map, cluster, medoids)
