"""A transport solver of your own: Sinkhorn in the log domain, and one entry in `SOLVERS`."""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from vitjax.ot import SOLVERS, Solver, Transport


def solve(problem, iterations):
    """Of p balanced problems: the transport, and None for the value, which is then computed from the plan."""
    if problem.dummy_mass is not None or problem.taus is not None:
        raise ValueError("solver 'log' moves all mass; set mass to 1, or use solver 'fused'")
    scores = -problem.cost / problem.epsilon[:, None, None]
    log_a, log_b = jnp.log(problem.a)[:, :, None], jnp.log(problem.b)[:, None, :]  # -inf where no mass is

    def step(_, g):
        f = log_a - logsumexp(scores + g, axis=2, keepdims=True)
        return log_b - logsumexp(scores + f, axis=1, keepdims=True)

    g = jax.lax.fori_loop(0, iterations, step, jnp.where(log_b > -jnp.inf, 0.0, log_b))
    plan = jnp.exp(scores + g + log_a - logsumexp(scores + g, axis=2, keepdims=True))
    row_error = jnp.abs(plan.sum(axis=2) - problem.a).sum(axis=1)
    col_error = jnp.abs(plan.sum(axis=1) - problem.b).sum(axis=1)
    return Transport(plan, row_error, col_error, plan.sum(axis=(1, 2))), None


SOLVERS["log"] = Solver(solve)
