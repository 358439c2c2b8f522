"""What the papers' released code computes; reached through `compat="released"`, to compare with its numbers.

Source: behaviour of DIML (wl-zhao/DIML, commit c15dbea) and of vit-reranking (cazhang/vit-reranking, commit
888d776); written from its description, no code taken. Not for use: the stop rule looks at the mean change of
the row scalings over the whole batch, so a pair's score depends on its batch-mates, and a small mass stops
after two iterations with hardly anything moved.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
