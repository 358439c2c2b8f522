import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vitjax.layers.attention import attend, explicit_attention
from vitjax.sparsify import count
from vitjax.sparsify.flops import count_macs

A = jax.ShapeDtypeStruct((2, 3), jnp.float32)
B = jax.ShapeDtypeStruct((3, 5), jnp.float32)
ONCE = 2 * 3 * 5


def test_a_product_counts_one_per_multiplication_in_any_layout():
    assert count_macs(jnp.dot, A, B) == ONCE
    batched = jax.ShapeDtypeStruct((7, 3, 2), jnp.float32), jax.ShapeDtypeStruct((5, 7, 3), jnp.float32)
    assert count_macs(lambda a, b: jnp.einsum("btm,nbt->bmn", a, b), *batched) == 7 * ONCE


def test_element_wise_work_counts_nothing():
    assert count_macs(lambda a: jax.nn.softmax(jax.nn.gelu(a) * 2 + 1).sum(), A) == 0


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: jax.named_call(f, name="part"),
    ],
)
def test_products_inside_another_program_are_found(wrap):
    assert count_macs(wrap(jnp.dot), A, B) == ONCE


def test_products_behind_custom_derivatives_are_found():
    plain = jax.custom_jvp(jnp.dot)
    plain.defjvp(lambda primals, tangents: (jnp.dot(*primals), jnp.dot(tangents[0], primals[1])))
    reverse = jax.custom_vjp(jnp.dot)
    reverse.defvjp(lambda a, b: (jnp.dot(a, b), (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    assert count_macs(plain, A, B) == count_macs(reverse, A, B) == ONCE


def test_a_scan_counts_as_often_as_it_runs():
    def repeated(a, b):
        return jax.lax.scan(lambda total, _: (total + jnp.dot(a, b), None), jnp.zeros((2, 5)), length=4)[0]

    assert count_macs(repeated, A, B) == 4 * ONCE
    assert count_macs(lambda a, b: jax.lax.fori_loop(0, 6, lambda i, x: x + a @ b, a @ b), A, B) == 7 * ONCE


def test_a_conditional_counts_its_dearest_branch():
    def either(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b + a @ b)

    assert count_macs(either, A, B) == 2 * ONCE


def test_a_loop_of_unknown_length_is_an_error():
    def until(a, b):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + a @ b, jnp.zeros((2, 5)))

    with pytest.raises(ValueError, match="a while loop computes products"):
        count_macs(until, A, B)
    assert count_macs(lambda a: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, a), A) == 0


@pytest.mark.parametrize(
    ("fields", "per_position"),
    [
        ({}, 3 * 3 * 6 * 12),
        ({"feature_group_count": 3}, 3 * 3 * 2 * 12),
        ({"feature_group_count": 6}, 3 * 3 * 1 * 12),  # depthwise, two outputs of each channel
        ({"kernel_dilation": 2}, 3 * 3 * 6 * 12),
    ],
)
def test_a_convolution_counts_its_own_group_only(fields, per_position):
    conv = nn.Conv(12, (3, 3), use_bias=True, **fields)
    images = jnp.zeros((2, 8, 10, 6))
    variables = conv.init(jax.random.key(0), images)
    assert count_macs(conv.apply, variables, images) == 2 * 8 * 10 * per_position
    halved = nn.Conv(12, (3, 3), strides=2, **fields)
    assert count_macs(halved.apply, variables, images) == 2 * 4 * 5 * per_position


def test_every_form_of_attention_counts_the_same():
    query = jax.ShapeDtypeStruct((2, 10, 4, 8), jnp.float32)
    key = jax.ShapeDtypeStruct((2, 6, 4, 8), jnp.float32)
    wanted = 2 * 2 * 4 * 10 * 6 * 8
    for form in (jax.nn.dot_product_attention, attend, explicit_attention):
        assert count_macs(form, query, key, key) == wanted


def test_a_module_counts_parameters_without_running_statistics():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, images):
            x = nn.Conv(4, (1, 1), use_bias=False)(images)
            x = nn.BatchNorm(use_running_average=True)(x)
            return nn.Dense(5)(x.mean(axis=(1, 2)))

    assert count(Small(), (6, 10)) == (6 * 10 * 3 * 4 + 4 * 5, 3 * 4 + 2 * 4 + 4 * 5 + 5)
