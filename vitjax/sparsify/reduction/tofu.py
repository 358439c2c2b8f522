"""ToFu: the matching of ToMe; a pair is merged, merged and scaled, or pruned."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.reduction.groups import Groups, group_max, group_mean, group_sum

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
    odd = (jnp.arange(source.shape[1]) % 2 == 1)[None]
    alone = jnp.take_along_axis(members, source, axis=1) == 1
    stays = odd | alone
    if fusion == "prune":
        own = jnp.where(stays, source, -1)
        return Groups(group_sum(tokens, own, count).astype(tokens.dtype), jnp.ones_like(members), own)
    mean = group_mean(tokens, source, count)
    if fusion == "tofu":
        norm = jnp.linalg.norm(tokens.astype(jnp.float32), axis=-1)
        before = group_sum(jnp.where(stays, norm, 0.0), source, count)
        mean = mean * (group_max(norm, source, count) / jnp.maximum(before, 1e-12))[..., None]
    return Groups(mean.astype(tokens.dtype), members, source)
