import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from vitjax.layers import attention
from vitjax.layers.attention import Attention, fits_cudnn, fused_attention
from vitjax.models import build

attend, explicit_attention = compiled(attention.attend), compiled(attention.explicit_attention)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("f")


def _qkv(dtype="float32", scale=1.0):
    return [(scale * drawn(seed, 2, 5, 3, 8)).astype(jnp.dtype(dtype)) for seed in range(3)]


def init(layer: Attention, tokens: np.ndarray) -> dict:
    return jax.jit(layer.init)(jax.random.key(0), tokens)


def test_attention_with_maps_equals_attention_without_and_jax_own():
    query, key, value = _qkv()
    with jax.default_matmul_precision("highest"):
        mixed, weights = explicit_attention(query, key, value)
        np.testing.assert_allclose(attend(query, key, value), mixed, rtol=1e-5, atol=1e-6)
        reference = compiled(jax.nn.dot_product_attention)(query, key, value)
        np.testing.assert_allclose(mixed, reference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((2, 3, 5)), rtol=1e-6)


def test_a_bias_counts_alike_in_both_ways_and_in_jax_own():
    query, key, value = _qkv()
    bias = 3 * drawn(5, 2, 3, 5, 5)
    with jax.default_matmul_precision("highest"):
        mixed, weights = explicit_attention(query, key, value, bias=bias)
        np.testing.assert_allclose(attend(query, key, value, bias=bias), mixed, rtol=1e-5, atol=1e-6)
        reference = compiled(jax.nn.dot_product_attention)(query, key, value, bias=bias)
        np.testing.assert_allclose(mixed, reference, rtol=1e-5, atol=1e-6)
        without = explicit_attention(query, key, value)[1]
    assert np.abs(weights - without).max() > 0.1


def test_large_logits_do_not_overflow():
    query, key, value = _qkv(scale=100.0)
    mixed, _ = explicit_attention(query, key, value)
    assert np.isfinite(attend(query, key, value)).all()
    np.testing.assert_allclose(attend(query, key, value), mixed, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("return_attention", [True, False])
def test_bfloat16_is_close_and_keeps_its_type(return_attention):
    tokens = drawn(0, 2, 7, 12)
    variables = init(Attention(num_heads=3), tokens)
    exact, *_ = compiled(Attention(num_heads=3).apply)(variables, tokens)
    low, weights, _ = compiled(Attention(num_heads=3, dtype="bfloat16").apply)(
        variables, tokens.astype(jnp.bfloat16), return_attention=return_attention
    )
    assert low.dtype == jnp.bfloat16
    assert weights is None or weights.dtype == jnp.float32
    np.testing.assert_allclose(low.astype(np.float32), exact, rtol=1e-2, atol=1e-2)


def test_permuting_tokens_permutes_the_result():
    layer, tokens = Attention(num_heads=2), drawn(0, 1, 6, 8)
    variables, apply = init(layer, tokens), compiled(layer.apply)
    order = np.array([3, 1, 5, 0, 2, 4])
    plain, *_ = apply(variables, tokens)
    permuted, *_ = apply(variables, tokens[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-5, atol=1e-6)


def test_gradients_of_both_ways_agree():
    query, *rest = map(jnp.asarray, _qkv())
    fast = jax.jit(jax.grad(lambda q: (attend(q, *rest) ** 2).sum()))(query)
    slow = jax.jit(jax.grad(lambda q: (explicit_attention(q, *rest)[0] ** 2).sum()))(query)
    assert np.abs(slow).max() > 0.01
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_jax_own_attention_equals_ours_in_result_and_gradients(dtype, tolerance, bias):
    qkv = _qkv(dtype)
    added = 3 * drawn(5, 2, 3, 5, 5) if bias else None
    fused = functools.partial(fused_attention, implementation="xla")  # "cudnn" with a GPU alone

    def explicit(*args, **kwargs):
        return explicit_attention(*args, **kwargs)[0]

    def run(function):
        def loss(qkv, added):
            mixed = function(*qkv, scale=0.4, bias=added)
            assert mixed.dtype == dtype
            return (mixed.astype(jnp.float32) ** 2).sum(), mixed

        with jax.default_matmul_precision("highest"):
            graded = jax.value_and_grad(loss, argnums=(0, 1) if bias else 0, has_aux=True)
            (_, mixed), grads = jax.jit(graded)(qkv, added)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (mixed, grads))

    ours, theirs, plain = run(attend), run(fused), run(explicit)
    for a, b, c in zip(*map(jax.tree.leaves, (ours, theirs, plain)), strict=True):
        scale = np.abs(c).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=3 * tolerance * scale)
        np.testing.assert_allclose(a, c, rtol=0, atol=3 * tolerance * scale)


@pytest.mark.parametrize(
    ("dtype", "tokens", "width", "bias", "fits"),
    [
        ("bfloat16", 197, 64, False, True),
        ("float16", 197, 64, False, True),
        ("float32", 197, 64, False, False),
        ("bfloat16", 197, 64, True, False),
        ("bfloat16", 198, 64, True, True),
        ("bfloat16", 197, 36, False, False),
        ("bfloat16", 197, 136, False, False),
    ],
)
def test_the_fused_kernel_is_used_where_its_rules_allow(monkeypatch, dtype, tokens, width, bias, fits):
    query = jnp.zeros((1, tokens, 2, width), dtype)
    added = jnp.zeros((1, 2, tokens, tokens)) if bias else None
    assert not fits_cudnn(query, query, added)  # on a CPU, never
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fits_cudnn(query, query, added) == fits


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "lvvit_s", "cvt_13"]
)
def test_every_family_asks_for_the_kernel_and_falls_back_without_a_gpu(monkeypatch, name):
    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def stand_in(*args, implementation, **kwargs):
        asked.append(implementation)
        return fused_attention(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(attention, "fused_attention", stand_in)
    fields = {"depth": 2} if name[0] in "dl" else {"depths": (1, 1, 1), "num_heads": (3, 3, 3)}
    if name.startswith("cvt"):
        fields["embed_dim"] = (24, 48, 96)
    if name.startswith("swin"):
        fields["window_size"] = 8  # 64 tokens in a window: even, as a bias needs
    images = np.zeros((1, 64, 64, 3), "f")

    def trace(maps=False, **changes):
        model = build(name, img_size=64, **fields | changes)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        asked.clear()
        jax.eval_shape(lambda v: model.apply(v, images, return_attention=maps).pooled, variables)
        return list(asked)

    assert trace(attention="cudnn", dtype="bfloat16") == ["cudnn"] * sum(fields.get("depths", (2,)))
    assert trace(attention="cudnn", dtype="bfloat16", maps=True) == []
    assert trace(attention="xla", dtype="bfloat16") == []
    assert trace(attention="cudnn", dtype="float32") == []


def test_an_unknown_kind_of_attention_is_an_error():
    with pytest.raises(ValueError, match="attention 'flash' is neither 'xla' nor 'cudnn'"):
        build("swin_tiny_patch4_window7_224", attention="flash")


def test_a_token_of_size_k_gets_attention_as_if_it_were_there_k_times():
    layer, tokens = Attention(num_heads=2), 2 * drawn(0, 1, 3, 8)
    variables, apply, sizes = init(layer, tokens), compiled(layer.apply), np.array([1, 3, 2])
    copies = np.repeat(np.arange(3), sizes)
    with jax.default_matmul_precision("highest"):
        found, weights, _ = apply(variables, tokens, sizes=sizes[None].astype("f"), return_attention=True)
        want, _, _ = apply(variables, tokens[:, copies])
    np.testing.assert_allclose(found[:, copies], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=-1), np.ones((1, 2, 3)), rtol=1e-6)
