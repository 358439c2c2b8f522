"""Baseline: tokens evenly spaced on the grid."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vitjax.sparsify.reduction.base import KeepRatio, StepInput
from vitjax.sparsify.token_map import TokenMap


def spread_order(grid: tuple[int, int]) -> np.ndarray:
    """All cells of a grid, such that the first k lie evenly on it, whatever k.

    A half of the cells is every other one, a quarter every other one of every other row.

    Source: Bayer 1973, the threshold matrix of ordered dithering, cut to the grid.

    >>> spread_order((2, 4)).tolist()
    [0, 2, 5, 7, 1, 3, 4, 6]
    """
    matrix = np.zeros((1, 1), int)
    while len(matrix) < max(grid):
        matrix = 4 * np.block([[matrix, matrix], [matrix, matrix]]) + np.kron(
            [[0, 2], [3, 1]], np.ones_like(matrix)
        )
    return np.argsort(matrix[: grid[0], : grid[1]], axis=None, kind="stable")


@dataclass(frozen=True)
class UniformTokens(KeepRatio):
    """Baseline: as many tokens as `DynamicViT` keeps, evenly spaced on the grid."""

    name = "uniform"

    def select(self, token_map: TokenMap, given: StepInput, kept: int) -> Int[Array, "b k"]:
        """See `Reducer.select`."""
        batch, count = token_map.index.shape
        order = spread_order(given.grid or (1, token_map.owner.shape[1]))  # those left are its first ones
        fixed = np.searchsorted(np.sort(order[:count]), np.sort(order[:kept]))
        return jnp.broadcast_to(jnp.asarray(fixed, jnp.int32)[None], (batch, kept))
