import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from vitjax.sparsify import losses

B, N, C, D = 2, 6, 5, 4


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("f")


def test_a_student_that_is_its_teacher_pays_for_labels_and_ratio_only():
    target = np.array([0.7, 0.49, 0.343], "f")
    same = losses.Prediction(drawn(0, B, C), drawn(1, B, N, D))
    labels = np.eye(C, dtype="f")[[1, 2]]
    terms = compiled(losses.sparsification_loss)(same, same, labels, np.ones((B, 3, N), "f"), target)
    assert float(terms.distill) == pytest.approx(0, abs=1e-6) and float(terms.token) == 0
    assert float(terms.ratio) == pytest.approx((0.09 + 0.2601 + 0.431649) / 3, abs=1e-6)
    weights = losses.Weights()
    assert float(terms.total) == pytest.approx(
        float(weights.classify * terms.classify + weights.ratio * terms.ratio), rel=1e-5
    )


def test_the_batch_budget_lets_images_differ():
    decisions = jnp.stack([jnp.ones((1, 4)), jnp.zeros((1, 4))])
    target = jnp.array([0.5])
    assert float(losses.ratio_loss(decisions, target)) == pytest.approx(0.25)
    assert float(losses.ratio_loss(decisions, target, level="batch")) == 0


def test_kl_is_that_of_the_student_from_the_teacher():
    student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.9, 0.1]]))
    by_hand = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert float(losses.distill_kl(student, teacher)) == pytest.approx(by_hand, rel=1e-5)
    assert (jax.grad(losses.distill_kl, argnums=1)(student, teacher) == 0).all()


def test_a_class_the_teacher_rules_out_costs_nothing():
    student, teacher = jnp.zeros((1, 3)), jnp.array([[0.0, 0.0, -jnp.inf]])
    assert float(losses.distill_kl(student, teacher)) == pytest.approx(np.log(1.5), rel=1e-5)
    labels = jnp.array([[0.0, 1.0]])
    assert float(losses.soft_cross_entropy(jnp.array([[-jnp.inf, 0.0]]), labels)) == 0


@pytest.mark.parametrize("loss", [losses.token_mse, losses.distill_kl])
def test_dropped_tokens_do_not_count_whatever_they_hold(loss):
    student, teacher = drawn(0, B, N, D), drawn(1, B, N, D)
    graded = compiled(jax.value_and_grad(loss))
    keep = np.repeat(np.array([[1, 1, 0, 0, 0, 0]], "f"), B, axis=0)
    part = compiled(loss)(student[:, :2], teacher[:, :2])
    spoiled, endless = student.copy(), teacher.copy()
    spoiled[:, 3], endless[:, 4] = np.nan, np.inf
    value, grad = graded(spoiled, endless, keep)
    np.testing.assert_allclose(value, part, rtol=1e-5)
    assert np.isfinite(grad).all() and (grad[:, 2:] == 0).all()
    value, grad = graded(student, teacher, np.zeros((B, N), "f"))
    assert value == 0 and (grad == 0).all()


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="'image' or 'batch'"):
        losses.ratio_loss(jnp.ones((1, 1, 2)), jnp.array([0.5]), level="token")
    labels = jnp.ones((1, 2))
    same = losses.Prediction(labels, jnp.ones((1, 3, 2)))
    with pytest.raises(ValueError, match="'kept', 'scores' or 'all'"):
        losses.sparsification_loss(
            same, same, labels, jnp.ones((1, 1, 3)), jnp.array([0.5]), tokens_by="some"
        )


def test_a_row_counts_where_its_share_is_above_one_half():
    student, teacher = drawn(0, 1, 4, 5), drawn(1, 1, 4, 5)
    keep = np.array([[0.6, 0.5, 0.0, 0.51]], "f")
    counted = np.array([0, 3])
    for loss in (compiled(losses.token_mse), compiled(losses.distill_kl)):
        expected = loss(student[:, counted], teacher[:, counted])
        np.testing.assert_allclose(loss(student, teacher, keep), expected, rtol=1e-5)
