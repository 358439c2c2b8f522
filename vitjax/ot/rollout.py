"""Attention rollout: attention from the class token to each patch through all blocks.

Source: Abnar & Zuidema 2020 (arXiv:2005.00928), eq. 1: A_l = (attention_l + I) with rows normalised; the
rollout is A_L ... A_j. The share of small entries to discard and the fusion of heads follow "Beyond the CLS
Token" (BMVC 2022) in the form of its code: rows are divided by their sum and I is added in every block,
where its text has the L2 norm and the first block as it is, A(l_0). One difference from that code: entries
are discarded per image, there they were discarded where *any* image of the batch discarded.

For networks of several grids (CvT, Swin) that paper's code averages every map to 7x7, which takes 15/16 of
the first stage's attention away; `compat="released"` gives its numbers. Here rows stay distributions: what
goes to a key on a coarser grid is shared out over the tokens the key stands for, and so are the weights where
a stage's tokens were made from a finer grid. Only one row is wanted, so it is followed from the last block
back to the first: a vector times a map per block, and no product of maps.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.ot import released
from vitjax.ot.attention_maps import fuse_heads
from vitjax.ot.fold import grids_of, is_windowed, last_row


def attention_rollout(
    attention: Sequence[Any],
    *,
    start: int = 0,
    heads: str | None = None,
    discard: float | int | None = None,
    grid: tuple[int, int] | None = None,
    compat: str | None = None,
    pool: int = 7,
) -> Float[Array, "b n"]:
    """Weight of every patch token in the class token's (or else the mean token's) rollout.

    Args:
        attention: after softmax, one (b, heads, queries, keys) array per block, or the windows of a Swin
            block; tokens in the network's order: prefix (class token first, then distillation or register
            tokens), then patches row by row. Blocks may lie on finer grids the earlier they come, and keys on
            coarser ones than queries.
        start: first block that counts, from 0; negative counts from the end.
        heads: "mean", "min" or "max" over heads; None: "mean" ("min" in the released form).
        discard: share of the smallest entries of each image's attention that is set to 0, in [0, 1); None: 0
            (0.1 in the released form).
        grid: height and width of the last block's patch grid; tells how many tokens are prefix. None: one is,
            and all blocks must attend from and to the same tokens, unless they are windows, which know it.
        compat: "released": what the paper's code computes for CvT, see `released.cvt_rollout`.
        pool: side of the grid that the released form averages its maps to.

    Returns:
        Per-image weights that sum to 1, of the patches of `grid`. With a prefix: the class token's row, patch
        columns only, so that attention that went to registers or the distillation token is left out. Without:
        the mean over all rows. Released form: of a pool x pool grid, summing to a little less than 1.
    """
    if compat not in (None, "released"):
        raise UserError(f"attention_rollout: compat {compat!r} is unknown; known: None, 'released'")
    blocks = _from(attention, start)
    windowed = is_windowed(blocks[-1])
    if compat == "released":
        if grid is None or windowed:
            raise UserError(
                "attention_rollout: the released form is for CvT and needs grid, that of its patch tokens"
            )
        settings = {"heads": heads or "min", "discard": 0.1 if discard is None else discard}
        return released.cvt_rollout(blocks, grid=grid, pool=pool, **settings).marginal
    if grid is None:
        grids = grids_of(blocks, blocks[-1].windows.grid if windowed else (1, _square_size(blocks) - 1))
    else:
        grids = grids_of(blocks, grid)
    weights = last_row(blocks, grids, heads or "mean", discard or 0.0)
    return weights / weights.sum(-1, keepdims=True)


def rollout_matrix(
    attention: Sequence[Float[Array, "b _ _ _"]],
    *,
    start: int = 0,
    heads: str = "mean",
    discard: float | int = 0.0,
) -> Float[Array, "b n n"]:
    """Product of all blocks' row-normalised attention with residual; row i: where token i's content comes
    from.

    Args:
        attention: as in `attention_rollout`; every block must attend from and to the same tokens.
        start: as in `attention_rollout`.
        heads: "mean", "min" or "max" over heads.
        discard: share of the smallest entries of each image's attention that is set to 0, in [0, 1).

    Returns:
        Rows that sum to 1, float32.
    """
    blocks = _from(attention, start)
    _square_size(blocks)
    rollout: Any = None
    for block in blocks:
        fused = fuse_heads(block, heads, discard)
        mixed = fused + jnp.eye(fused.shape[-1], dtype=fused.dtype)[None]
        mixed = mixed / mixed.sum(-1, keepdims=True)
        rollout = mixed if rollout is None else _matmul(mixed, rollout)
    return rollout


def _from(attention: Sequence[Any], start: int) -> list[Any]:
    blocks = list(attention)
    if not -len(blocks) <= start < len(blocks):
        raise UserError(
            f"attention_rollout: start is {start} but there are {len(blocks)} blocks of attention"
        )
    # Of a model that reduces its tokens: back on the grid of all patches.
    on_grid = (getattr(block, "on_grid", None) for block in blocks)
    pairs = zip(blocks[start:], list(on_grid)[start:], strict=True)
    return [full() if full and not is_windowed(block) else block for block, full in pairs]


def _square_size(blocks: Sequence[Any]) -> int:
    shapes = {tuple(x.shape[-2:]) for x in blocks}
    if len(shapes) > 1 or any(q != k for q, k in shapes):
        raise UserError(
            f"attention_rollout: blocks attend from and to {sorted(shapes)} tokens; one square size "
            f"is needed, so choose a later start or a plain vision transformer, or give the patch grid."
        )
    return shapes.pop()[0]


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
