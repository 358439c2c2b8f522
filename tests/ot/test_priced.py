import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from tests.ot.problems import changed, difference, problem, programs, reference_plan
from vitjax.ot.priced import extended


def test_one_pair_of_points_splits_its_mass_as_worked_out_by_hand():
    # One point per side: mass t on the match and on the dummies' corner, 1 - t twice; the four cells obey
    # t^2 / (1 - t)^2 = exp((price - cost) / epsilon).
    one = np.ones(1)
    for cost, price in ((0.3, 0.4), (0.4, 0.3), (0.5, 0.5)):
        found = programs.priced_sinkhorn(
            np.full((1, 1), cost), one, one, price=price, epsilon=0.1, iterations=500
        )
        odds = np.exp((price - cost) / 0.1 / 2)
        np.testing.assert_allclose(found.mass, odds / (1 + odds), atol=1e-5)


def test_matches_dearer_than_the_price_are_not_made():
    cost = np.array([[0.1, 1.0, 1.0], [1.0, 0.3, 1.0], [1.0, 1.0, 0.8]])
    third = np.full(3, 1 / 3)
    found = programs.priced_sinkhorn(cost, third, third, price=0.5, epsilon=0.01, iterations=2000)
    np.testing.assert_allclose(found.plan, np.diag([1 / 3, 1 / 3, 0]), atol=1e-3)
    np.testing.assert_allclose(found.mass, 2 / 3, atol=1e-3)


def test_the_plan_is_that_of_the_extended_problem_in_float64():
    cost, a, b = problem(0, 6, 5, zeros=True)
    whole = np.pad(cost, ((0, 1), (0, 1)), constant_values=0.25)
    whole[-1, -1] = 0.0
    want = 2 * reference_plan(whole, np.append(a, 1) / 2, np.append(b, 1) / 2, 0.1)[:-1, :-1]
    found = programs.priced_sinkhorn(cost, a, b, price=0.5, epsilon=0.1, iterations=1000)
    np.testing.assert_allclose(found.plan, want, atol=1e-6)
    np.testing.assert_allclose(found.row_error + found.col_error, 0, atol=1e-5)
    np.testing.assert_allclose(found.plan.sum(), found.mass, atol=1e-6)


def test_a_price_far_above_all_costs_is_balanced_and_one_far_below_matches_nothing():
    cost, a, b = problem(1, 3, 6, 5, zeros=True)
    balanced = programs.sinkhorn(cost, a, b, epsilon=0.05, iterations=2000)
    dear = programs.priced_sinkhorn(cost, a, b, price=6.0, epsilon=0.05, iterations=2000)
    np.testing.assert_allclose(dear.plan, balanced.plan, atol=1e-4)
    cheap = programs.priced_sinkhorn(cost + 1.0, a, b, price=0.1, epsilon=0.02, iterations=2000)
    assert (cheap.mass < 1e-4).all()


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_the_plan_is_that_of_partial_transport_of_the_mass_it_found(epsilon):
    with jax.enable_x64(True):
        cost, a, b = problem(2, 4, 6, 5, zeros=True, dtype=jnp.float64)
        prices = np.array([0.3, 0.5, 0.8, 1.2])
        free = programs.priced_sinkhorn(cost, a, b, price=prices, epsilon=epsilon, iterations=5000)
        assert (free.mass > 0.05).all() and (free.mass < 0.999).all()
        held = programs.partial_sinkhorn(cost, a, b, mass=free.mass, epsilon=epsilon, iterations=5000)
        assert (held.row_error + held.col_error < 1e-9).all(), "both have converged"
        np.testing.assert_allclose(free.plan, held.plan, atol=1e-8)


def test_no_plan_of_another_mass_is_worth_more():
    cost, a, b = problem(8, 6, 5)
    free = programs.priced_match(1 - cost, a, b, price=0.5, epsilon=0.002, iterations=5000)
    shift = free.transport.mass + np.array([-0.1, -0.05, 0.05, 0.1], "f")
    one = (np.broadcast_to(x, (4, *x.shape)) for x in (cost, a, b))
    held = programs.partial_sinkhorn(*one, mass=shift, epsilon=0.002, iterations=5000)
    worth = (held.plan * (1 - cost)[None]).sum((1, 2)) + 0.5 * (1 - shift)
    assert (worth < free.score).all()


def test_cost_and_price_may_move_together_and_more_is_matched_at_a_higher_price():
    cost, a, b = problem(3, 4, 6, 5)
    plain = programs.priced_sinkhorn(cost, a, b, price=0.4, epsilon=0.05, iterations=1000)
    moved = programs.priced_sinkhorn(cost + 0.7, a, b, price=1.1, epsilon=0.05, iterations=1000)
    np.testing.assert_allclose(moved.plan, plain.plan, atol=1e-5)
    prices = np.array([0.1, 0.4, 0.9, 2.0])
    one = (np.broadcast_to(x[0], (4, *x.shape[1:])) for x in (cost, a, b))
    masses = programs.priced_sinkhorn(*one, price=prices, epsilon=0.05, iterations=1000).mass
    assert (np.diff(masses) > 0).all()


def test_the_order_of_points_and_sides_does_not_matter_and_weightless_points_are_not_there():
    cost, a, b = problem(4, 3, 6, 5, zeros=True)
    settings = {"price": 0.6, "epsilon": 0.1, "iterations": 1000}
    plan = programs.priced_sinkhorn(cost, a, b, **settings).plan
    rows, cols = [3, 1, 5, 0, 2, 4], [4, 0, 2, 1, 3]
    permuted = programs.priced_sinkhorn(cost[:, rows][:, :, cols], a[:, rows], b[:, cols], **settings).plan
    np.testing.assert_allclose(permuted, plan[:, rows][:, :, cols], atol=2e-6)
    swapped = programs.priced_sinkhorn(np.swapaxes(cost, -1, -2), b, a, **settings).plan
    np.testing.assert_allclose(swapped, np.swapaxes(plan, -1, -2), atol=2e-6)
    removed = programs.priced_sinkhorn(cost[:, 1:, :-1], a[:, 1:], b[:, :-1], **settings).plan
    np.testing.assert_allclose(plan[:, 1:, :-1], removed, atol=2e-6)
    assert (plan[:, 0] == 0).all() and (plan[:, :, -1] == 0).all()


def test_both_solvers_agree_and_tolerance_is_kept():
    cost, a, b = problem(5, 3, 6, 5)
    settings = {"price": 0.5, "epsilon": 0.05, "iterations": 3000}
    ours = programs.priced_sinkhorn(cost, a, b, **settings)
    np.testing.assert_allclose(
        ours.plan, programs.priced_sinkhorn(cost, a, b, **settings, solver="ott").plan, atol=1e-5
    )
    stopped = programs.priced_sinkhorn(cost, a, b, **settings, tolerance=1e-4)
    assert (stopped.row_error + stopped.col_error <= 2.1e-4).all()
    np.testing.assert_allclose(stopped.mass, ours.mass, atol=1e-3)


@pytest.mark.parametrize("tolerance", [0.0, 1e-9])
def test_gradients_equal_finite_differences_in_float64(tolerance):
    with jax.enable_x64(True):
        cost, a, b = problem(6, 2, 4, 5, zeros=True, dtype=jnp.float64)

        def value(cost, a, b, price):
            match = programs.priced_match(
                1 - cost, a, b, price=price, epsilon=0.1, iterations=300, tolerance=tolerance
            )
            return match.score.sum() + match.transport.mass[0]

        point = [cost, a, b, jnp.asarray(0.6)]
        gradients, run = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*point), jax.jit(value)
        for i, gradient in enumerate(gradients):
            step = np.random.default_rng(i).normal(size=point[i].shape)
            step, wanted = difference(run, point, i, step, 1e-6)
            np.testing.assert_allclose(np.sum(gradient * step), wanted, rtol=1e-4, atol=1e-7)


def test_a_side_without_mass_matches_nothing_and_harms_nobody():
    cost, a, b = problem(7, 2, 4, 4)
    found = programs.priced_sinkhorn(cost, changed(a, 0, 0.0), b, price=0.5, epsilon=0.05)
    assert found.mass[0] == 0 and found.mass[1] > 0
    assert np.isfinite(found.row_error + found.col_error).all()


@pytest.mark.parametrize(("a", "b"), [([0.0, 0.0], [0.25, 0.25, 0.5]), ([0.5, 0.5], [0.0, 0.0, 0.0])])
def test_both_sides_of_the_extended_problem_weigh_the_same_where_one_has_no_mass(a, b):
    whole = compiled(extended)(np.ones((2, 3)), np.array(a), np.array(b), np.float32(0.5))
    assert float(whole.a.sum()) == float(whole.b.sum()) == 0.5
