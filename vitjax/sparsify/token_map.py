"""Token-to-patch assignment through reduction steps, and tokens restored to the full grid."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitjax.sparsify.decisions import as_keep, take


class TokenMap(flax.struct.PyTreeNode):
    """Token-to-patch assignment after a reduction step.

    Attributes:
        index: position in the full grid of each token; the number of cells for one without a position
            (EViT's fused token).
        owner: row of the token that stands for each cell of the grid; -1 where its token was dropped.
        size: how many cells each token stands for.
        score: of each token, from the step that kept it last: the probability of being kept, or CLS's
            attention; for EViT's fused token that of all it stands for; 1 before the first step.
    """

    index: Int[Array, "b n"]
    owner: Int[Array, "b cells"]
    size: Float[Array, "b n"]
    score: Float[Array, "b n"]

    @classmethod
    def all(cls, batch: int, cells: int) -> "TokenMap":
        """Every token stands for its own cell."""
        positions = jnp.broadcast_to(jnp.arange(cells, dtype=jnp.int32)[None], (batch, cells))
        ones = jnp.ones((batch, cells), jnp.float32)
        return cls(positions, positions, ones, ones)

    def moved(
        self, row: Int[Array, "b n"], index: Int[Array, "b m"], score: Float[Array, "b m"]
    ) -> "TokenMap":
        """After a step: the new row of every old one, -1 where dropped; positions and scores of the new."""
        gone = jnp.take_along_axis(row, jnp.maximum(self.owner, 0), axis=1)
        size = jnp.zeros(index.shape, jnp.float32)
        size = size.at[jnp.arange(len(row))[:, None], row].add(
            self.size, mode="drop", wrap_negative_indices=False
        )
        return TokenMap(index, jnp.where(self.owner < 0, -1, gone), size, score)

    def without(self, valid: Float[Array, "b n"]) -> "TokenMap":
        """The same rows, of which those that are not valid stand for nothing."""
        there = restore(valid[..., None], self.owner)[..., 0] > 0
        return TokenMap(self.index, jnp.where(there, self.owner, -1), self.size * valid, self.score * valid)


def restore(
    tokens: Float[Array, "b n d"],
    owner: Int[Array, "b cells"],
    *,
    fill: float | int | Float[Array, "b cells d"] = 0.0,
) -> Float[Array, "b cells d"]:
    """Tokens back on the full grid: a merged one on each of its cells, `fill` where one was dropped.

    >>> restore(jnp.array([[[1.0], [2.0]]]), jnp.array([[1, -1, 0, 1]]), fill=9)[0, :, 0].tolist()
    [2.0, 9.0, 1.0, 2.0]
    """
    full = take(tokens, jnp.maximum(owner, 0))
    return jnp.where((owner < 0)[..., None], jnp.asarray(fill, full.dtype), full)


class ReducedAttention(flax.struct.PyTreeNode):
    """Attention of a block whose tokens are not those of the full grid; `np.asarray` gives `weights`.

    Attributes:
        weights: after softmax, rows are queries, prefix first.
        owner: as in `TokenMap`, at that block.
        prefix: number of tokens before the patches; static under jit.
    """

    weights: Float[Array, "b heads n n"]
    owner: Int[Array, "b cells"]
    prefix: int = flax.struct.field(pytree_node=False)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns `weights` on the host."""
        return np.array(self.weights, dtype=dtype, copy=copy)

    def on_grid(self) -> Float[Array, "b heads m m"]:
        """Attention between the prefix and all cells of the grid; rows sum to 1.

        The cells of a merged token look alike and share out what it gets. The cell of a dropped token attends
        to itself alone, so that rollout leaves it out.
        """
        batch, _, count, _ = self.weights.shape
        front = jnp.broadcast_to(jnp.arange(self.prefix)[None], (batch, self.prefix))
        owner = jnp.where(self.owner < 0, -1, self.owner + self.prefix)
        owner = jnp.concatenate([front.astype(owner.dtype), owner], axis=1)
        there, row = owner >= 0, jnp.maximum(owner, 0)
        shared = jnp.zeros((batch, count), jnp.float32).at[jnp.arange(batch)[:, None], row].add(there)
        full = jnp.take_along_axis(self.weights, row[:, None, :, None], axis=2)
        full = jnp.take_along_axis(
            full / jnp.maximum(shared, 1.0)[:, None, None, :], row[:, None, None, :], axis=3
        )
        full = jnp.where((there[:, :, None] & there[:, None, :])[:, None], full, 0.0)
        alone = jnp.eye(owner.shape[1], dtype=bool)[None] & ~there[:, :, None]
        return jnp.where(alone[:, None], 1.0, full)


def rows_after_keeping(index: Int[Array, "b k"], count: int) -> Int[Array, "b n"]:
    """New row of each of `count` tokens when those at `index` stay; -1 where it leaves."""
    stays = as_keep(index, count) > 0
    return jnp.where(stays, jnp.cumsum(stays, axis=1, dtype=jnp.int32) - 1, -1)
