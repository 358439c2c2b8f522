"""MCTF: tokens that are similar, uninformative and small merge, in both directions."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.reduction.groups import Groups, cosine, falling, group_max, group_mean, group_sum

POOLINGS = ("size", "attention", "max", "mean")


@dataclass(frozen=True)
class Criteria:
    """Temperatures of the three criteria; a larger one counts less, 0 leaves it out. Published values.

    Attributes:
        similarity: of cosine.
        information: of one over the attention that a token receives.
        size: of one over its size.
    """

    similarity: float | int = 1
    information: float | int = 20
    size: float | int = 40


class Match(NamedTuple):
    """Row that each token goes to, and the number of rows."""

    source: Int[Array, "b n"]
    count: int


def received(attention: Float[Array, "b heads n n"]) -> Float[Array, "b n"]:
    """Attention that each token gets, mean over heads and queries."""
    return attention.mean(axis=(1, 2))


def multi_criteria_match(
    tokens: Float[Array, "b n d"],
    attention: Float[Array, "b heads n n"],
    r: int,
    *,
    sizes: Float[Array, "b n"] | None = None,
    criteria: Criteria = Criteria(),
    protected: int = 1,
    both_ways: bool = True,
) -> Match:
    """Groups of r merges between tokens at even and at odd places.

    Source: Lee et al. 2024, MCTF (arXiv:2403.10030), Eqs. 3 to 8, in the form of its code: first half of r
    even tokens join odd ones, then the other half of odd ones, with what joined them, join even ones that are
    left, by the same scores. As there, `protected` counts even places: 2 protects places 0 and 2, not 1.

    Args:
        tokens: prefix first; compared by cosine.
        attention: after softmax; in the paper that of the block itself, or an estimate of the next one.
        r: tokens that leave; at most half of those that are not protected.
        sizes: None = one patch each.
        criteria: temperatures.
        protected: even places at the start that neither leave nor are joined.
        both_ways: False: all r even ones leave, as in ToMe.

    Returns:
        Rows: even ones that are left, ascending, then odd ones (both ways: by falling second score).
    """
    batch, count = tokens.shape[:2]
    r = max(0, min(r, (count - protected) // 2))
    score = _scores(tokens, attention, sizes, criteria).at[:, :protected].set(-jnp.inf)
    evens, odds = score.shape[1:]
    first, each = (r // 2 if both_ways else r), jnp.arange(batch)[:, None]
    leaving = falling(score.max(axis=-1))[:, :first]
    partner = score.argmax(axis=-1).astype(jnp.int32)
    left = jnp.zeros((batch, evens), bool).at[each, leaving].set(True)
    even_row = jnp.cumsum(~left, axis=1, dtype=jnp.int32) - 1
    odd_row = jnp.broadcast_to((evens - first + jnp.arange(odds, dtype=jnp.int32))[None], (batch, odds))
    if second := r - first:
        back = jnp.where(left[:, :, None], -jnp.inf, score)
        order = falling(back.max(axis=1))
        stay = evens - first + jnp.arange(odds - second, dtype=jnp.int32)
        odd_row = jnp.take_along_axis(even_row, back.argmax(axis=1), axis=1)
        odd_row = odd_row.at[each, order[:, second:]].set(stay[None])
    even_row = jnp.where(left, jnp.take_along_axis(odd_row, partner, axis=1), even_row)
    source = jnp.zeros((batch, count), jnp.int32).at[:, 0::2].set(even_row).at[:, 1::2].set(odd_row)
    return Match(source, count - r)


def _scores(tokens: Array, attention: Array, sizes: Array | None, criteria: Criteria) -> Array:
    score = jnp.ones((len(tokens), (tokens.shape[1] + 1) // 2, tokens.shape[1] // 2), jnp.float32)
    if criteria.similarity:
        alike = (cosine(tokens[:, 0::2], tokens[:, 1::2]) + 1) / 2
        score = score * alike ** (1 / criteria.similarity)
    factors = [(criteria.information, received(attention)), (criteria.size, sizes)]
    for temperature, value in factors:
        if not temperature or value is None:
            continue
        share = 1 / value.astype(jnp.float32)
        share = share / share.max(axis=-1, keepdims=True)
        score = score * (share[:, 0::2, None] * share[:, None, 1::2]) ** (1 / temperature)
    return score


def pool(
    tokens: Float[Array, "b n d"],
    match: Match,
    attention: Float[Array, "b heads n n"],
    *,
    sizes: Float[Array, "b n"] | None = None,
    pooling: str = "attention",
) -> tuple[Groups, Float[Array, "b heads m m"]]:
    """The tokens of each group as one, and the attention between these.

    Source: as `multi_criteria_match`, Eq. 9 and Sec. 3.3. Columns of attention are summed over a group, rows
    pooled like tokens.

    Args:
        tokens: as matched.
        match: their groups.
        attention: as matched.
        sizes: None = one patch each.
        pooling: means weighted by size; by attention received times size; "max", feature by feature; "mean".

    Raises:
        UserError: an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise UserError(f"pooling {pooling!r} is unknown; one of {', '.join(map(repr, POOLINGS))}.")
    source, count = match
    batch, heads, n, _ = attention.shape
    sizes = jnp.ones(source.shape, jnp.float32) if sizes is None else sizes.astype(jnp.float32)
    weights = {
        "size": sizes,
        "attention": received(attention) * sizes / sizes.max(axis=-1, keepdims=True),
    }.get(pooling)

    def pooled(values: Array) -> Array:
        if pooling == "max":
            return group_max(values, source, count)
        return group_mean(values, source, count, weights)

    columns = group_sum(attention.transpose(0, 3, 1, 2).astype(jnp.float32), source, count)
    rows = pooled(columns.transpose(0, 3, 2, 1).reshape(batch, n, heads * count))
    after = rows.reshape(batch, count, heads, count).swapaxes(1, 2)
    merged = Groups(pooled(tokens).astype(tokens.dtype), group_sum(sizes, source, count), source)
    return merged, after
