"""The same problems through OTT-JAX: the reference for `vitjax.ot.solvers.loop`.

Iterations are unrolled (`implicit_diff=None`): OTT's implicit gradient is NaN, or silently wrong, where
marginals hold zeros. Importing this module imports OTT, which takes seconds; `vitjax.ot` does so only when
asked for `solver="ott"`.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vitjax.errors import UserError

with warnings.catch_warnings():
    # OTT imports JAXopt, whose notice that it is no longer maintained is not for our users.
    warnings.simplefilter("ignore", DeprecationWarning)
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

from vitjax import ranges
from vitjax.ot.outputs import Transport
from vitjax.ot.problem import TransportProblem


def solve(problem: TransportProblem, iterations: int) -> tuple[Transport, None]:
    """Entropic transport of p independent problems, without a value of its own.

    Partial transport solves the extended problem: one more row and column for the dummy points. Relaxed: taus
    are numbers, since OTT chooses its formulas by them before tracing.
    """
    taus = tuple(ranges.known_number(tau) for tau in problem.taus or (1.0, 1.0))
    if None in taus:
        raise UserError("vitjax.ot: solver 'ott' needs tau_a and tau_b as plain numbers; use solver 'fused'")
    return _solve(problem._replace(taus=None, similarity=None), taus, iterations), None


@functools.partial(jax.jit, static_argnums=(1, 2))
def _solve(problem: TransportProblem, taus: tuple[float, float], iterations: int) -> Transport:
    return jax.vmap(functools.partial(_one, taus=taus, iterations=iterations))(problem)


def _one(problem: TransportProblem, *, taus: tuple[float, float], iterations: int) -> Transport:
    cost, a, b, epsilon, tolerance, slack, *_ = problem
    n, m = cost.shape
    # Where there is no mass the cost means nothing, and a NaN there must not spread.
    cost = jnp.where((a > 0)[:, None] & (b > 0)[None, :], cost, 0.0)
    a, b = jnp.where(a > 0, a, 0.0), jnp.where(b > 0, b, 0.0)  # OTT's gradient at an exact 0 is NaN
    wanted_rows, wanted_cols = a, b
    if slack is not None:
        # exp(-1e3) is 0 in float32 and float64: the dummies cannot meet, at any epsilon.
        corner = cost.max() + 1.0 + 1e3 * epsilon
        cost = jnp.pad(cost, ((0, 1), (0, 1)), constant_values=1.0).at[n, m].set(corner)
        wanted_rows, wanted_cols = jnp.append(a, slack), jnp.append(b, slack)
    solver = Sinkhorn(
        threshold=-1.0 if tolerance is None else tolerance,
        min_iterations=iterations if tolerance is None else 0,
        max_iterations=iterations,
        # A fixed number is one inner loop: of several, OTT's backward pass sees only a part.
        inner_iterations=iterations if tolerance is None else 10,
        implicit_diff=None,
    )
    out = solver(
        LinearProblem(
            Geometry(cost_matrix=cost, epsilon=epsilon),  # pyright: ignore[reportArgumentType]
            a=wanted_rows,
            b=wanted_cols,
            tau_a=float(taus[0]),
            tau_b=float(taus[1]),
        )
    )
    plan = out.matrix
    row_error = _error(plan.sum(-1), wanted_rows, out.f / epsilon, taus[0])
    col_error = _error(plan.sum(-2), wanted_cols, out.g / epsilon, taus[1])
    # Dummies without real points to meet would meet one another.
    lost = ~((a > 0).any() & (b > 0).any())
    row_error = jnp.where(lost, wanted_rows.sum(), row_error)
    col_error = jnp.where(lost, wanted_cols.sum(), col_error)
    plan = plan[:n, :m]
    return Transport(plan, row_error, col_error, plan.sum())


def _error(sums: Array, wanted: Array, potential: Array, tau: float) -> Array:
    """L1 distance from the wanted sums; relaxed, from those that another update would give."""
    if tau < 1:
        live = (wanted > 0) & (sums > 0)
        ratio = jnp.log(jnp.where(live, wanted, 1.0)) - jnp.log(jnp.where(live, sums, 1.0))
        wanted = jnp.where(
            live, sums * jnp.exp(tau * ratio - (1.0 - tau) * jnp.where(live, potential, 0.0)), 0.0
        )
    return jnp.abs(sums - wanted).sum()
