import jax.numpy as jnp
import numpy as np

from vitjax.ot.problem import TransportProblem
from vitjax.ot.solvers import iteration


def test_errors_of_a_partial_problem_count_its_dummy_points():
    a, b, slack = np.array([0.375, 0.625]), np.array([0.5, 0.25, 0.25]), 0.25
    cost = jnp.array([[[0.0, 1.0, 0.5], [0.75, 0.25, 1.5]]])
    given = jnp.asarray(a[None]), jnp.asarray(b[None]), jnp.array([0.5])
    problem = iteration.prepare(TransportProblem(cost, *given, dummy_mass=jnp.array([slack])))
    potentials = iteration.first_potentials(problem)
    kernel = iteration.make_kernel(problem, potentials)
    scale = iteration.Sides(
        jnp.array([[0.5, 2.0]]), jnp.array([[1.0, 0.25, 3.0]]), jnp.array([0.125]), jnp.array([1.5])
    )
    sums = scale._replace(
        **iteration.row_sums(problem, kernel, scale), **iteration.col_sums(problem, kernel, scale)
    )
    whole = np.block(
        [[kernel.real[0], kernel.to_slack[0][:, None]], [kernel.from_slack[0][None], np.zeros((1, 1))]]
    )
    plan = np.array([0.5, 2.0, 0.125])[:, None] * whole * np.array([1.0, 0.25, 3.0, 1.5])
    rows, columns = np.abs(plan.sum(1) - [*a, slack]), np.abs(plan.sum(0) - [*b, slack])
    assert rows[-1] > 1e-3 and columns[-1] > 1e-3
    found = (error(problem, potentials, scale, sums) for error in (iteration.row_error, iteration.col_error))
    np.testing.assert_allclose([float(x[0]) for x in found], [rows.sum(), columns.sum()], rtol=1e-5)
