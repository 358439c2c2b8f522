import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ot.problems import problem, programs
from vitjax import ot

BOTH = (programs.chamfer, programs.mutual_nearest)
# Rows' nearest columns: 0, 0, 2. Columns' nearest rows: 0, 1, 2. Mutual: (0, 0) and (2, 2).
COST = np.array([[0.1, 0.9, 0.8], [0.2, 0.3, 0.7], [0.9, 0.6, 0.4]])
A, B = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])


def test_chamfer_by_hand():
    found = programs.chamfer(COST, A, B)
    plan = [[0.5 / 2 + 0.2 / 2, 0, 0], [0.3 / 2, 0.2 / 2, 0], [0, 0, 0.2 / 2 + 0.6 / 2]]
    np.testing.assert_allclose(found.plan, plan, atol=1e-7)
    np.testing.assert_allclose(found.mass, 1.0, atol=1e-6)
    nearest = 0.5 * (A @ COST.min(1)) + 0.5 * (B @ COST.min(0))
    np.testing.assert_allclose((found.plan * COST).sum(), nearest, atol=1e-7)


def test_mutual_neighbours_move_what_both_have():
    found = programs.mutual_nearest(COST, A, B)
    np.testing.assert_allclose(found.plan, np.diag([0.2, 0.0, 0.2]), atol=1e-7)
    np.testing.assert_allclose(found.mass, 0.4, atol=1e-6)
    even = np.full(3, 1 / 3)
    np.testing.assert_allclose(programs.mutual_nearest(COST, even, even).mass, 2 / 3, atol=1e-6)


@pytest.mark.parametrize("function", BOTH)
def test_ties_share_evenly_so_that_order_does_not_matter(function):
    twice = np.array([[0.2, 0.2, 0.9], [0.2, 0.2, 0.9], [0.9, 0.9, 0.1]])
    even = np.full(3, 1 / 3)
    plan = function(twice, even, even).plan
    np.testing.assert_allclose(plan[:2, :2], 1 / 6, atol=1e-7)
    rows, cols = [1, 2, 0], [2, 0, 1]
    moved = function(twice[rows][:, cols], even, even).plan
    np.testing.assert_allclose(moved, plan[rows][:, cols], atol=1e-7)


@pytest.mark.parametrize("function", BOTH)
def test_permuted_points_permute_the_plan_and_swapped_sides_transpose_it(function):
    cost, a, b = problem(0, 4, 6, 5)
    plan = function(cost, a, b).plan
    rows, cols = [3, 1, 5, 0, 2, 4], [4, 0, 2, 1, 3]
    permuted = function(cost[:, rows][:, :, cols], a[:, rows], b[:, cols]).plan
    np.testing.assert_allclose(permuted, plan[:, rows][:, :, cols], atol=1e-7)
    swapped = function(np.swapaxes(cost, -1, -2), b, a).plan
    np.testing.assert_allclose(swapped, np.swapaxes(plan, -1, -2), atol=1e-7)


@pytest.mark.parametrize("function", BOTH)
def test_points_of_weight_zero_equal_removed_points(function):
    cost, a, b = problem(1, 3, 6, 5, zeros=True)
    cost[:, 0] = cost[:, :, -1] = -9.0  # the nearest of all, were they there
    whole, removed = function(cost, a, b).plan, function(cost[:, 1:, :-1], a[:, 1:], b[:, :-1]).plan
    np.testing.assert_allclose(whole[:, 1:, :-1], removed, atol=1e-7)
    assert (whole[:, 0] == 0).all() and (whole[:, :, -1] == 0).all()


def test_chamfer_is_the_mean_of_two_relaxed_problems_of_small_epsilon():
    cost, a, b = problem(2, 3, 6, 5)
    kept = {"epsilon": 1e-3, "iterations": 50}
    rows = programs.relaxed_sinkhorn(cost, a, b, tau_a=1.0, tau_b=0.0, **kept).plan
    cols = programs.relaxed_sinkhorn(cost, a, b, tau_a=0.0, tau_b=1.0, **kept).plan
    ours = programs.chamfer(cost, a, b).plan
    gap = ((0.5 * (rows + cols) - ours) * cost).sum((-2, -1))
    np.testing.assert_allclose(gap, 0.0, atol=3e-3)


@pytest.mark.parametrize("function", BOTH)
def test_mutual_plans_fit_the_weights_and_chamfer_plans_have_mass_one(function):
    cost, a, b = problem(3, 20, 7, 9)
    found = function(cost, a, b)
    if function is programs.mutual_nearest:
        assert (found.plan.sum(-1) <= a + 1e-6).all() and (found.plan.sum(-2) <= b + 1e-6).all()
    else:
        np.testing.assert_allclose(found.mass, 1.0, atol=1e-6)


def test_gradient_of_the_chamfer_cost_equals_finite_differences():
    with jax.enable_x64(True):
        cost, a, b = problem(4, 2, 4, 5, dtype=jnp.float64)

        def value(cost, a):
            return (ot.chamfer(cost, a, b).plan * cost).sum()

        gradients, value = jax.jit(jax.grad(value, argnums=(0, 1)))(cost, a), jax.jit(value)
        for i, point in enumerate((cost, a)):
            step = np.random.default_rng(i).normal(size=point.shape)
            moved = [[cost, a], [cost, a]]
            moved[0][i], moved[1][i] = point + 1e-6 * step, point - 1e-6 * step
            difference = (value(*moved[0]) - value(*moved[1])) / 2e-6
            np.testing.assert_allclose(np.sum(gradients[i] * step), difference, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("function", BOTH)
def test_an_empty_side_moves_nothing_and_nan_stays_with_its_pair(function):
    cost, a, b = problem(5, 3, 4, 4)
    a[0] = 0.0
    cost[1] = np.nan
    found = function(cost, a, b)
    assert found.mass[0] == 0
    assert np.isnan(found.mass[1])
    np.testing.assert_array_equal(found.plan[2], function(cost[2], a[2], b[2]).plan)


@pytest.mark.parametrize("function", [ot.chamfer, ot.mutual_nearest])
def test_jit_equals_eager(function):
    arguments = problem(6, 3, 6, 5)
    np.testing.assert_array_equal(jax.jit(function)(*arguments).plan, function(*arguments).plan)
