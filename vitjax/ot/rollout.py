"""Attention rollout: how much each patch matters for what the network says about the image.

Source: Abnar & Zuidema 2020 (arXiv:2005.00928), eq. 1: A_l = (attention_l + I) with rows normalised; the
rollout is A_L ... A_j. The share of small entries to discard and the fusion of heads follow "Beyond the CLS
Token" (BMVC 2022), with one difference from its code: entries are discarded per image, there they were
discarded where *any* image of the batch discarded.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_FUSE = {"mean": jnp.mean, "min": jnp.min, "max": jnp.max}


def attention_rollout(
    attention: Sequence[Float[Array, "b heads q k"]],
    *,
    start: int = 0,
    heads: str = "mean",
    discard: float = 0.0,
    grid: tuple[int, int] | None = None,
) -> Float[Array, "b n"]:
    """Weight of every patch token in the class token's (or else the mean token's) rollout.

    Args:
        attention: after softmax, one entry per block, tokens in the network's order: prefix (class token
            first, then distillation or register tokens), then patches. Every block must attend from and to
            the same tokens.
        start: first block that counts, from 0; negative counts from the end.
        heads: "mean", "min" or "max" over heads.
        discard: share of the smallest entries of each image's attention that is set to 0, in [0, 1).
        grid: height and width of the patch grid; tells how many tokens are prefix. None: one is.

    Returns:
        Per-image weights that sum to 1. With a prefix: the class token's row, patch columns only, so that
        attention that went to registers or the distillation token is left out. Without: the mean over all
        rows.
    """
    rollout = rollout_matrix(attention, start=start, heads=heads, discard=discard)
    tokens = rollout.shape[-1]
    prefix = 1 if grid is None else tokens - grid[0] * grid[1]
    if not 0 <= prefix < tokens:
        raise ValueError(
            f"attention_rollout: attention has {tokens} tokens, fewer than the {grid} grid; "
            f"give the grid of the patch tokens."
        )
    weights = rollout[:, 0, prefix:] if prefix else rollout.mean(-2)
    return weights / weights.sum(-1, keepdims=True)


def rollout_matrix(
    attention: Sequence[Float[Array, "b heads q k"]],
    *,
    start: int = 0,
    heads: str = "mean",
    discard: float = 0.0,
) -> Float[Array, "b q k"]:
    """Product of all blocks' row-normalised attention with residual; row i: where token i's content comes
    from.

    Args:
        attention: as in `attention_rollout`.
        start: as in `attention_rollout`.
        heads: as in `attention_rollout`.
        discard: as in `attention_rollout`.

    Returns:
        Rows that sum to 1, float32.
    """
    if heads not in _FUSE:
        raise ValueError(
            f"attention_rollout: heads {heads!r} is unknown; known: {', '.join(map(repr, _FUSE))}"
        )
    blocks = list(attention)
    if not -len(blocks) <= start < len(blocks):
        raise ValueError(
            f"attention_rollout: start is {start} but there are {len(blocks)} blocks of attention"
        )
    blocks = blocks[start:]
    shapes = {x.shape[-2:] for x in blocks}
    if len(shapes) > 1 or any(q != k for q, k in shapes):
        raise ValueError(
            f"attention_rollout: blocks attend from and to {sorted(shapes)} tokens; one square size "
            f"is needed, so choose a later start or a plain vision transformer."
        )
    rollout = None
    for block in blocks:
        # Float32 whatever the compute type: a product of a dozen matrices of small numbers.
        fused = _FUSE[heads](block.astype(jnp.promote_types(block.dtype, jnp.float32)), axis=1)
        mixed = _discard_smallest(fused, discard) + jnp.eye(fused.shape[-1], dtype=fused.dtype)[None]
        mixed = mixed / mixed.sum(-1, keepdims=True)
        rollout = mixed if rollout is None else _matmul(mixed, rollout)
    assert rollout is not None
    return rollout


def _discard_smallest(attention: Float[Array, "b q k"], share: float) -> Float[Array, "b q k"]:
    if not 0 <= share < 1:
        raise ValueError(f"attention_rollout: discard is {share}; it must be a share in [0, 1)")
    b, q, k = attention.shape
    count = int(share * q * k)
    if count == 0:
        return attention
    flat = attention.reshape(b, q * k)
    order = jnp.argsort(flat, axis=-1)  # stable: of equal entries the first go first
    rank = jnp.argsort(order, axis=-1)
    return jnp.where(rank < count, 0.0, flat).reshape(b, q, k)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
