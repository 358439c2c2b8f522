import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.ot.problems import changed, problem, programs
from vitjax import ot


def test_tau_of_one_is_balanced():
    cost, a, b = problem(0, 3, 6, 5, zeros=True)
    balanced = programs.sinkhorn(cost, a, b, epsilon=0.05, iterations=2000)
    relaxed = programs.relaxed_sinkhorn(cost, a, b, tau_a=1.0, tau_b=1.0, epsilon=0.05, iterations=2000)
    np.testing.assert_allclose(relaxed.plan, balanced.plan, atol=2e-6)


def test_free_columns_give_every_row_a_softmax_over_its_costs():
    # tau_b = 0 fixes g = 0, so a row's mass is shared in proportion to exp(-cost / epsilon): by hand.
    cost, a, b = problem(1, 3, 6, 5, zeros=True)
    b = changed(b, np.s_[..., -1], 0.0)
    relaxed = programs.relaxed_sinkhorn(cost, a, b, tau_a=1.0, tau_b=0.0, epsilon=0.05)
    share = scipy.special.softmax(np.where(b[:, None, :] > 0, -cost / 0.05, -np.inf), axis=-1)
    np.testing.assert_allclose(relaxed.plan, a[:, :, None] * share, atol=1e-6)
    np.testing.assert_allclose(relaxed.row_error + relaxed.col_error, 0.0, atol=1e-6)


def test_free_columns_and_small_epsilon_give_the_best_match_of_every_row():
    cost, a, b = problem(2, 3, 6, 5)
    relaxed = programs.relaxed_sinkhorn(cost, a, b, tau_a=1.0, tau_b=0.0, epsilon=1e-3)
    chamfer = (a * cost.min(-1)).sum(-1)
    np.testing.assert_allclose((relaxed.plan * cost).sum((-2, -1)), chamfer, atol=3e-3)


@pytest.mark.parametrize("taus", [(0.67, 0.67), (1.0, 0.5), (0.99, 0.95), (0.1, 0.3)])
@pytest.mark.parametrize("epsilon", [0.005, 0.05, 1.0])
def test_both_solvers_agree(taus, epsilon):
    cost, a, b = problem(3, 3, 7, 6, zeros=True)
    settings = {"tau_a": taus[0], "tau_b": taus[1], "epsilon": epsilon, "iterations": 1000}
    ours = ot.relaxed_sinkhorn(cost, a, b, **settings)
    theirs = ot.relaxed_sinkhorn(cost, a, b, **settings, solver="ott")
    np.testing.assert_allclose(ours.plan, theirs.plan, atol=1e-5, rtol=1e-5)
    for found in (ours, theirs):
        np.testing.assert_allclose(found.row_error, 0.0, atol=1e-5)
        np.testing.assert_allclose(found.col_error, 0.0, atol=1e-5)


def test_tolerance_and_traced_taus_per_problem():
    cost, a, b = problem(4, 3, 7, 6)
    tau = np.array([0.5, 0.8, 1.0], "f")
    run = jax.jit(
        lambda tau, tolerance: programs.relaxed_sinkhorn(
            cost, a, b, tau_a=tau, tau_b=tau, epsilon=0.05, iterations=5000, tolerance=tolerance
        )
    )
    stopped = jax.device_get(run(tau, 1e-5))
    assert (np.asarray(stopped.row_error + stopped.col_error) <= 1e-5).all()
    for i in range(3):
        alone = programs.relaxed_sinkhorn(
            cost[i], a[i], b[i], tau_a=tau[i], tau_b=tau[i], epsilon=0.05, iterations=5000
        )
        np.testing.assert_allclose(stopped.plan[i], alone.plan, atol=1e-4)


@pytest.mark.slow
def test_gradients_equal_finite_differences_in_float64():
    with jax.enable_x64(True):
        cost, a, b = problem(5, 2, 5, 4, zeros=True, dtype=jnp.float64)
        weight = np.random.default_rng(0).normal(size=cost.shape)

        def value(cost, tau):
            plan = programs.relaxed_sinkhorn(
                cost, a, b, tau_a=tau, tau_b=0.8, epsilon=0.1, iterations=40
            ).plan
            return jnp.sum(plan * weight)

        point = [cost, jnp.asarray(0.7)]
        gradients, run = jax.jit(jax.grad(value, argnums=(0, 1)))(*point), jax.jit(value)
        for i, gradient in enumerate(gradients):
            step = np.random.default_rng(i).normal(size=point[i].shape)
            ahead, behind = ([*point[:i], point[i] + h * step, *point[i + 1 :]] for h in (1e-6, -1e-6))
            difference = (run(*ahead) - run(*behind)) / 2e-6
            np.testing.assert_allclose(np.sum(gradient * step), difference, rtol=1e-5, atol=1e-8)


def test_ott_wants_its_taus_as_numbers_known_before_tracing():
    cost, a, b = problem(6, 3, 3)

    def relaxed(tau):
        return ot.relaxed_sinkhorn(cost, a, b, tau_a=tau, tau_b=1.0, epsilon=0.1, solver="ott").plan

    with pytest.raises(ValueError, match="needs tau_a and tau_b as plain numbers"):
        jax.jit(relaxed)(0.5)
    np.testing.assert_array_equal(relaxed(jnp.asarray(0.5)), relaxed(0.5))
