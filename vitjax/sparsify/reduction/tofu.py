"""ToFu: the matching of ToMe; a pair is merged, merged and scaled, or pruned."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.reduction.base import EveryBlock, StepInput, in_raster_order, parity
from vitjax.sparsify.reduction.groups import Groups, group_max, group_mean, group_sum, targets_of
from vitjax.sparsify.reduction.tome import alternating_match
from vitjax.sparsify.token_map import TokenMap

FUSIONS = ("mean", "tofu", "prune")


def fuse(
    tokens: Float[Array, "b n d"], source: Int[Array, "b n"], count: int, *, fusion: str = "tofu"
) -> Groups:
    """Tokens of groups by `tome.alternating_match`, put together in one of ToFu's ways.

    Source: Kim et al. 2024, Token Fusion (arXiv:2312.01026), in the form of OpenToMe: "tofu" multiplies the
    mean by the largest norm in the group over the norm of its odd token before the merge, where the paper
    divides by the norm of the mean. Sizes are counted here, and do not weigh the mean.

    Args:
        tokens: prefix included; those at even places (from 0) leave.
        source: row of each token.
        count: number of rows.
        fusion: "mean", "tofu", or "prune": those that leave are dropped.

    Raises:
        UserError: an unknown fusion.
    """
    if fusion not in FUSIONS:
        raise UserError(f"fusion {fusion!r} is unknown; one of {', '.join(map(repr, FUSIONS))}.")
    members = group_sum(jnp.ones(source.shape, jnp.float32), source, count)
    stays = staying(source, count)
    if fusion == "prune":
        own = jnp.where(stays, source, -1)
        return Groups(group_sum(tokens, own, count).astype(tokens.dtype), jnp.ones_like(members), own)
    mean = group_mean(tokens, source, count)
    if fusion == "tofu":
        squared = jnp.square(tokens.astype(jnp.float32)).sum(axis=-1)
        norm = jnp.sqrt(jnp.maximum(squared, 1e-24))  # whose gradient is finite at 0
        before = group_sum(jnp.where(stays, norm, 0.0), source, count)
        mean = mean * (group_max(norm, source, count) / before)[..., None]
    return Groups(mean.astype(tokens.dtype), members, source)


def staying(source: Int[Array, "b n"], count: int) -> Bool[Array, "b n"]:
    """Which tokens of `tome.alternating_match` stay: those at odd places, and even ones that join none."""
    members = group_sum(jnp.ones(source.shape, jnp.float32), source, count)
    alone = jnp.take_along_axis(members, source, axis=1) == 1
    return (jnp.arange(source.shape[1]) % 2 == 1)[None] | alone


@dataclass(frozen=True)
class ToFu(EveryBlock):
    """Prunes r tokens of the most similar pairs in each block of the first half, then merges; see `fuse`.

    Needs the block's keys: no attention, no CLS, no training. Sizes do not count in attention.
    """

    name = "tofu"

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        r = tokens.shape[1] - kept
        extra = given.prefix % 2  # one token in front that stays, and none joins
        source, count = alternating_match(
            parity(self.given_keys(given), given.prefix), r, class_token=bool(extra)
        )
        fusion = "prune" if 2 * given.stage < self.steps else "tofu"
        found = fuse(parity(tokens, given.prefix), source, count, fusion=fusion)
        targets = targets_of(source, staying(source, count), count)[:, extra:] - extra
        rows = jnp.maximum(found.source[:, extra:] - extra, -1)
        return in_raster_order(found.tokens[:, extra:], token_map, rows, targets)
