"""One row of the rollout, from the last block back to the first: a vector-matrix product per block.

No product of maps is ever made, and Swin's maps stay windows: a dense one of its first stage would take 39 MB
per image and head.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.ot.attention_maps import (
    BlockGrid,
    block_grids,
    count_of,
    discard_smallest,
    fuse,
    fuse_heads,
    gather,
    spread,
    step_between,
)


def is_windowed(block: Any) -> bool:
    """Whether attention is inside windows: `weights` (b * windows, heads, n, n) and how `windows` are cut."""
    return hasattr(block, "windows")


def grids_of(blocks: Sequence[Any], grid: tuple[int, int]) -> list[BlockGrid]:
    """Where the tokens of every block lie, `grid` being the last block's; see `block_grids`."""
    shapes, known = [], []
    for block in blocks:
        own = block.windows.grid if is_windowed(block) else None
        shapes.append(tuple(block.shape[-2:]) if own is None else (own[0] * own[1],) * 2)
        known.append(own)
    return block_grids(shapes, grid, known)


def last_row(
    blocks: Sequence[Any], grids: Sequence[BlockGrid], heads: str, discard: float | int
) -> Float[Array, "b n"]:
    """The class token's row of the rollout (without prefix: the mean row) on the last block's patch grid.

    Where a stage's tokens were made from a finer grid, their weight is shared out over the tokens they were
    made from; a class token that joined there was not made from the image, so its weight goes.

    Args:
        blocks: attention of every block, in order.
        grids: of every block.
        heads: see `fuse_heads`.
        discard: see `fuse_heads`.
    """
    last = grids[-1]
    count, step = last.grid[0] * last.grid[1], 1
    batch, dtype = _batch(blocks[-1]), _type(blocks[-1])
    if last.prefix:
        row = jnp.zeros((batch, last.prefix + count), dtype).at[:, 0].set(1.0)
    else:
        row = jnp.full((batch, count), 1 / count, dtype)
    here = last
    for block, there in zip(reversed(blocks), reversed(grids), strict=True):
        if there.grid != here.grid:
            step *= there.step
            patches = spread(row[:, here.prefix :], here.grid, there.grid, there.step)
            row = jnp.concatenate([row[:, : there.prefix], patches], axis=1)
            here = there
        if is_windowed(block):
            row = _through_windows(row, block, heads, discard)
        else:
            row = _through(row, fuse_heads(block, heads, discard), there)
    return gather(row[:, here.prefix :], here.grid, last.grid, step)


def _batch(block: Any) -> int:
    return block.weights.shape[0] // len(block.windows.positions()) if is_windowed(block) else block.shape[0]


def _type(block: Any) -> jnp.dtype:
    """Float32, or float64 where the maps are."""
    return jnp.promote_types(block.weights.dtype if is_windowed(block) else block.dtype, jnp.float32)


def _through(row: Float[Array, "b q"], fused: Float[Array, "b q k"], at: BlockGrid) -> Float[Array, "b q"]:
    """The row times one block's map with residual, rows normalised."""
    row = row / (fused.sum(-1) + 1.0)
    sent = jnp.einsum("bq,bqk->bk", row, fused, precision=jax.lax.Precision.HIGHEST)
    if at.keys != at.grid:
        patches = spread(sent[:, at.prefix :], at.keys, at.grid, step_between(at.grid, at.keys))
        sent = jnp.concatenate([sent[:, : at.prefix], patches], axis=1)
    return row + sent


def _through_windows(
    row: Float[Array, "b n"], block: Any, heads: str, discard: float | int
) -> Float[Array, "b n"]:
    """As `_through`, inside each window; padding is no token, what it got is shared out in proportion."""
    positions = np.asarray(block.windows.positions())
    count, slots = positions.shape
    batch, tokens = row.shape
    real = positions >= 0
    maps = block.weights.reshape(batch * count, -1, slots, slots)
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    keys = jnp.asarray(np.tile(real, (batch, 1)))[:, None, None, :]
    maps = jnp.where(keys, maps, 0.0)
    maps = maps / jnp.maximum(maps.sum(-1, keepdims=True), jnp.finfo(maps.dtype).tiny)
    fused = fuse(maps, heads).reshape(batch, -1)
    pairs = (real[:, :, None] & real[:, None, :]).reshape(1, -1)
    # Padding's pairs are no entries: the share is one of the others, and they would go last.
    drop = count_of(discard, int(pairs.sum()))
    fused = discard_smallest(jnp.where(pairs, fused, jnp.inf), drop)
    fused = jnp.where(pairs, fused, 0.0).reshape(batch, count, slots, slots)
    inside = jnp.pad(row, ((0, 0), (0, 1)))[:, np.where(real, positions, tokens)]
    inside = inside / (fused.sum(-1) + 1.0)
    sent = jnp.einsum("bwq,bwqk->bwk", inside, fused, precision=jax.lax.Precision.HIGHEST)
    slot = np.zeros(tokens, int)
    slot[positions[real]] = np.flatnonzero(real)
    return (inside + sent).reshape(batch, -1)[:, slot]
