"""Partial transport with a price instead of a mass: every pair decides how much of it matches."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import ranges
from vitjax.ot.outputs import Transport, Values
from vitjax.ot.problem import Number, Solver
from vitjax.ot.solve import sinkhorn


def priced_sinkhorn(
    cost: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    price: Number,
    epsilon: Number,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
) -> Transport:
    """Entropic transport where leaving mass out costs `price` a unit, so a match that costs more is not made.

    Source: Caffarelli and McCann 2010 (Annals of Mathematics 171), the Lagrangian of partial transport:
    minimises sum(plan * cost) + price * (1 - mass) under row sums of at most a and column sums of at most b.
    At any epsilon its plan is that of `partial_sinkhorn` at the mass it finds; the price only picks the mass,
    that where one more unit would cost as much.

    Solved as a balanced problem with one more point per side, each of mass 1: what stays out of the rows goes
    to the column's dummy, what stays out of the columns comes from the row's, and the dummies exchange the
    rest, which is as much as real points do. A dummy costs price / 2 to meet, two dummies nothing. The
    entropy is that of the extended plan; it favours leaving out: n points that can only be matched one to
    one are matched up to a cost of price - epsilon * log(n), not of price.

    Args:
        cost: as in `sinkhorn`. Its level counts, not only differences: cost and price may move together.
        a: as in `sinkhorn`.
        b: as in `sinkhorn`.
        price: in units of the cost, finite; a number or one per problem; may be traced. Far above every cost:
            balanced transport. Far below: an empty plan.
        epsilon: as in `sinkhorn`.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`, on the errors of the extended problem.
        solver: as in `sinkhorn`.

    Returns:
        The plan among real points, its free mass in [0, 1], and the errors of the extended problem.

    >>> import jax.numpy as jnp
    >>> cost, half = jnp.asarray([[0.1, 1.0], [1.0, 0.9]]), jnp.full(2, 0.5)
    >>> priced_sinkhorn(cost, half, half, price=0.5, epsilon=0.02).plan.round(2).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    ranges.check("vitjax.ot", "price", price)
    whole = extended(cost, a, b, price)
    found = sinkhorn(
        whole.cost,
        whole.a,
        whole.b,
        epsilon=epsilon,
        iterations=iterations,
        tolerance=tolerance,
        solver=solver,
    )
    return real_part(found)


class Extended(NamedTuple):
    """The balanced problem behind a priced one, its masses halved so that they sum to 1."""

    cost: Float[Array, "*batch n1 m1"]
    a: Float[Array, "*batch n1"]
    b: Float[Array, "*batch m1"]


def extended(cost: Values, a: Values, b: Values, price: Number) -> Extended:
    """Adds a dummy row and column; where a side has no mass at all, its dummy has none either."""
    cost, a, b = jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b)
    dtype = jnp.promote_types(cost.dtype, jnp.float32)
    cost, a, b = cost.astype(dtype), a.astype(dtype), b.astype(dtype)
    half = jnp.broadcast_to(jnp.asarray(price, cost.dtype) / 2, cost.shape[:-2])
    column = jnp.broadcast_to(half[..., None, None], (*cost.shape[:-1], 1))
    row = jnp.broadcast_to(half[..., None, None], (*cost.shape[:-2], 1, cost.shape[-1]))
    corner = jnp.zeros((*cost.shape[:-2], 1, 1), cost.dtype)
    whole = jnp.concatenate([jnp.concatenate([cost, column], -1), jnp.concatenate([row, corner], -1)], -2)
    # A dummy takes as much as the real points of the other side hold, so that both sides weigh the same.
    rows = jnp.concatenate([a, b.sum(-1, keepdims=True)], -1)
    cols = jnp.concatenate([b, a.sum(-1, keepdims=True)], -1)
    return Extended(whole, rows / 2, cols / 2)


def real_part(found: Transport) -> Transport:
    """What the real points of an extended problem exchange, in their own units of mass."""
    plan = 2 * found.plan[..., :-1, :-1]
    return Transport(plan, 2 * found.row_error, 2 * found.col_error, plan.sum((-2, -1)))
