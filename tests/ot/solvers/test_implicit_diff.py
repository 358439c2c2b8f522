"""Gradients from the optimality conditions, against finite differences and against unrolled iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ot.problems import difference, problem, tokens
from vitjax import ot

KINDS = {
    "balanced": lambda cost, a, b, epsilon, number, **rest: ot.sinkhorn(cost, a, b, epsilon=epsilon, **rest),
    "partial": lambda cost, a, b, epsilon, number, **rest: ot.partial_sinkhorn(
        cost, a, b, epsilon=epsilon, mass=number, **rest
    ),
    "relaxed": lambda cost, a, b, epsilon, number, **rest: ot.relaxed_sinkhorn(
        cost, a, b, epsilon=epsilon, tau_a=number, tau_b=0.8, **rest
    ),
    "one side free": lambda cost, a, b, epsilon, number, **rest: ot.relaxed_sinkhorn(
        cost, a, b, epsilon=epsilon, tau_a=number, tau_b=0.0, **rest
    ),
}


def _value(kind: str, weight, **settings):
    def value(cost, a, b, epsilon, number):
        transport = KINDS[kind](cost, a, b, epsilon, number, **settings)
        return jnp.sum(transport.plan * (weight + cost)) + 0.3 * jnp.sum(transport.mass**2)

    return value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zeros", [pytest.param(False, marks=pytest.mark.slow), True])
def test_implicit_gradients_equal_finite_differences_in_float64(kind, zeros):
    with jax.enable_x64(True):
        cost, a, b = problem(30, 2, 5, 4, zeros=zeros, dtype=jnp.float64)
        weight = np.random.default_rng(0).normal(size=cost.shape)
        value = jax.jit(_value(kind, weight, iterations=20_000, tolerance=1e-13))
        point = [cost, a, b, jnp.asarray(0.1), jnp.asarray(0.7)]
        checked = [0, 1, 2, 3] + [4] * (kind != "balanced")
        gradients = jax.jit(jax.grad(value, argnums=tuple(checked)))(*point)
        rng = np.random.default_rng(1)
        for i, gradient in zip(checked, gradients, strict=True):
            assert np.isfinite(gradient).all()
            step, wanted = difference(value, point, i, rng.normal(size=point[i].shape), 1e-5)
            np.testing.assert_allclose(np.sum(gradient * step), wanted, rtol=1e-6, atol=1e-8, err_msg=str(i))
            free_side = kind == "one side free" and i == 2  # there b only says which columns exist
            assert free_side or np.abs(gradient).max() > 1e-6


@pytest.mark.parametrize("mass", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_gradient_of_a_score_with_respect_to_tokens_is_that_of_unrolled_iterations(mass):
    query, candidate = tokens(31, 3, 7, 8), tokens(32, 3, 6, 8)
    a, b = (np.full(x.shape[:2], 1, "f") * (np.arange(x.shape[1]) > 0) for x in (query, candidate))
    a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)

    def score(query, candidate, tolerance):
        settings = {"epsilon": 0.05, "mass": mass, "iterations": 500, "tolerance": tolerance}
        return ot.structural_similarity(query, candidate, a, b, **settings).sum()

    implicit, unrolled = (
        jax.jit(jax.grad(score, argnums=(0, 1)), static_argnums=2)(query, candidate, tolerance)
        for tolerance in (1e-6, 0.0)
    )
    for x, y in zip(implicit, unrolled, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
        assert not np.asarray(x)[:, 0].any() and np.abs(x).max() > 1e-2


def test_implicit_gradients_are_finite_at_every_epsilon_with_masked_tokens():
    cost, a, b = problem(33, 3, 7, 6, zeros=True)

    def value(cost, a, b, epsilon, mass):
        settings = {"iterations": 300, "tolerance": 1e-4}
        plan = ot.partial_sinkhorn(cost, a, b, mass=mass, epsilon=epsilon, **settings).plan
        return plan[:, 1].sum()

    gradient = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3, 4)))
    for epsilon in (1.0, 0.05, 0.005):
        for mass in (1.0, 0.5):
            assert all(np.isfinite(g).all() for g in gradient(cost, a, b, epsilon, mass))


def test_backward_memory_does_not_grow_with_iterations():
    cost, a, b = problem(34, 8, 16, 16)

    def bytes_of(iterations, tolerance):
        def value(cost):
            settings = {"iterations": iterations, "tolerance": tolerance}
            return ot.sinkhorn(cost, a, b, epsilon=0.05, **settings).plan[:, 0].sum()

        return jax.jit(jax.grad(value)).lower(cost).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(2000, 1e-4) == bytes_of(20, 1e-4)
    assert bytes_of(2000, 0.0) > 10 * bytes_of(2000, 1e-4)
