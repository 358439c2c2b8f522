import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ot.problems import problem
from vitjax import ot


@pytest.mark.parametrize("mass", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.5])
def test_both_solvers_agree_at_convergence(mass, epsilon):
    # Uniform costs in [0, 1]: converged by then, which is what makes two starting points comparable.
    cost, a, b = problem(0, 4, 9, 7, zeros=True)
    settings = {"mass": mass, "epsilon": epsilon, "iterations": 4000}
    ours = ot.partial_sinkhorn(cost / 2, a, b, **settings)
    theirs = ot.partial_sinkhorn(cost / 2, a, b, **settings, solver="ott")
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_tolerance_stops_ott_within_it_and_traces_once():
    cost, a, b = problem(1, 4, 9, 7)
    traces = 0

    def run(tolerance):
        nonlocal traces
        traces += 1
        return ot.sinkhorn(cost, a, b, epsilon=0.05, iterations=5000, tolerance=tolerance, solver="ott")

    compiled = jax.jit(run)
    for tolerance in (1e-2, 1e-4):
        transport = compiled(tolerance)
        assert (np.asarray(transport.row_error + transport.col_error) <= 1.1 * tolerance).all()
    assert traces == 1


@pytest.mark.slow
def test_gradients_of_both_solvers_agree_with_masked_rows_and_columns():
    with jax.enable_x64(True):
        cost, a, b = problem(2, 2, 5, 4, zeros=True, dtype=jnp.float64)
        weight = jnp.asarray(np.random.default_rng(0).normal(size=cost.shape))

        def value(cost, solver):
            plan = ot.sinkhorn(cost, a, b, epsilon=1.0, iterations=400, solver=solver).plan
            return jnp.sum(plan * weight)

        ours, theirs = (jax.grad(value)(cost, solver) for solver in ("fused", "ott"))
        np.testing.assert_allclose(ours, theirs, atol=1e-8)
