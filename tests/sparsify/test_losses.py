import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.sparsify import losses

B, N, C, D = 2, 6, 5, 4


def _keys(count: int):
    return jax.random.split(jax.random.key(7), count)


def test_a_student_that_is_its_teacher_pays_for_labels_and_ratio_only():
    keys = _keys(2)
    logits, tokens = jax.random.normal(keys[0], (B, C)), jax.random.normal(keys[1], (B, N, D))
    target = jnp.array([0.7, 0.49, 0.343])
    same = losses.Prediction(logits, tokens)
    labels = jax.nn.one_hot(jnp.array([1, 2]), C)
    terms = losses.sparsification_loss(same, same, labels, jnp.ones((B, 3, N)), target)
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
    student, teacher = (jax.random.normal(key, (B, N, D)) for key in _keys(2))
    keep = jnp.ones((B, N)).at[:, 2:].set(0.0)
    part = loss(student[:, :2], teacher[:, :2])
    spoiled = student.at[:, 3].set(jnp.nan)
    value, grad = jax.value_and_grad(loss)(spoiled, teacher.at[:, 4].set(jnp.inf), keep)
    np.testing.assert_allclose(value, part, rtol=1e-5)
    assert np.isfinite(grad).all() and (grad[:, 2:] == 0).all()
    value, grad = jax.value_and_grad(loss)(student, teacher, jnp.zeros((B, N)))
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
    student, teacher = (jax.random.normal(jax.random.key(seed), (1, 4, 5)) for seed in (0, 1))
    keep = jnp.array([[0.6, 0.5, 0.0, 0.51]])
    counted = jnp.array([0, 3])
    for loss in (losses.token_mse, losses.distill_kl):
        expected = loss(student[:, counted], teacher[:, counted])
        np.testing.assert_allclose(loss(student, teacher, keep), expected, rtol=1e-5)
