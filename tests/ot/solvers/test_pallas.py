"""The kernel interpreted on a CPU, and lowered for a GPU and a TPU: neither is needed for that."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from tests.ot.problems import changed, problem, programs
from vitjax import ot
from vitjax.ot.problem import TransportProblem
from vitjax.ot.solvers import iteration, loop, pallas

KINDS = {
    "balanced": programs.sinkhorn,
    "partial": functools.partial(programs.partial_sinkhorn, mass=np.array([0.3, 0.7, 1.0], "f")),
    "relaxed": compiled(functools.partial(ot.relaxed_sinkhorn, tau_a=0.8, tau_b=0.6)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_the_kernel_gives_the_plan_of_the_fused_solver(kind, epsilon):
    cost, a, b = problem(0, 3, 13, 18, zeros=True)
    settings = {"epsilon": epsilon, "iterations": 400, "tolerance": 1e-5}
    found = KINDS[kind](cost, a, b, solver="pallas", **settings)
    wanted = KINDS[kind](cost, a, b, solver="fused", **settings)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
    np.testing.assert_array_equal(found.plan[np.asarray(a) == 0], 0)


@pytest.mark.parametrize(("size", "wanted"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64)])
def test_a_side_is_padded_to_the_next_power_of_two_and_no_farther(size, wanted):
    assert pallas._padded(size) == wanted


def test_without_a_tolerance_all_iterations_run():
    cost, a, b = problem(1, 2, 9, 7)
    plans = [
        programs.sinkhorn(cost, a, b, epsilon=0.05, iterations=12, solver=solver).plan
        for solver in ("pallas", "fused")
    ]
    np.testing.assert_allclose(*plans, atol=1e-6)


def test_a_problem_of_nan_stays_alone():
    cost, a, b = problem(2, 3, 8, 8)
    bad = changed(cost, np.s_[1, 0, 0], np.nan)
    settings = {"epsilon": 0.05, "tolerance": 1e-4, "solver": "pallas"}
    found, whole = programs.sinkhorn(bad, a, b, **settings), programs.sinkhorn(cost, a, b, **settings)
    assert np.isnan(found.row_error[1])
    np.testing.assert_array_equal(found.plan[np.array([0, 2])], whole.plan[np.array([0, 2])])


def test_gradients_are_those_of_the_optimality_conditions():
    cost, a, b = problem(3, 2, 8, 10, zeros=True)

    def score(solver, cost, a):
        settings = {"epsilon": 0.1, "iterations": 500, "tolerance": 1e-6, "solver": solver}
        return jnp.sum(ot.partial_match(1 - cost, a, b, mass=0.8, **settings).score)

    found, wanted = (
        jax.jit(jax.grad(functools.partial(score, solver), argnums=(0, 1)))(cost, a)
        for solver in ("pallas", "fused")
    )
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def _prepared(kind, cost, a, b):
    each = jnp.full(len(cost), 0.5)
    slack, taus = each if kind == "partial" else None, (each, each) if kind == "relaxed" else None
    return iteration.prepare(
        TransportProblem(cost, a, b, jnp.full(len(cost), 0.05), dummy_mass=slack, taus=taus)
    )


@pytest.mark.parametrize(
    ("kind", "n", "m"), [("balanced", 9, 7), ("partial", 49, 49), ("relaxed", 7, 70), ("partial", 64, 64)]
)
def test_the_kernel_of_a_gpu_interpreted_gives_what_the_fused_solver_finds(kind, n, m):
    @jax.jit
    def solved(cost, a, b):
        prepared, tolerance = _prepared(kind, cost, a, b), jnp.array([1e-5, 1e-2, 1e-4])
        found = pallas.solve(prepared, tolerance, 103, platform="gpu", interpret=True)
        wanted = loop.solve(prepared, tolerance, 103)
        return loop.result(found, None)[0], loop.result(wanted, None)[0]

    for x, y in zip(*solved(*problem(6, 3, n, m, zeros=True)), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_lowers_for_an_accelerator(platform, kind):
    cost, a, b = problem(4, 3, 49, 49)

    def solve(cost, a, b):
        return pallas.solve(_prepared(kind, cost, a, b), jnp.full(3, 1e-3), 100, platform=platform)

    name, call = {"gpu": ("cuda", "mosaic_gpu"), "tpu": ("tpu", "tpu_custom_call")}[platform]
    hopper = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu") if platform == "gpu" else None
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("x",), auto, abstract_device=hopper)
    with jax.sharding.use_abstract_mesh(mesh):
        text = jax.jit(solve).trace(cost, a, b).lower(lowering_platforms=(name,)).as_text()
    assert call in text
    assert "triton" not in text


def test_what_does_not_fit_is_refused_in_one_line():
    cost, a, b = problem(5, 1, 130, 130)
    with pytest.raises(ValueError, match=r"130 x 130 tokens do not fit on chip .* use solver 'fused'"):
        ot.sinkhorn(cost, a, b, epsilon=0.05, solver="pallas")


@pytest.mark.gpu
def test_on_a_gpu_the_kernel_gives_the_plan_of_the_fused_solver():
    """`JAX_PLATFORMS=cuda pytest -m gpu`; compiled there, not interpreted."""
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU and JAX_PLATFORMS=cuda")
    cost, a, b = problem(60, 200, 49, 49)
    settings = {"epsilon": 0.05, "mass": 0.8, "iterations": 500, "tolerance": 1e-4}
    fused, chip = (
        ot.partial_sinkhorn(cost, a, b, solver=solver, **settings) for solver in ("fused", "pallas")
    )
    np.testing.assert_allclose(chip.plan, fused.plan, atol=1e-5)
    assert float(jnp.max(chip.row_error + chip.col_error)) <= 1e-4
