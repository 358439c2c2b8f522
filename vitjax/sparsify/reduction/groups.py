"""Groups of tokens that become one: what every method here returns, and the sums and similarities of all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.sparsify.decisions import take


class Groups(NamedTuple):
    """Tokens after a method, and where each of those given went.

    Attributes:
        tokens: in the order of the method's published code, which its docstring states.
        sizes: how many patches each stands for.
        source: row of `tokens` for each given token; -1 = dropped.
    """

    tokens: Float[Array, "b m d"]
    sizes: Float[Array, "b m"]
    source: Int[Array, "b n"]


def unit(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Rows of length 1, in float32; a row of zeros stays."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cosine(a: Float[Array, "b n d"], b: Float[Array, "b m d"]) -> Float[Array, "b n m"]:
    """Cosine similarity of every row of `a` and every row of `b`, in float32."""
    return jnp.einsum("bnd,bmd->bnm", unit(a), unit(b), precision=jax.lax.Precision.HIGHEST)


def distances(x: Float[Array, "b n d"]) -> Float[Array, "b n n"]:
    """Euclidean distances between all tokens of an image, exactly 0 from each to itself."""
    x = x.astype(jnp.float32)
    x = x - x.mean(axis=1, keepdims=True)  # a shared offset would cost digits in the product
    squared = (x * x).sum(axis=-1)
    product = jnp.einsum("bnd,bmd->bnm", x, x, precision=jax.lax.Precision.HIGHEST)
    gap = squared[:, :, None] + squared[:, None, :] - 2.0 * product
    same = jnp.eye(x.shape[1], dtype=bool)[None]
    return jnp.sqrt(jnp.where(same, 0.0, jnp.maximum(gap, 0.0)))


def group_sum(
    values: Float[Array, "b n *d"], source: Int[Array, "b n"], count: int
) -> Float[Array, "b m *d"]:
    """Sum over each group; tokens at -1 belong to none."""
    total = jnp.zeros((len(values), count, *values.shape[2:]), jnp.float32)
    return total.at[jnp.arange(len(values))[:, None], source].add(
        values.astype(jnp.float32), mode="drop", wrap_negative_indices=False
    )


def group_max(
    values: Float[Array, "b n *d"], source: Int[Array, "b n"], count: int
) -> Float[Array, "b m *d"]:
    """Largest value of each group, feature by feature."""
    least = jnp.full((len(values), count, *values.shape[2:]), -jnp.inf, jnp.float32)
    return least.at[jnp.arange(len(values))[:, None], source].max(
        values.astype(jnp.float32), mode="drop", wrap_negative_indices=False
    )


def group_mean(
    values: Float[Array, "b n d"],
    source: Int[Array, "b n"],
    count: int,
    weights: Float[Array, "b n"] | None = None,
) -> Float[Array, "b m d"]:
    """Mean over each group, weighted if weights are given."""
    weights = jnp.ones(source.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    total = group_sum(values.astype(jnp.float32) * weights[..., None], source, count)
    return total / group_sum(weights, source, count)[..., None]


def merged(
    tokens: Float[Array, "b n d"],
    source: Int[Array, "b n"],
    count: int,
    sizes: Float[Array, "b n"] | None = None,
) -> Groups:
    """Groups as their means weighted by size, as ToMe merges; sizes None = one patch each."""
    sizes = jnp.ones(source.shape, jnp.float32) if sizes is None else sizes.astype(jnp.float32)
    mean = group_mean(tokens, source, count, sizes).astype(tokens.dtype)
    return Groups(mean, group_sum(sizes, source, count), source)


def kept(
    tokens: Float[Array, "b n d"], index: Int[Array, "b k"], sizes: Float[Array, "b n"] | None = None
) -> Groups:
    """The tokens at `index`, in that order; all others are dropped."""
    sizes = jnp.ones(tokens.shape[:2], jnp.float32) if sizes is None else sizes
    return Groups(take(tokens, index), take(sizes, index), rows_of(index, tokens.shape[1]))


def rows_of(index: Int[Array, "b k"], count: int) -> Int[Array, "b n"]:
    """Place in `index` of each of `count` tokens; -1 where it is not there."""
    each = jnp.arange(len(index))[:, None]
    rows = jnp.arange(index.shape[1], dtype=jnp.int32)[None]
    return (
        jnp.full((len(index), count), -1, jnp.int32).at[each, index].set(jnp.broadcast_to(rows, index.shape))
    )


def falling(scores: Float[Array, "b n"]) -> Int[Array, "b n"]:
    """Positions by falling score; of equals the first comes first."""
    return jnp.argsort(-scores, axis=-1, stable=True).astype(jnp.int32)


def positions(where: Bool[Array, "b n"], count: int) -> Int[Array, "b k"]:
    """Ascending positions of the `count` true values of each image."""
    return jnp.argsort(~where, axis=-1, stable=True)[:, :count].astype(jnp.int32)


def targets_of(source: Int[Array, "b n"], stays: Bool[Array, "b n"], count: int) -> Int[Array, "b m"]:
    """The token of each group that stays, of which there is one."""
    each, places = jnp.arange(len(source))[:, None], jnp.arange(source.shape[1], dtype=jnp.int32)[None]
    found = jnp.zeros((len(source), count), jnp.int32)
    rows = jnp.where(stays, source, count)
    return found.at[each, rows].set(jnp.broadcast_to(places, source.shape), mode="drop")
