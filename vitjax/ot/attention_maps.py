"""Attention maps of one block: which grids their rows and columns lie on, and one map out of many heads."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.errors import UserError

_FUSE = {"mean": jnp.mean, "min": jnp.min, "max": jnp.max}


class BlockGrid(NamedTuple):
    """Where the tokens of one block lie; static.

    Attributes:
        grid: rows and columns of its queries, which are the tokens it updates.
        keys: rows and columns of its keys.
        prefix: tokens before the patches, among queries and keys alike.
        step: tokens of this grid that one of the next block's stands for, along an axis.
    """

    grid: tuple[int, int]
    keys: tuple[int, int]
    prefix: int
    step: int


def block_grids(
    shapes: Sequence[tuple[int, int]],
    grid: tuple[int, int],
    known: Sequence[tuple[int, int] | None] | None = None,
) -> list[BlockGrid]:
    """Grids of all blocks, from the last one's: each grid is the next one's, or finer by a whole step.

    A step k takes n rows to n / k, rounded up: strided convolutions and merging with padding do that.

    Args:
        shapes: queries and keys of every block, prefix included.
        grid: rows and columns of patches in the last block.
        known: the grids of blocks that tell theirs; None where one is to be found out from the counts.

    Raises:
        ValueError: token counts that no such grids have, or that two have.
    """
    prefix = shapes[-1][0] - grid[0] * grid[1]
    if prefix < 0:
        raise UserError(
            f"attention_rollout: attention has {shapes[-1][0]} tokens, fewer than the {grid} grid; "
            f"give the grid of the patch tokens."
        )
    found: list[BlockGrid] = []
    known = known or [None] * len(shapes)
    for (queries, keys), own in zip(reversed(shapes), reversed(known), strict=True):
        step = 1
        if own is not None:
            prefix, step = 0, step_between(own, grid)
            grid = own
        elif queries != grid[0] * grid[1] + prefix:
            # An earlier stage: without prefix unless that is the only way to read it.
            finer = _finer(queries, grid)
            if finer is None and prefix:
                finer = _finer(queries - prefix, grid)
            else:
                prefix = 0
            if finer is None:
                raise UserError(
                    f"attention_rollout: a block of {queries} tokens before a {grid[0]}x{grid[1]} grid: no "
                    "grid, or more than one, has so many and leads there by a whole step; use images with "
                    "sides that are multiples of the model's whole stride, or a later start."
                )
            grid, step = finer
        found.append(BlockGrid(grid, _coarser(keys - prefix, grid), prefix, step))
    return found[::-1]


def _finer(count: int, grid: tuple[int, int]) -> tuple[tuple[int, int], int] | None:
    """The grid of `count` tokens that one step takes to `grid`, and the step."""
    for step in range(2, max(count, 2) + 1):
        rows = range(step * (grid[0] - 1) + 1, step * grid[0] + 1)
        columns = range(step * (grid[1] - 1) + 1, step * grid[1] + 1)
        fits = [(r, count // r) for r in rows if count % r == 0 and count // r in columns]
        exact = (step * grid[0], step * grid[1])
        if exact in fits or len(fits) == 1:
            return (exact if exact in fits else fits[0]), step
        if fits or rows[0] * columns[0] > count:
            return None
    return None


def _coarser(count: int, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of `count` keys that one step takes `grid` to."""
    for step in range(1, max(grid) + 1):
        keys = (-(-grid[0] // step), -(-grid[1] // step))
        if keys[0] * keys[1] == count:
            return keys
    raise UserError(
        f"attention_rollout: {count} keys for a {grid[0]}x{grid[1]} grid of queries: no whole step leads "
        "there; check grid."
    )


def fuse_heads(attention: Float[Array, "b _ q k"], heads: str, discard: float | int) -> Float[Array, "b q k"]:
    """One map per image, in float32 at least: heads fused, then the smallest entries of each image set to 0.

    Args:
        attention: after softmax.
        heads: "mean", "min" or "max".
        discard: share of an image's entries that is set to 0, in [0, 1); rounded down to whole entries.
    """
    # Float32 whatever the compute type: rollout multiplies a dozen matrices of small numbers.
    fused = fuse(attention.astype(jnp.promote_types(attention.dtype, jnp.float32)), heads)
    flat = fused.reshape(fused.shape[0], -1)
    return discard_smallest(flat, count_of(discard, flat.shape[1])).reshape(fused.shape)


def fuse(attention: Float[Array, "b _ q k"], heads: str) -> Float[Array, "b q k"]:
    """One map out of those of all heads."""
    if heads not in _FUSE:
        raise UserError(
            f"attention_rollout: heads {heads!r} is unknown; known: {', '.join(map(repr, _FUSE))}"
        )
    return _FUSE[heads](attention, axis=1)


def count_of(discard: float | int, entries: int) -> int:
    """How many entries a share to discard is, rounded down."""
    if not 0 <= discard < 1:  # NaN as well
        raise UserError(f"attention_rollout: discard is {discard}; it must be a share in [0, 1)")
    return int(discard * entries)


def discard_smallest(entries: Float[Array, "b n"], count: int) -> Float[Array, "b n"]:
    """Sets the `count` smallest of each row to 0; of equal entries the first go first."""
    if not count:
        return entries
    smallest = jnp.argsort(entries, axis=-1)[:, :count]
    return jnp.put_along_axis(entries, smallest, 0.0, axis=-1, inplace=False)


def spread(
    weights: Float[Array, "b m"], coarse: tuple[int, int], fine: tuple[int, int], step: int
) -> Float[Array, "b n"]:
    """Weights of a coarse grid shared out evenly over the tokens that each of its cells stands for."""
    grid = weights.reshape(-1, *coarse)
    for axis, (have, wanted) in enumerate(zip(coarse, fine, strict=True), start=1):
        cell = np.arange(wanted) // step
        share = np.ones(3, int)
        share[axis] = wanted
        sizes = np.bincount(cell, minlength=have)[cell].reshape(share)
        grid = jnp.take(grid, cell, axis=axis) / sizes
    return grid.reshape(weights.shape[0], -1)


def gather(
    weights: Float[Array, "b n"], fine: tuple[int, int], coarse: tuple[int, int], step: int
) -> Float[Array, "b m"]:
    """Sum of the weights in each cell of the coarse grid; the total stays what it was."""
    short = [(0, coarse[i] * step - fine[i]) for i in range(2)]
    grid = jnp.pad(weights.reshape(-1, *fine), ((0, 0), *short))
    cells = grid.reshape(-1, coarse[0], step, coarse[1], step).sum((2, 4))
    return cells.reshape(weights.shape[0], -1)


def step_between(fine: tuple[int, int], coarse: tuple[int, int]) -> int:
    """The step that takes one grid to the other, the smallest."""
    for step in range(1, max(fine) + 1):
        if (-(-fine[0] // step), -(-fine[1] // step)) == tuple(coarse):
            return step
    raise UserError(
        f"attention_rollout: a {fine[0]}x{fine[1]} grid before one of {coarse[0]}x{coarse[1]}: no whole step "
        "leads there; check grid."
    )


def adaptive_pool(size: int, wanted: int) -> np.ndarray:
    """Averages (wanted, size) of torch's `AdaptiveAvgPool2d` along one axis; cells may overlap."""
    cell, position = np.arange(wanted)[:, None], np.arange(size)[None, :]
    inside = (position >= cell * size // wanted) & (position < -(-(cell + 1) * size // wanted))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
