"""Solvers are an open set: an object, or an entry of the dictionary."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.ot.problems import problem
from vitjax import ot
from vitjax.ot import SOLVERS, Solver, Transport, TransportProblem


def _plain(problem: TransportProblem, iterations: int) -> tuple[Transport, None]:
    """Sinkhorn as in the paper, for balanced problems."""
    kernel = jnp.exp(-problem.cost / problem.epsilon[:, None, None])
    u, v = jnp.ones_like(problem.a), jnp.ones_like(problem.b)
    for _ in range(iterations):
        u = problem.a / jnp.einsum("pnm,pm->pn", kernel, v)
        v = problem.b / jnp.einsum("pnm,pn->pm", kernel, u)
    plan = u[:, :, None] * kernel * v[:, None, :]
    errors = jnp.abs(plan.sum(2) - problem.a).sum(1), jnp.abs(plan.sum(1) - problem.b).sum(1)
    return Transport(plan, *errors, plan.sum((1, 2))), None


def test_a_solver_of_your_own_gives_plan_and_score_as_an_object_or_by_name(monkeypatch):
    similarity, a, b = problem(7, 3, 6, 5)
    monkeypatch.setitem(SOLVERS, "plain", Solver(_plain))
    settings = {"epsilon": 0.2, "iterations": 200}
    wanted = ot.partial_match(similarity, a, b, **settings)
    for solver in ("plain", Solver(_plain)):
        found = ot.partial_match(similarity, a, b, solver=solver, **settings)
        np.testing.assert_allclose(found.transport.plan, wanted.transport.plan, atol=1e-5)
        np.testing.assert_allclose(found.score, wanted.score, atol=1e-5)


def test_an_unknown_name_is_told_with_those_that_are_known():
    cost, a, b = problem(7, 1, 3, 3)
    with pytest.raises(ValueError, match="solver 'fuse' is unknown; known: 'fused', 'pallas', 'ott'"):
        ot.sinkhorn(cost, a, b, epsilon=0.1, solver="fuse")
