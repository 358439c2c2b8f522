"""Window partition of a token grid and back, the shift mask, and window attention as a map of the grid."""

import warnings
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int


@dataclass(frozen=True)
class Windows:
    """How a grid is cut into windows that do not overlap; plain numbers, so static under jit.

    The grid is first rolled up and left by `shift`, then padded at the bottom and on the right to whole
    windows; windows count row by row.

    Attributes:
        grid: rows and columns of tokens.
        size: rows and columns of a window.
        shift: rows and columns of the roll.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int] = (0, 0)

    @classmethod
    def fit(cls, grid: tuple[int, int], size: tuple[int, int], *, shifted: bool) -> "Windows":
        """Windows of at most `size`, rolled by half of it; an axis that fits one window is not rolled."""
        size = (min(grid[0], size[0]), min(grid[1], size[1]))
        shift = tuple(
            side // 2 if shifted and side < whole else 0 for side, whole in zip(size, grid, strict=True)
        )
        return cls(grid, size, (shift[0], shift[1]))

    @property
    def counts(self) -> tuple[int, int]:
        """Windows along each axis, the last of which may be padded."""
        return -(-self.grid[0] // self.size[0]), -(-self.grid[1] // self.size[1])

    def cut(self, tokens: Float[Array, "b h w d"]) -> Float[Array, "windows n d"]:
        """Tokens of each window, the windows of one image after the other; padding is zeros."""
        batch, _, _, width = tokens.shape
        (down, across), (rows, columns) = self.counts, self.size
        tokens = _roll(tokens, (-self.shift[0], -self.shift[1]))
        missing = (down * rows - self.grid[0], across * columns - self.grid[1])
        if any(missing):
            tokens = jnp.pad(tokens, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        tokens = tokens.reshape(batch, down, rows, across, columns, width).transpose(0, 1, 3, 2, 4, 5)
        return tokens.reshape(batch * down * across, rows * columns, width)

    def join(self, windows: Float[Array, "windows n d"]) -> Float[Array, "b h w d"]:
        """The grid that `cut` cut; what stands on padding is dropped."""
        (down, across), (rows, columns) = self.counts, self.size
        width = windows.shape[-1]
        tokens = windows.reshape(-1, down, across, rows, columns, width).transpose(0, 1, 3, 2, 4, 5)
        tokens = tokens.reshape(-1, down * rows, across * columns, width)
        return _roll(tokens[:, : self.grid[0], : self.grid[1]], self.shift)

    def positions(self) -> Int[np.ndarray, "windows n"]:
        """Position on the grid of each token of each window; -1 on padding."""
        (down, across), (rows, columns) = self.counts, self.size
        lines = _origins(self.grid[0], down * rows, self.shift[0])
        posts = _origins(self.grid[1], across * columns, self.shift[1])
        where = np.where((lines >= 0)[:, None] & (posts >= 0), lines[:, None] * self.grid[1] + posts, -1)
        where = where.reshape(down, rows, across, columns).transpose(0, 2, 1, 3)
        return where.reshape(down * across, rows * columns)

    def shift_mask(self) -> Float32[np.ndarray, "windows n n"] | None:
        """Added to logits: -100 between tokens that only the shift made neighbours, else 0; None = no shift.

        Source: Liu et al. 2021 (arXiv:2103.14030), 3.2, in timm's form: the borders are those of the padded
        grid, and padding is a neighbour like any other.
        """
        if not any(self.shift):
            return None
        (down, across), (rows, columns) = self.counts, self.size
        lines = _regions(down * rows, rows, self.shift[0])
        posts = _regions(across * columns, columns, self.shift[1])
        region = lines[:, None] * 3 + posts
        region = region.reshape(down, rows, across, columns).transpose(0, 2, 1, 3).reshape(down * across, -1)
        return np.where(region[:, :, None] == region[:, None, :], np.float32(0), np.float32(-100))

    def strangers(self) -> Float32[np.ndarray, "windows n n"] | None:
        """The old name of `shift_mask`, for one version."""
        warnings.warn("Windows.strangers is shift_mask now", DeprecationWarning, stacklevel=2)
        return self.shift_mask()


def _roll(tokens: Array, shift: tuple[int, int]) -> Array:
    return jnp.roll(tokens, shift, axis=(1, 2)) if any(shift) else tokens


def _origins(real: int, padded: int, shift: int) -> np.ndarray:
    row = np.arange(padded)
    return np.where(row < real, (row + shift) % real, -1)


def _regions(padded: int, window: int, shift: int) -> np.ndarray:
    """Along one axis: 0 before the last window, 1 in it, 2 where the roll put the other end."""
    row = np.arange(padded)
    if not shift:
        return np.zeros(padded, int)
    return (row >= padded - window).astype(int) + (row >= padded - shift)


class WindowAttention(flax.struct.PyTreeNode):
    """Attention inside the windows of one block; `np.asarray` gives `weights`.

    Attributes:
        weights: after softmax, rows are queries; the windows of one image after the other, in the order and
            with the roll and the padding of `windows`.
        windows: how the grid was cut; static under jit.
    """

    weights: Float[Array, "windows heads n n"]
    windows: Windows = flax.struct.field(pytree_node=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns `weights` on the host."""
        return np.array(self.weights, dtype=dtype, copy=copy)

    def on_grid(self) -> Float[Array, "b heads m m"]:
        """Attention between the tokens of the whole grid, row by row, the roll undone; rows sum to 1.

        Tokens of different windows have 0. Padding takes part in the block's attention but stands for nothing
        in the image: its rows and columns are left out, and what a token gave to padding is shared out among
        the others in proportion. The result is large: 39 MB per head and image for Swin's 56x56 grid.
        """
        positions = self.windows.positions()
        count, slots = positions.shape
        _, heads, _, _ = self.weights.shape
        cells = self.windows.grid[0] * self.windows.grid[1]
        real = jnp.asarray(positions >= 0)[None, :, None, None, :]
        weights = jnp.where(real, self.weights.reshape(-1, count, heads, slots, slots), 0.0)
        weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
        # Past the end, where "drop" leaves padding out; -1 would mean the last token.
        positions = np.where(positions < 0, cells, positions)
        rows = np.broadcast_to(positions[:, :, None], (count, slots, slots))
        columns = np.broadcast_to(positions[:, None, :], (count, slots, slots))
        grid = jnp.zeros((weights.shape[0], heads, cells, cells), weights.dtype)
        return grid.at[:, :, rows, columns].set(weights.transpose(0, 2, 1, 3, 4), mode="drop")
