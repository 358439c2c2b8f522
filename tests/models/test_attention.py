import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models.attention import Attention, attend, explicit_attention


def _qkv(rng, dtype="float32", scale=1.0):
    return [scale * jax.random.normal(key, (2, 5, 3, 8), dtype) for key in jax.random.split(rng, 3)]


def test_attention_with_maps_equals_attention_without_and_jax_own(rng):
    query, key, value = _qkv(rng)
    with jax.default_matmul_precision("highest"):
        mixed, weights = explicit_attention(query, key, value)
        np.testing.assert_allclose(attend(query, key, value), mixed, rtol=1e-5, atol=1e-6)
        reference = jax.nn.dot_product_attention(query, key, value)
        np.testing.assert_allclose(mixed, reference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((2, 3, 5)), rtol=1e-6)


def test_a_bias_counts_alike_in_both_ways_and_in_jax_own(rng):
    query, key, value = _qkv(rng)
    bias = 3 * jax.random.normal(jax.random.key(5), (2, 3, 5, 5))
    with jax.default_matmul_precision("highest"):
        mixed, weights = explicit_attention(query, key, value, bias=bias)
        np.testing.assert_allclose(attend(query, key, value, bias=bias), mixed, rtol=1e-5, atol=1e-6)
        reference = jax.nn.dot_product_attention(query, key, value, bias=bias)
        np.testing.assert_allclose(mixed, reference, rtol=1e-5, atol=1e-6)
        without = explicit_attention(query, key, value)[1]
    assert np.abs(weights - without).max() > 0.1


def test_large_logits_do_not_overflow(rng):
    query, key, value = _qkv(rng, scale=100.0)
    mixed, _ = explicit_attention(query, key, value)
    assert np.isfinite(attend(query, key, value)).all()
    np.testing.assert_allclose(attend(query, key, value), mixed, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("return_attention", [True, False])
def test_bfloat16_is_close_and_keeps_its_type(rng, return_attention):
    tokens = jax.random.normal(rng, (2, 7, 12))
    variables = Attention(num_heads=3).init(rng, tokens)
    exact, _ = Attention(num_heads=3).apply(variables, tokens)
    low, weights = Attention(num_heads=3, dtype="bfloat16").apply(
        variables, tokens.astype(jnp.bfloat16), return_attention=return_attention
    )
    assert low.dtype == jnp.bfloat16
    assert weights is None or weights.dtype == jnp.float32
    np.testing.assert_allclose(low.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)


def test_permuting_tokens_permutes_the_result(rng):
    tokens = jax.random.normal(rng, (1, 6, 8))
    variables = Attention(num_heads=2).init(rng, tokens)
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    plain, _ = Attention(num_heads=2).apply(variables, tokens)
    permuted, _ = Attention(num_heads=2).apply(variables, tokens[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-5, atol=1e-6)


def test_gradients_of_both_ways_agree(rng):
    qkv = _qkv(rng)
    fast = jax.grad(lambda q: (attend(q, *qkv[1:]) ** 2).sum())(qkv[0])
    slow = jax.grad(lambda q: (explicit_attention(q, *qkv[1:])[0] ** 2).sum())(qkv[0])
    assert np.abs(slow).max() > 0.01
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)
