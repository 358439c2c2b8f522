"""Axial rotary position embedding: queries and keys are rotated by their position.

Source: Su et al. 2021, RoFormer (arXiv:2104.09864). In two forms:

- DINOv3 (Siméoni et al. 2025, arXiv:2508.10104): coordinates are patch centres scaled to [-1, 1] by each side
  of the grid on its own, so that nothing depends on the size of the training images; the halves of a head are
  rotated against each other.
- Perception Encoder (Bolya et al. 2025, arXiv:2504.13181): coordinates are numbers of row and column;
  features are rotated in pairs of neighbours. As in the original code, and not in timm, which rescales them
  to the training grid, numbers stay the same at other image sizes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int


def axial_rope(
    grid: tuple[int, int], head_dim: int, *, base: float | int = 100.0
) -> tuple[Float32[np.ndarray, "n w"], Float32[np.ndarray, "n w"]]:
    """Sines and cosines of the patches of a grid, row by row.

    The angle of frequency k is 2 pi * centre / base ** (4 k / head_dim), for k below head_dim / 4: first
    those of y, then those of x, and the whole a second time for the other half of the head.

    Args:
        grid: rows and columns of patches.
        head_dim: width of an attention head; a multiple of 4.
        base: ratio of the longest period to the shortest.

    >>> axial_rope((1, 2), 4)[0].round(3).tolist()
    [[0.0, -0.0, 0.0, -0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    periods = float(base) ** (4 * np.arange(head_dim // 4) / head_dim)
    rows, columns = (2 * (np.arange(side) + 0.5) / side - 1 for side in grid)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = (2 * np.pi * centres[:, :, None] / periods[None, None, :]).reshape(len(centres), -1)
    angles = np.tile(angles, (1, 2))
    return np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)


def counted_rope(
    grid: tuple[int, int], head_dim: int, *, base: float | int = 10_000.0, first: int = 0
) -> tuple[Float32[np.ndarray, "n w"], Float32[np.ndarray, "n w"]]:
    """Sines and cosines of the patches of a grid, row by row, in the form of Perception Encoder.

    The angle of frequency k is number / base ** (4 k / head_dim), for k below head_dim / 4, each twice in a
    row: first those of the column's number, then those of the row's.

    Args:
        grid: rows and columns of patches.
        head_dim: width of an attention head; a multiple of 4.
        base: ratio of the longest period to the shortest.
        first: number of the first row and column; the original counts from 1 where there is a CLS token,
            which is not rotated, as if it were number 0.

    >>> np.asarray(counted_rope((1, 2), 4)[0]).astype(float).round(3).tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.841, 0.841, 0.0, 0.0]]
    """
    rates = float(base) ** (-4 * np.arange(head_dim // 4) / head_dim)
    rows, columns = (first + np.arange(side) for side in grid)
    numbers = np.stack(np.meshgrid(rows, columns, indexing="ij")[::-1], axis=-1).reshape(-1, 2)
    angles = (numbers[:, :, None] * rates[None, None, :]).reshape(len(numbers), -1)
    angles = np.repeat(angles, 2, axis=1)
    return np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)


class Rope:
    """The rotations of a model's tokens; prefix tokens and others without a position are not rotated.

    Args:
        grid: rows and columns of patches.
        head_dim: see `axial_rope`.
        prefix: number of tokens before the patches.
        base: see `axial_rope`.
        first: of `counted_rope`; None = `axial_rope`.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        head_dim: int,
        prefix: int,
        base: float | int,
        first: int | None = None,
    ) -> None:
        if first is None:
            sines, cosines = axial_rope(grid, head_dim, base=base)
        else:
            sines, cosines = counted_rope(grid, head_dim, base=base, first=first)
        # Row n is of a token that stands for no one patch.
        self._sines = np.concatenate([sines, np.zeros((1, head_dim), np.float32)])
        self._cosines = np.concatenate([cosines, np.ones((1, head_dim), np.float32)])
        self._prefix = prefix

    def all(self) -> Float[Array, "1 m 2 w"]:
        """Sines and cosines of the prefix and all patches; the same for every image."""
        cells = len(self._sines) - 1
        return self.at(jnp.arange(cells, dtype=jnp.int32)[None])

    def at(self, index: Int[Array, "b n"]) -> Float[Array, "b m 2 w"]:
        """Sines and cosines of the prefix and of the patches at these positions of the grid."""
        nowhere = jnp.full((len(index), self._prefix), len(self._sines) - 1, index.dtype)
        rows = jnp.concatenate([nowhere, index], axis=1)
        return jnp.stack([jnp.asarray(self._sines)[rows], jnp.asarray(self._cosines)[rows]], axis=2)


def rotate(
    vectors: Float[Array, "b n heads w"], rope: Float[Array, "#b n 2 w"], *, pairs: bool = False
) -> Float[Array, "b n heads w"]:
    """Rotates features against each other; computed in float32 whatever the type.

    Args:
        vectors: queries or keys.
        rope: from `Rope`.
        pairs: in pairs of neighbours, as `counted_rope` asks for; False: each of a head's first half against
            that of the second.
    """
    exact = vectors.astype(jnp.float32)
    if pairs:
        even, odd = exact[..., 0::2], exact[..., 1::2]
        turned = jnp.stack([-odd, even], axis=-1).reshape(exact.shape)
    else:
        first, second = jnp.split(exact, 2, axis=-1)
        turned = jnp.concatenate([-second, first], axis=-1)
    sines, cosines = rope[:, :, 0, None, :], rope[:, :, 1, None, :]
    return (exact * cosines + turned * sines).astype(vectors.dtype)
