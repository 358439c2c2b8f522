"""Tokens of one image that are alike become one: any number of tokens, weighed by the patches they stand for.

`AGGREGATORS` maps names to ways of grouping, each `(tokens, importance, there, count) -> group`, jitted
and mapped over the images of a batch: what an image becomes does not depend on the batch. One entry of your
own works like ours, under `config.model.aggregate` too.

Averages of groups beat chosen tokens by far (CraterBench-R, arXiv:2604.06245); Ward's clustering of tokens is
what sentence-transformers pools text with.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError

ITERATIONS = 10  # of k-means; tokens of photos hardly move after that

Grouping = Callable[
    [Float[Array, "n d"], Float[Array, " n"], Bool[Array, " n"], int],
    Int[Array, " n"],
]


class Aggregated(NamedTuple):
    """Tokens of b images after aggregation, in raster order of the first patch of each.

    Attributes:
        tokens: (b, count, d), of length 1; zeros where an image had fewer patches.
        weights: (b, count), what the patches of a token weighed together: their number, if each weighs 1.
        valid: (b, count), False where an image had fewer patches.
        positions: (b, count) int32, the patch whose token is most like the new one; -1 for none.
        owner: (b, n) int32, the new token that each patch went to; -1 where it was not there.
    """

    tokens: Array
    weights: Array
    valid: Array
    positions: Array
    owner: Array


def aggregate(
    tokens: Float[Array | np.ndarray, "b n d"],
    weights: Float[Array | np.ndarray, "b n"],
    there: Bool[Array | np.ndarray, "b n"],
    *,
    count: int,
    name: str,
    importance: Float[Array | np.ndarray, "b n"] | None = None,
) -> Aggregated:
    """Averages groups of alike tokens; `count` is static, so each number of tokens has a program of its own.

    Args:
        tokens: of length 1, in raster order.
        weights: of the patches, not negative; a new token weighs as much as its patches together.
        there: False for patches without a token.
        count: tokens that are wanted, at least 1; at most n of them come.
        name: of `AGGREGATORS`.
        importance: of each token in the average of its group, and for "attention" where groups are begun;
            None: all alike.
    """
    group = find_grouping(name)
    count = min(count, tokens.shape[1])
    importance = jnp.ones(weights.shape) if importance is None else importance
    return jax.vmap(lambda *one: _one_image(group, count, *one))(
        *map(jnp.asarray, (tokens, weights, there, importance))
    )


def find_grouping(name: str) -> Grouping:
    """The grouping of a name."""
    if name not in AGGREGATORS:
        known = ", ".join(map(repr, AGGREGATORS))
        raise UserError(f"aggregate: {name!r} is unknown; known: {known}")
    return AGGREGATORS[name]


def _one_image(
    group: Grouping, count: int, tokens: Array, weights: Array, there: Array, importance: Array
) -> Aggregated:
    n = tokens.shape[0]
    found = jnp.where(there, group(tokens, importance, there, count), count)
    # Raster order of the first patch of each group; groups without any come last.
    first = jnp.full(count + 1, n).at[found].min(jnp.where(there, jnp.arange(n), n))
    rank = jnp.argsort(jnp.argsort(first[:count], stable=True), stable=True)
    owner = jnp.where(there, jnp.append(rank, count)[found], -1).astype(jnp.int32)
    member = (owner[None, :] == jnp.arange(count)[:, None]).astype(jnp.float32)
    counted = member * importance[None, :]
    # A group whose tokens have importance 0 is averaged all alike.
    counted = jnp.where(counted.sum(1, keepdims=True) > 0, counted, member)
    merged = jnp.matmul(counted, tokens, precision="highest")
    merged = merged / jnp.maximum(jnp.linalg.norm(merged, axis=1, keepdims=True), 1e-12)
    alike = jnp.where(member > 0, jnp.matmul(merged, tokens.T, precision="highest"), -jnp.inf)
    valid = member.any(1)
    positions = jnp.where(valid, alike.argmax(1), -1).astype(jnp.int32)
    return Aggregated(merged, member @ weights, valid, positions, owner)


def farthest_point(tokens: Array, importance: Array, there: Array, count: int) -> Array:
    """Groups around seeds, each farthest from those before; the first is the token nearest to the mean."""
    del importance
    return _nearest(tokens, tokens[_farthest_seeds(tokens, there, count)])


def kmeans(tokens: Array, importance: Array, there: Array, count: int) -> Array:
    """K-means (Lloyd 1982), begun with the seeds of `farthest_point`: no draw."""
    del importance
    return lloyd(tokens, tokens[_farthest_seeds(tokens, there, count)], there)


def lloyd(
    tokens: Float[Array, "n d"], centres: Float[Array, "k d"], there: Bool[Array, " n"],
    *, iterations: int = ITERATIONS,
) -> Int[Array, " n"]:  # fmt: skip
    """Lloyd's iterations from given centres; one that no token is nearest to stays where it is."""

    def step(_: Array, centres: Array) -> Array:
        member = (_nearest(tokens, centres)[None, :] == jnp.arange(len(centres))[:, None]) & there
        total = jnp.matmul(member.astype(tokens.dtype), tokens, precision="highest")
        size = member.sum(1, keepdims=True)
        return jnp.where(size > 0, total / jnp.maximum(size, 1), centres)

    return _nearest(tokens, jax.lax.fori_loop(0, iterations, step, centres))


def attention(tokens: Array, importance: Array, there: Array, count: int) -> Array:
    """Groups around the tokens of the largest attention, each token with the seed it is most like."""
    _, seeds = jax.lax.top_k(jnp.where(there, importance, -1.0), count)
    return _nearest(tokens, tokens[seeds])


def ward(tokens: Array, importance: Array, there: Array, count: int) -> Array:
    """Ward's clustering (1963): the two groups are joined that add least to the squared distances within."""
    del importance
    n = tokens.shape[0]
    index = jnp.arange(n)
    cost = 0.5 * _squares(tokens, tokens)  # n m / (n + m) times the squared distance of two groups' means
    pair = there[:, None] & there[None, :] & ~jnp.eye(n, dtype=bool)
    cost = jnp.where(pair, cost, jnp.inf)

    def join(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cost, size, group = state
        place = jnp.argmin(cost)
        i, j = jnp.minimum(place // n, place % n), jnp.maximum(place // n, place % n)
        a, b, between = size[i], size[j], cost[i, j]
        # Lance and Williams 1967.
        row = ((a + size) * cost[i] + (b + size) * cost[j] - size * between) / jnp.maximum(a + b + size, 1)
        row = jnp.where((size > 0) & (index != i) & (index != j), row, jnp.inf)
        # An image of fewer patches is done before: its writes lie outside, and are dropped.
        more = (size > 0).sum() > count
        i, j = jnp.where(more, i, n), jnp.where(more, j, n)
        cost = cost.at[i].set(row, mode="drop").at[:, i].set(row, mode="drop")
        cost = cost.at[j].set(jnp.inf, mode="drop").at[:, j].set(jnp.inf, mode="drop")
        size = size.at[i].set(a + b, mode="drop").at[j].set(0, mode="drop")
        return cost, size, jnp.where(group == j, i, group)

    start = cost, there.astype(jnp.float32), index
    _, size, group = jax.lax.fori_loop(0, n - count, join, start)
    return (jnp.cumsum(size > 0) - 1)[group]


AGGREGATORS: dict[str, Grouping] = {
    "kmeans": kmeans,
    "ward": ward,
    "farthest": farthest_point,
    "attention": attention,
}


def _farthest_seeds(tokens: Array, there: Array, count: int) -> Array:
    mean = (tokens * there[:, None]).sum(0) / jnp.maximum(there.sum(), 1)
    first = jnp.argmin(jnp.where(there, _squares(tokens, mean[None])[:, 0], jnp.inf))

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, distance = state
        new = jnp.argmax(distance)
        return seeds.at[i].set(new), jnp.minimum(distance, away(new))

    def away(seed: Array) -> Array:
        return jnp.where(there, _squares(tokens, tokens[seed][None])[:, 0], -1.0)

    seeds = jnp.zeros(count, jnp.int32).at[0].set(first.astype(jnp.int32))
    return jax.lax.fori_loop(1, count, step, (seeds, away(first)))[0]


def _nearest(tokens: Array, centres: Array) -> Array:
    """The first of the nearest centres of each token."""
    return jnp.argmin(_squares(tokens, centres), axis=1)


def _squares(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    dot = jnp.matmul(x, y.T, precision="highest")
    found = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * dot
    return jnp.maximum(found, 0.0)
