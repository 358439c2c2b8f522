import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.depthwise import DepthwiseConv


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (7, 1), (5, 3)])
def test_it_is_a_grouped_convolution_and_has_its_gradients(size, stride):
    image = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    model, edge = DepthwiseConv(size, stride), (size // 2, size // 2)
    kernel = jax.random.normal(jax.random.key(1), (size, size, 1, 4))
    bias = jnp.arange(4.0)

    def convolution(kernel, bias, image):
        mixed = jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), [edge, edge],
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4, precision="highest",
        )  # fmt: skip
        return mixed + bias[None, None, None]

    def ours(kernel, bias, image):
        return model.apply({"params": {"kernel": kernel, "bias": bias}}, image)

    found, pull = jax.vjp(jax.jit(ours), kernel, bias, image)
    wanted, pull_wanted = jax.vjp(jax.jit(convolution), kernel, bias, image)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    slope = jax.random.normal(jax.random.key(2), wanted.shape)
    for gradient, exact in zip(pull(slope), pull_wanted(slope), strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-4)


def test_it_computes_in_float32_and_may_have_no_bias():
    image = jnp.ones((1, 3, 3, 2), jnp.bfloat16)
    mixed, variables = DepthwiseConv(3, use_bias=False).init_with_output(jax.random.key(0), image)
    assert mixed.dtype == jnp.float32 and set(variables["params"]) == {"kernel"}
