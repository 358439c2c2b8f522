"""Gradient of converged transport from its optimality conditions: no iteration is kept or repeated.

With potentials in units of epsilon, plan_ij = exp(f_i + g_j - cost_ij), row sums r and column sums c,
a solution is a zero of

    R_i = (1 - tau_a) f_i - tau_a (log a_i - log r_i)        and the same for g, tau_b, b, c,

which is every kind of problem here: balanced (tau 1), relaxed, and partial, where the dummy points are one
more row and column that cannot meet. The backward pass solves J^T (x, y) = (df, dg), J the Jacobian of R;
after eliminating x one linear system in y, as large as the columns. Where both tau are 1 the system is
singular, since f + t, g - t is the same plan; the solution without a component along that direction is taken,
which leaves the gradients of a and b right for every change that keeps their sums equal.

OTT-JAX's implicit gradient breaks with zeros in the marginals on both sides; here a token without mass has no
row in the system. The error of a gradient is about that of the plan, so about the tolerance.

Memory: the plan and one matrix of columns x columns per problem.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.ot.outputs import Transport
from vitjax.ot.solvers import iteration, loop
from vitjax.ot.solvers.iteration import Problem, Sides, einsum
from vitjax.ot.solvers.loop import Solution

SolveBlock = Callable[[Problem, Float[Array, " p"], int], Solution]


def _transport(
    solve: SolveBlock,
    problem: Problem,
    similarity: Float[Array, "p n m"] | None,
    tolerance: Float[Array, " p"],
    iterations: int,
) -> tuple[Transport, Float[Array, " p"] | None]:
    """Plan and value of what `solve` finds, see `loop.result`; row_error and col_error have no gradient."""
    return loop.result(solve(problem, tolerance, iterations), similarity)


transport: jax.custom_vjp[tuple[Transport, Float[Array, " p"] | None]] = jax.custom_vjp(  # pyright: ignore[reportAssignmentType]
    _transport, nondiff_argnums=(0, 4)
)


def _forward(
    solve: SolveBlock, problem: Problem, similarity: Any, tolerance: Array, iterations: int
) -> tuple[Any, Any]:
    found = solve(problem, tolerance, iterations)
    out = loop.result(found, similarity)
    return out, (problem, similarity, iteration.absorb(problem, found.potentials, found.scale), out[0].plan)


def _backward(
    solve: SolveBlock, iterations: int, saved: Any, cotangents: Any
) -> tuple[Any, Array | None, None]:
    del solve, iterations
    problem, similarity, potentials, plan = saved
    by_plan, by_value = cotangents[0].plan + cotangents[0].mass[:, None, None], cotangents[1]
    if similarity is not None:
        by_plan = by_plan + by_value[:, None, None] * similarity
    whole, by_whole = _with_dummies(problem, potentials, plan), by_plan
    if problem.slack is not None:
        by_whole = jnp.pad(by_plan, ((0, 0), (0, 1), (0, 1)))
    sums = whole.sum(2), whole.sum(1)
    tau_a, tau_b = _taus(problem)
    to_rows, to_cols = tau_a * _ratio(whole, sums[0][:, :, None]), tau_b * _ratio(whole, sums[1][:, None, :])
    gain = by_whole * whole
    x, y = _adjoint(to_rows, to_cols, gain.sum(2), gain.sum(1), sums[1], (tau_a * tau_b)[:, :, 0] >= 1)
    n, m = problem.cost.shape[1:]
    by_cost = (to_rows * x[:, :, None] + to_cols * y[:, None, :] - gain)[:, :n, :m]
    new = problem.replace(
        cost=by_cost,
        a=tau_a[:, 0] * _ratio(x[:, :n], problem.a),
        b=tau_b[:, 0] * _ratio(y[:, :m], problem.b),
        rows=None,
        cols=None,
        dummies=None,
        slack=None if problem.slack is None else _ratio(x[:, n] + y[:, m], problem.slack),
        price=None,
        tau_a=_by_tau(problem.tau_a, x, potentials.rows, problem.a, sums[0]),
        tau_b=_by_tau(problem.tau_b, y, potentials.cols, problem.b, sums[1]),
    )
    return new, None if similarity is None else by_value[:, None, None] * plan, None


transport.defvjp(_forward, _backward)


def _with_dummies(problem: Problem, potentials: Sides, plan: Array) -> Float[Array, "p i j"]:
    if problem.slack is None:
        return plan
    kernel = iteration.make_kernel(problem, potentials)
    row = jnp.pad(kernel.from_slack, ((0, 0), (0, 1)))
    return jnp.concatenate([jnp.concatenate([plan, kernel.to_slack[:, :, None]], 2), row[:, None, :]], 1)


def _taus(problem: Problem) -> tuple[Array, Array]:
    one = jnp.ones((problem.cost.shape[0], 1, 1), problem.cost.dtype)
    if problem.tau_a is None:
        return one, one
    return problem.tau_a[:, None, None], problem.tau_b[:, None, None]


def _ratio(x: Array, y: Array) -> Array:
    """X / y, 0 where there is no mass."""
    live = y > 0
    return jnp.where(live, x, 0.0) / jnp.where(live, y, 1.0)


def _adjoint(
    to_rows: Array, to_cols: Array, by_f: Array, by_g: Array, col_sums: Array, singular: Array
) -> tuple[Array, Array]:
    """Solves x + to_cols y = by_f, to_rows^T x + y = by_g."""
    system = jnp.eye(to_rows.shape[2], dtype=to_rows.dtype)[None] - einsum("pij,pik->pjk", to_rows, to_cols)
    # The null vector is the column sums, that of the transpose is ones: their product fills the gap.
    system += jnp.where(singular, col_sums, 0.0)[:, :, None]
    y = jnp.linalg.solve(system, (by_g - einsum("pij,pi->pj", to_rows, by_f))[:, :, None])[:, :, 0]
    return by_f - einsum("pij,pj->pi", to_cols, y), y


def _by_tau(tau: Any, adjoint: Array, potential: Array, wanted: Array, sums: Array) -> Array | None:
    if tau is None:
        return None
    live = (wanted > 0) & (sums > 0)
    log_ratio = jnp.log(jnp.where(live, wanted, 1.0)) - jnp.log(jnp.where(live, sums, 1.0))
    return jnp.sum(jnp.where(live, adjoint * (potential + log_ratio), 0.0), axis=-1)
