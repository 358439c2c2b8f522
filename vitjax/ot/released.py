"""Results of the papers' released code; reached through `compat="released"`, to compare with its numbers.

Source: behaviour of DIML (wl-zhao/DIML, commit c15dbea) and of vit-reranking (cazhang/vit-reranking, commit
888d776); written from its description, no code taken. Not for use: the stop rule looks at the mean change of
the row scalings over the whole batch, so a pair's score depends on the other images of its batch, and a
small mass stops after two iterations with hardly anything moved.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.errors import UserError
from vitjax.ot.attention_maps import adaptive_pool, block_grids, fuse_heads
from vitjax.ot.outputs import Transport

_STOP = 0.1  # mean absolute change of the row scalings, over the whole batch


def sinkhorn(
    cost: Float[Array, "*batch n m"],
    a: Float[Array, "*batch n"],
    b: Float[Array, "*batch m"],
    mass: Float[Array, "*batch"] | None,
    epsilon: Float[Array, "*batch"],
    iterations: int,
) -> Transport:
    """Plans among real points; errors are of the extended problem."""
    n, m = cost.shape[-2:]
    plan = extended_plan(cost, a, b, mass, epsilon, iterations)
    if mass is not None:
        slack = (1.0 - mass)[..., None]
        a, b = jnp.concatenate([a, slack], -1), jnp.concatenate([b, slack], -1)
    row_error, col_error = jnp.abs(plan.sum(-1) - a).sum(-1), jnp.abs(plan.sum(-2) - b).sum(-1)
    plan = plan[..., :n, :m]
    return Transport(plan, row_error, col_error, plan.sum((-2, -1)))


@functools.partial(jax.jit, static_argnames="iterations")
def extended_plan(
    cost: Float[Array, "*batch n m"],
    a: Float[Array, "*batch n"],
    b: Float[Array, "*batch m"],
    mass: Float[Array, "*batch"] | None,
    epsilon: Float[Array, "*batch"],
    iterations: int = 100,
) -> Float[Array, "*batch rows cols"]:
    """Plan of the released solver; partial transport: with the dummy row and column, whose *kernel* value is
    1 - mass.

    Args:
        cost: 1 - similarity. The released code has the candidate image in the rows.
        a: row sums; need not be 1.
        b: column sums.
        mass: share to be moved; None = all, without dummy points.
        epsilon: in units of the cost.
        iterations: at most.

    Returns:
        (..., n, m), or (..., n + 1, m + 1) where a mass is given.
    """
    kernel = jnp.exp(-cost / epsilon[..., None, None])
    if mass is not None:
        slack = (1.0 - mass)[..., None]
        row = jnp.broadcast_to(slack, b.shape)[..., None, :]
        col = jnp.concatenate([jnp.broadcast_to(slack, a.shape), jnp.zeros_like(slack)], -1)
        kernel = jnp.concatenate([jnp.concatenate([kernel, row], -2), col[..., None]], -1)
        a, b = jnp.concatenate([a, slack], -1), jnp.concatenate([b, slack], -1)

    def moving(state):
        count, _, _, change = state
        return (count < iterations) & ~(change < _STOP)

    def step(state):
        count, r, c, _ = state
        new = a / jnp.einsum("...nm,...m->...n", kernel, c, precision=jax.lax.Precision.HIGHEST)
        c = b / jnp.einsum("...nm,...n->...m", kernel, new, precision=jax.lax.Precision.HIGHEST)
        return count + 1, new, c, jnp.mean(jnp.abs(new - r))

    start = (0, jnp.ones_like(a), jnp.ones_like(b), jnp.asarray(jnp.inf, a.dtype))
    _, r, c, _ = jax.lax.while_loop(moving, step, start)
    return r[..., :, None] * kernel * c[..., None, :]


def normalise(
    weights: Float[Array, "*batch n"], valid: Bool[Array, "*batch n"]
) -> tuple[Float[Array, "*batch n"], Bool[Array, "*batch"]]:
    """Weights over their sum + 1e-5: they sum to a little less than 1, and all zero stays all zero."""
    weights = jnp.where(valid, weights, 0.0)
    return weights / (weights.sum(-1, keepdims=True) + 1e-5), jnp.zeros(weights.shape[:-1], bool)


class CvtRollout(NamedTuple):
    """Every step of the released rollout; n = pool * pool.

    Attributes:
        resized: every block's map of patches to patches, averaged to the pooled grid.
        joint: product of the blocks' maps up to each block.
        relevancy: mean over the rows of the last joint.
        marginal: what the transport starts from, summing to a little less than 1.
    """

    resized: tuple[Float[Array, "b n n"], ...]
    joint: tuple[Float[Array, "b n n"], ...]
    relevancy: Float[Array, "b n"]
    marginal: Float[Array, "b n"]


def cvt_rollout(
    attention: Sequence[Float[Array, "b _ _ _"]],
    *,
    grid: tuple[int, int],
    pool: int = 7,
    heads: str = "min",
    discard: float | int = 0.1,
) -> CvtRollout:
    """Rollout of CvT's attention over all blocks of all stages, as the released code has it for one image.

    Source: `get_attention_rollout` of the code named above. Per block: heads fused, the smallest entries set
    to 0, class row and column dropped, keys and queries averaged to the pooled grid, then A + I over its row
    sums. Averaging keys makes early stages count little. Different from that code: in a batch it discards
    where any image discards, here each image has its own entries.

    Args:
        attention: after softmax, one entry per block, class token first where there is one.
        grid: rows and columns of patches in the last block.
        pool: side of the pooled grid; no grid of queries or keys may be smaller.
        heads: "min", "mean" or "max".
        discard: share of each image's entries, class token included, that is set to 0.
    """
    grids = block_grids([(x.shape[-2], x.shape[-1]) for x in attention], grid)
    small = [side for at in grids for side in (*at.grid, *at.keys) if side < pool]
    if small:
        raise UserError(
            f"released rollout: a grid of side {min(small)} cannot be averaged to {pool}x{pool}; use larger "
            "images or a smaller pool."
        )
    resized, joint = [], []
    for block, at in zip(attention, grids, strict=True):
        fused = fuse_heads(block, heads, discard)[:, at.prefix :, at.prefix :]
        fused = _average(_average(fused, at.keys, pool).swapaxes(1, 2), at.grid, pool).swapaxes(1, 2)
        mixed = fused + jnp.eye(pool * pool, dtype=fused.dtype)[None]
        mixed = mixed / mixed.sum(-1, keepdims=True)
        resized.append(fused)
        joint.append(jnp.matmul(mixed, joint[-1], precision=jax.lax.Precision.HIGHEST) if joint else mixed)
    relevancy = joint[-1].mean(1)
    positive = jnp.maximum(relevancy, 0.0)
    marginal, _ = normalise(positive, jnp.ones(positive.shape, bool))
    return CvtRollout(tuple(resized), tuple(joint), relevancy, marginal)


def _average(maps: Float[Array, "b n m"], grid: tuple[int, int], pool: int) -> Float[Array, "b n p"]:
    """Last axis, a grid row by row, averaged to pool x pool."""
    rows, columns = (jnp.asarray(adaptive_pool(side, pool)) for side in grid)
    on_grid = maps.reshape(*maps.shape[:2], *grid)
    pooled = jnp.einsum("sh,bnhw,tw->bnst", rows, on_grid, columns, precision=jax.lax.Precision.HIGHEST)
    return pooled.reshape(*maps.shape[:2], pool * pool)
