"""MCTF: tokens that are similar, uninformative and small merge, in both directions."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.reduction.base import EveryBlock, StepInput, in_raster_order, parity
from vitjax.sparsify.reduction.groups import (
    Groups,
    cosine,
    falling,
    group_max,
    group_mean,
    group_sum,
    targets_of,
)
from vitjax.sparsify.token_map import TokenMap

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
    """Row that each token goes to, the number of rows, and which tokens stay."""

    source: Int[Array, "b n"]
    count: int
    stays: Bool[Array, "b n"]


def received(attention: Float[Array, "b heads n n"]) -> Float[Array, "b n"]:
    """Attention that each token gets, mean over heads and queries."""
    return attention.mean(axis=(1, 2))


def multi_criteria_match(
    tokens: Float[Array, "b n d"],
    heard: Float[Array, "b n"],
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
        heard: attention that each token receives; see `received`.
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
    score = _scores(tokens, heard, sizes, criteria).at[:, :protected].set(-jnp.inf)
    evens, odds = score.shape[1:]
    first, each = (r // 2 if both_ways else r), jnp.arange(batch)[:, None]
    leaving = falling(score.max(axis=-1))[:, :first]
    partner = score.argmax(axis=-1).astype(jnp.int32)
    left = jnp.zeros((batch, evens), bool).at[each, leaving].set(True)
    even_row = jnp.cumsum(~left, axis=1, dtype=jnp.int32) - 1
    odd_row = jnp.broadcast_to((evens - first + jnp.arange(odds, dtype=jnp.int32))[None], (batch, odds))
    odd_stays = jnp.ones((batch, odds), bool)
    if second := r - first:
        back = jnp.where(left[:, :, None], -jnp.inf, score)
        order = falling(back.max(axis=1))
        odd_stays = odd_stays.at[each, order[:, :second]].set(False)
        stay = evens - first + jnp.arange(odds - second, dtype=jnp.int32)
        odd_row = jnp.take_along_axis(even_row, back.argmax(axis=1), axis=1)
        odd_row = odd_row.at[each, order[:, second:]].set(stay[None])
    even_row = jnp.where(left, jnp.take_along_axis(odd_row, partner, axis=1), even_row)
    source = jnp.zeros((batch, count), jnp.int32).at[:, 0::2].set(even_row).at[:, 1::2].set(odd_row)
    stays = jnp.zeros((batch, count), bool).at[:, 0::2].set(~left).at[:, 1::2].set(odd_stays)
    return Match(source, count - r, stays)


def _scores(tokens: Array, heard: Array, sizes: Array | None, criteria: Criteria) -> Array:
    score = jnp.ones((len(tokens), (tokens.shape[1] + 1) // 2, tokens.shape[1] // 2), jnp.float32)
    if criteria.similarity:
        alike = (cosine(tokens[:, 0::2], tokens[:, 1::2]) + 1) / 2
        score = score * alike ** (1 / criteria.similarity)
    factors = [(criteria.information, heard), (criteria.size, sizes)]
    for temperature, value in factors:
        if not temperature or value is None:
            continue
        share = 1 / value.astype(jnp.float32)
        share = share / share.max(axis=-1, keepdims=True)
        score = score * (share[:, 0::2, None] * share[:, None, 1::2]) ** (1 / temperature)
    return score


def pool(
    values: Float[Array, "b n d"],
    match: Match,
    heard: Float[Array, "b n"],
    *,
    sizes: Float[Array, "b n"] | None = None,
    pooling: str = "attention",
) -> Groups:
    """The tokens of each group as one.

    Source: as `multi_criteria_match`, Eq. 9.

    Args:
        values: tokens as matched, or rows of their attention.
        match: their groups.
        heard: as matched.
        sizes: None = one patch each.
        pooling: means weighted by size; by attention received times size; "max", feature by feature; "mean".

    Raises:
        UserError: an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise UserError(f"pooling {pooling!r} is unknown; one of {', '.join(map(repr, POOLINGS))}.")
    source, count = match.source, match.count
    sizes = jnp.ones(source.shape, jnp.float32) if sizes is None else sizes.astype(jnp.float32)
    if pooling == "max":
        pooled = group_max(values, source, count)
    else:
        by_attention = heard * sizes / sizes.max(axis=-1, keepdims=True)
        weights = {"size": sizes, "attention": by_attention}.get(pooling)
        pooled = group_mean(values, source, count, weights)
    return Groups(pooled.astype(values.dtype), group_sum(sizes, source, count), source)


def pool_attention(
    attention: Float[Array, "b heads n n"],
    match: Match,
    *,
    sizes: Float[Array, "b n"] | None = None,
    pooling: str = "attention",
) -> Float[Array, "b heads m m"]:
    """Attention between groups: columns of a group summed, rows pooled like its tokens; see `pool`."""
    batch, heads, n, _ = attention.shape
    columns = group_sum(attention.transpose(0, 3, 1, 2).astype(jnp.float32), match.source, match.count)
    rows = columns.transpose(0, 3, 2, 1).reshape(batch, n, heads * match.count)
    pooled = pool(rows, match, received(attention), sizes=sizes, pooling=pooling).tokens
    return pooled.reshape(batch, match.count, heads, match.count).swapaxes(1, 2)


@dataclass(frozen=True)
class MCTF(EveryBlock):
    """Merges r tokens by similarity, information and size in every block; see `multi_criteria_match`.

    Needs attention, of which it takes what each token receives: no CLS, no training. Different from its code:
    the attention is the block's own, not an estimate of the next block's.

    Attributes:
        both_ways: see `multi_criteria_match`.
        pooling: see `pool`.
    """

    both_ways: bool = True
    pooling: str = "attention"

    name = "mctf"
    needs = ("received",)
    merges = True
    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        r = tokens.shape[1] - kept
        if given.received is None:
            raise UserError(f"reducer {self.name!r} weighs by attention received: give `received`.")
        extra = given.prefix % 2  # one token in front that stays, and none joins
        x, heard, sizes = (parity(v, given.prefix) for v in (tokens, given.received, token_map.size))
        match = multi_criteria_match(x, heard, r, sizes=sizes, protected=extra, both_ways=self.both_ways)
        found = pool(x, match, heard, sizes=sizes, pooling=self.pooling)
        targets = targets_of(match.source, match.stays, match.count)[:, extra:] - extra
        rows = match.source[:, extra:] - extra
        return in_raster_order(found.tokens[:, extra:], token_map, rows, targets)

    def field_errors(self, depth: int) -> list[str]:
        """See `Reducer.field_errors`."""
        wrong = super().field_errors(depth)
        known = self.pooling in POOLINGS
        return wrong if known else [*wrong, f"pooling {self.pooling!r} is unknown; one of {POOLINGS}"]
