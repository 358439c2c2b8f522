"""EViT and its form without the fused token: tokens that CLS attends to stay."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.sparsify.reduction.groups import Groups, group_sum, kept


def cls_attention(weights: Float[Array, "b heads n n"]) -> Float[Array, "b m"]:
    """Attention that the first token pays all others, mean over heads."""
    return weights[:, :, 0, 1:].mean(axis=1)


def keep_by_attention(
    tokens: Float[Array, "b n d"], attention: Float[Array, "b m"], k: int, *, fused: bool = False
) -> Groups:
    """The CLS token, the k others of the highest attention, and what the rest is fused to.

    Source: Liang et al. 2022, EViT (arXiv:2202.07800), Eq. 3: the fused token is the sum of the rest, each
    times its attention itself, not its share of the rest's.

    Args:
        tokens: CLS first; all others are ranked, a second prefix token too.
        attention: of CLS to all others.
        k: how many stay; from 1 to m.
        fused: whether there is a fused token, where anything is left for it.

    Returns:
        Rows: CLS, the kept ones best first, the fused one.
    """
    order = 1 + jax.lax.top_k(attention, k)[1].astype(jnp.int32)
    front = jnp.zeros((len(tokens), 1), jnp.int32)
    found = kept(tokens, jnp.concatenate([front, order], axis=1))
    if not fused or k >= attention.shape[1]:
        return found
    rest = jnp.where(found.source < 0, jnp.pad(attention, ((0, 0), (1, 0))), 0.0)
    extra = (rest[..., None] * tokens.astype(jnp.float32)).sum(axis=1)[:, None].astype(tokens.dtype)
    source = jnp.where(found.source < 0, k + 1, found.source)
    sizes = group_sum(jnp.ones(source.shape, jnp.float32), source, k + 2)
    return Groups(jnp.concatenate([found.tokens, extra], axis=1), sizes, source)
