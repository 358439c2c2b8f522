"""DiffRate: tokens sorted by CLS's attention, the tail pruned, the next ones merged; learned rates."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.decisions import take
from vitjax.sparsify.reduction.base import ByAttention, StepInput, in_raster_order
from vitjax.sparsify.reduction.groups import Groups, cosine, falling, group_mean, group_sum, rows_of
from vitjax.sparsify.token_map import TokenMap


class PrunedAndMerged(NamedTuple):
    """Groups; the order of all tokens, best first; similarity of the merged ones to what they joined."""

    groups: Groups
    order: Int[Array, "b n"]
    similarity: Float[Array, "b k"]


def prune_and_merge(
    tokens: Float[Array, "b n d"],
    attention: Float[Array, "b m"],
    *,
    prune_kept: int,
    merge_kept: int,
    sizes: Float[Array, "b n"] | None = None,
) -> PrunedAndMerged:
    """The first `merge_kept` tokens by CLS's attention; the next join the most similar, the rest is dropped.

    Source: Chen et al. 2023, DiffRate (arXiv:2305.17997), Sec. 3.1, in the form of its code: a merged token
    is the plain mean of its group, whatever the sizes; what joins counts as its size times its similarity,
    so that sizes can fall below the number of patches. None joins CLS.

    Args:
        tokens: CLS first; they are compared themselves, not their keys.
        attention: of CLS to all others, mean over heads.
        prune_kept: tokens before the dropped ones, CLS included.
        merge_kept: tokens that stay, CLS included; at least 2 where any are merged.
        sizes: None = one patch each.

    Returns:
        Rows by falling attention, CLS first.
    """
    sizes = jnp.ones(tokens.shape[:2], jnp.float32) if sizes is None else sizes
    rest = 1 + falling(attention)
    order = jnp.concatenate([jnp.zeros((len(tokens), 1), jnp.int32), rest], axis=1)
    ranked, joining = take(tokens, order[:, :merge_kept]), order[:, merge_kept:prune_kept]
    source = rows_of(order[:, :merge_kept], tokens.shape[1])
    if joining.shape[1] == 0:
        empty = jnp.zeros(joining.shape, jnp.float32)
        return PrunedAndMerged(Groups(ranked, take(sizes, order[:, :merge_kept]), source), order, empty)
    alike = cosine(take(tokens, joining), ranked).at[:, :, 0].set(-jnp.inf)
    similarity = alike.max(axis=-1)
    each = jnp.arange(len(tokens))[:, None]
    source = source.at[each, joining].set(alike.argmax(axis=-1).astype(jnp.int32))
    counted = sizes.astype(jnp.float32).at[each, joining].set(take(sizes, joining) * similarity)
    mean = group_mean(tokens, source, merge_kept).astype(tokens.dtype)
    return PrunedAndMerged(Groups(mean, group_sum(counted, source, merge_kept), source), order, similarity)


class Rates(NamedTuple):
    """Kept number of a block, and of each place the probability that it is kept and the mask for training."""

    kept: Float[Array, ""]
    probability: Float[Array, " n"]
    mask: Float[Array, " n"]


def learned_rates(
    logits: Float[Array, " m"], patches: int, *, granularity: int = 1, class_token: bool = True
) -> Rates:
    """The kept number of tokens as the expectation over candidates, with a gradient.

    Source: as `prune_and_merge`, Sec. 3.2, Eqs. 4 to 7. The number is rounded up and passes its gradient; the
    mask is hard and has the gradient of the probability. As in the code, the mask is 1 again at place
    `patches`, which exists with a class token.

    Args:
        logits: of the candidates `patches`, `patches - granularity`, ...
        patches: tokens without CLS.
        granularity: step between candidates.
        class_token: one token more, which always stays.
    """
    share, extra = jax.nn.softmax(logits), int(class_token)
    numbers = patches - granularity * jnp.arange(len(logits), dtype=jnp.float32)
    wanted = (share * numbers).sum()
    number = wanted + jax.lax.stop_gradient(jnp.ceil(wanted) - wanted) + extra
    places = jnp.arange(patches + extra, dtype=jnp.float32)
    probability = jnp.where(numbers[None, :] + extra > places[:, None], share[None, :], 0.0).sum(axis=-1)
    hard = jnp.where((places < jax.lax.stop_gradient(number)) | (places >= patches), 1.0, 0.0)
    return Rates(number, probability, hard + probability - jax.lax.stop_gradient(probability))


@dataclass(frozen=True)
class DiffRate(ByAttention):
    """Prunes the tokens of the lowest attention and merges the next ones; see `prune_and_merge`.

    Needs attention; without CLS that of all tokens. The rates are given: `keep_ratio` is the share of the
    tokens before each step that stays, from a schedule that was learned with `learned_rates`, say. Different
    from its code: sizes are numbers of patches.

    Attributes:
        pruned: share of those that leave that is dropped; the others are merged.
    """

    pruned: float | int = 0.5

    name = "diffrate"
    merges = True

    def step(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.step`."""
        if given.scores is None:
            raise UserError(f"reducer {self.name!r} ranks tokens: give `scores`.")
        return super().step(tokens, token_map, given)

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        alive = tokens.shape[1]
        stay = alive - math.floor(self.pruned * (alive - kept))
        front = jnp.pad(tokens, ((0, 0), (1, 0), (0, 0)))  # in the place of CLS, which none joins
        found = prune_and_merge(front, jnp.asarray(given.scores), prune_kept=stay + 1, merge_kept=kept + 1)
        source = jnp.maximum(found.groups.source[:, 1:] - 1, -1)
        return in_raster_order(
            found.groups.tokens[:, 1:], token_map, source, found.order[:, 1 : kept + 1] - 1
        )

    def field_errors(self, depth: int) -> list[str]:
        """See `Reducer.field_errors`."""
        wrong = super().field_errors(depth)
        return wrong if 0 <= self.pruned <= 1 else [*wrong, f"pruned is {self.pruned}; it must be in [0, 1]"]
