import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers import masked_attention
from vitjax.sparsify.predictor import Predictor, masked_mean

masked_softmax = jax.jit(masked_attention.masked_softmax, static_argnames="compat")
SHAPE = (2, 3, 7, 7)
KEEP = jnp.array([[1.0, 0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 0, 0]])


@pytest.fixture
def logits() -> jax.Array:
    return 3 * jax.random.normal(jax.random.key(3), SHAPE)


def test_an_all_ones_mask_is_the_dense_softmax(logits):
    np.testing.assert_allclose(
        masked_softmax(logits, jnp.ones((2, 7))), jax.nn.softmax(logits), rtol=1e-6, atol=1e-7
    )


def test_kept_tokens_see_what_they_see_when_the_others_are_removed(logits):
    weights = masked_softmax(logits, KEEP)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    for image in range(2):
        kept = np.flatnonzero(KEEP[image])
        part = logits[image][:, kept][:, :, kept]
        np.testing.assert_allclose(
            weights[image][:, kept][:, :, kept], jax.nn.softmax(part), rtol=1e-5, atol=1e-7
        )


def test_a_dropped_token_looks_at_kept_ones_and_itself(logits):
    weights = masked_softmax(logits, KEEP)
    assert (weights[0, :, 1, np.array([0, 1, 2, 3, 6])] > 0).all()
    assert not np.asarray(weights)[0, :, 1, np.array([4, 5])].any()


def test_one_huge_dropped_logit_changes_nothing(logits):
    huge = logits.at[:, :, :, 5].add(300.0).at[:, :, 5, 5].add(-300.0)
    kept = np.flatnonzero(KEEP[0])
    plain = masked_softmax(logits, KEEP)[0][:, kept]
    np.testing.assert_array_equal(masked_softmax(huge, KEEP)[0][:, kept], plain)
    grads = jax.grad(lambda x, k: masked_softmax(x, k)[..., 0].sum(), argnums=(0, 1))(huge, KEEP)
    assert all(np.isfinite(g).all() for g in grads)
    # The released form makes such rows nearly uniform, dropped tokens included.
    released = masked_softmax(huge, KEEP, compat="released")[0][:, kept]
    np.testing.assert_allclose(released, 1 / 7, rtol=1e-3)


def test_everything_dropped_is_finite_forward_and_backward(logits):
    value = jax.random.normal(jax.random.key(4), (2, 7, 3, 4))

    def total(keep):
        mixed, weights = masked_attention.masked_attention(value, value, value, keep)
        return jnp.square(mixed).sum() + weights[..., 0].sum()

    none = jnp.zeros((2, 7))
    np.testing.assert_allclose(masked_softmax(logits, none), np.broadcast_to(np.eye(7), SHAPE))
    assert np.isfinite(jax.jit(jax.grad(total))(none)).all()


def test_the_decision_on_a_dropped_token_receives_the_gradient_of_what_others_would_see(logits):
    values = jax.random.normal(jax.random.key(4), (7,))

    def seen(keep):
        return (masked_softmax(logits[:1], keep)[0, 0, 0] * values).sum()

    grad = jax.grad(seen)(KEEP[:1])[0]
    weights = masked_softmax(logits[:1], KEEP[:1])[0, 0, 0]
    ratio = jnp.exp(logits[0, 0, 0, 1] - logits[0, 0, 0, 2]) * weights[2]  # e_01 / sum, by a kept neighbour
    np.testing.assert_allclose(grad[1], ratio * (values[1] - (weights * values).sum()), rtol=1e-4)
    assert grad[1] != 0 and grad[0] == 0  # the token itself is seen whatever its decision


def test_decisions_of_nearly_zero_are_finite():
    logits = jnp.array([[[[0.0, 500.0], [0.0, 0.0]]]])
    for keep in (1e-38, 1e-20, 0.0):
        weights, grad = jax.value_and_grad(lambda k: masked_softmax(logits, k)[0, 0, 0, 0])(
            jnp.array([[1.0, keep]])
        )
        assert np.isfinite(weights) and np.isfinite(grad).all()


def test_the_masked_mean_is_that_of_the_kept_tokens_and_survives_an_image_without_any():
    tokens = jax.random.normal(jax.random.key(0), (3, 7, 4))
    keep = jnp.concatenate([KEEP, jnp.zeros((1, 7))])
    found = masked_mean(tokens, keep)
    np.testing.assert_allclose(found[0], tokens[0][KEEP[0] > 0].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[2], 0)
    grad = jax.jit(jax.grad(lambda k: jnp.square(masked_mean(tokens, k)).sum()))(keep)
    assert np.isfinite(grad).all() and grad[0, 1] != 0


@pytest.mark.parametrize(("dim", "params"), [(192, 60_722), (256, 107_586), (384, 241_250), (768, 961_730)])
def test_the_predictor_has_the_published_number_of_parameters(dim, params):
    shapes = jax.eval_shape(Predictor().init, jax.random.key(0), jnp.zeros((1, 4, dim)))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == params


def test_the_predictor_scores_kept_tokens_alike_whether_others_are_masked_or_gone():
    tokens = jax.random.normal(jax.random.key(0), (1, 7, 16))
    predictor = Predictor()
    variables, apply = jax.jit(predictor.init)(jax.random.key(1), tokens), jax.jit(predictor.apply)
    kept = np.flatnonzero(KEEP[0])
    found = apply(variables, tokens, KEEP[:1])[:, kept]
    np.testing.assert_allclose(found, apply(variables, tokens[:, kept]), rtol=1e-5, atol=1e-6)
    assert np.isfinite(apply(variables, tokens, jnp.zeros((1, 7)))).all()
