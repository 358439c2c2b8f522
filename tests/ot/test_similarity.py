import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ot.problems import problem, programs, tokens
from vitjax import ot


def _even(*shape: int) -> np.ndarray:
    return np.full(shape, 1.0 / shape[-1], "f")


def test_an_image_matches_itself_patch_by_patch():
    x = tokens(0, 6, 32)
    match = programs.structural_match(x, x, _even(6), _even(6), epsilon=0.01)
    np.testing.assert_array_equal(np.argmax(match.transport.plan, -1), np.arange(6))
    assert 0.99 < float(match.score) <= 1.0 + 1e-6


def test_score_is_the_sum_of_plan_times_similarity_and_bounded_by_the_mass():
    x, y = tokens(1, 2, 5, 16), tokens(2, 2, 7, 16)
    for mass in (1.0, 0.5):
        match = programs.structural_match(x, y, _even(2, 5), _even(2, 7), mass=mass)
        by_hand = (match.transport.plan * (x @ np.swapaxes(y, -1, -2))).sum((-2, -1))
        np.testing.assert_allclose(match.score, by_hand, atol=1e-6)
        assert (np.abs(match.score) <= mass + 1e-5).all()
        score = programs.structural_similarity(x, y, _even(2, 5), _even(2, 7), mass=mass)
        np.testing.assert_array_equal(score, match.score)


@pytest.mark.slow
def test_swapping_images_transposes_the_plan():
    x, y = tokens(3, 3, 5, 16), tokens(4, 3, 7, 16)
    _, a, b = problem(3, 3, 5, 7)
    for mass in (1.0, 0.8):
        there = programs.structural_match(x, y, a, b, mass=mass, iterations=2000)
        back = programs.structural_match(y, x, b, a, mass=mass, iterations=2000)
        np.testing.assert_allclose(there.score, back.score, atol=1e-5)
        np.testing.assert_allclose(there.transport.plan, np.swapaxes(back.transport.plan, -1, -2), atol=1e-5)


def test_scores_of_many_pairs_equal_those_of_few():
    # 300 pairs go through several blocks, 3 through one.
    x, y = tokens(5, 300, 16, 8), tokens(6, 300, 16, 8)
    even = _even(300, 16)
    many = programs.structural_similarity(x, y, even, even, iterations=30)
    few = programs.structural_similarity(x[:3], y[:3], even[:3], even[:3], iterations=30)
    np.testing.assert_allclose(many[:3], few, atol=1e-6)


def test_bfloat16_tokens_give_float32_scores():
    x = tokens(7, 5, 16)
    score = programs.structural_similarity(x.astype(jnp.bfloat16), x.astype(jnp.bfloat16), _even(5), _even(5))
    assert score.dtype == jnp.float32
    np.testing.assert_allclose(score, programs.structural_similarity(x, x, _even(5), _even(5)), atol=1e-2)


@pytest.mark.slow
def test_gradient_with_respect_to_tokens_equals_finite_differences():
    with jax.enable_x64(True):
        x, y = (tokens(i, 2, 4, 6).astype(float) for i in (8, 9))
        even = np.full((2, 4), 0.25)

        def value(x):
            return programs.structural_similarity(x, y, even, even, mass=0.8, iterations=50).sum()

        gradient = jax.jit(jax.grad(value))(x)
        step = np.random.default_rng(0).normal(size=x.shape)
        run = jax.jit(value)
        difference = (run(x + 1e-6 * step) - run(x - 1e-6 * step)) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * step), difference, rtol=1e-6)


@pytest.mark.slow
def test_released_plans_depend_on_the_batch_and_ours_do_not():
    cost, a, b = problem(10, 8, 9, 7)

    def plans(count, compat):
        return programs.sinkhorn(cost[:count], a[:count], b[:count], epsilon=0.2, compat=compat).plan

    gap = {c: np.abs(plans(8, c)[:1] - plans(1, c)).max() for c in ("released", None)}
    assert gap["released"] > 1e-4
    assert gap[None] < 1e-6


def test_released_partial_transport_moves_too_little_and_ours_does_not():
    # The defect that compat keeps: at a small mass the stop rule fires before anything has converged.
    x, y = tokens(12, 4, 49, 8), tokens(13, 4, 49, 8)
    even = _even(4, 49)
    released = programs.structural_match(x, y, even, even, mass=0.3, compat="released").transport
    ours = programs.structural_match(x, y, even, even, mass=0.3, iterations=300).transport
    np.testing.assert_allclose(ours.mass, 0.3, atol=1e-4)
    assert np.abs(released.mass - 0.3).max() > 0.01
    assert (released.row_error > 0.01).any() or (released.col_error > 0.01).any()


def test_shapes_that_do_not_belong_together_are_named():
    x = tokens(14, 5, 16)
    with pytest.raises(Exception, match=r"belong together|Type-check"):
        ot.structural_similarity(x, x, _even(4), _even(5))


def test_released_errors_are_those_of_their_own_side():
    rng = np.random.default_rng(0)
    query, candidate = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 4)))
    a, b = np.array([0.4, 0.1, 0.5]), np.array([0.3, 0.2, 0.1, 0.1, 0.3])
    transport = programs.structural_match(
        query[None, :3], candidate[None], a[None], b[None], iterations=2, epsilon=0.02, compat="released"
    ).transport
    errors = np.abs(transport.plan.sum(2) - a).sum(), np.abs(transport.plan.sum(1) - b).sum()
    assert abs(errors[0] - errors[1]) > 1e-3
    np.testing.assert_allclose([transport.row_error[0], transport.col_error[0]], errors, rtol=1e-4, atol=1e-6)
