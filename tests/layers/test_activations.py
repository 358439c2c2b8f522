import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.activations import gelu, quick_gelu


def _exact(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)])


def test_gelu_is_exact_and_so_is_its_gradient():
    x = np.linspace(-12, 12, 2001, dtype=np.float32)
    np.testing.assert_allclose(gelu(jnp.asarray(x)), _exact(x), rtol=0, atol=1e-6)
    density = np.exp(-(x.astype(float) ** 2) / 2) / math.sqrt(2 * math.pi)
    slope = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)]) + x * density
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(x)), slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gelu_of_half_precision_is_off_by_one_rounding_at_most(dtype):
    x = jnp.linspace(-4, 4, 501).astype(dtype)
    found = gelu(x)
    assert found.dtype == x.dtype
    exact = _exact(np.asarray(x, np.float32))
    wanted = np.asarray(jnp.asarray(exact, jnp.float32).astype(dtype), np.float32)
    np.testing.assert_allclose(
        np.asarray(found, np.float32), wanted, rtol=float(jnp.finfo(dtype).eps), atol=1e-6
    )


def test_quick_gelu_is_near_the_exact_one_and_not_it():
    x = jnp.linspace(-6, 6, 501)
    gap = jnp.abs(quick_gelu(x) - gelu(x)).max()
    assert 0.01 < gap < 0.03
    np.testing.assert_allclose(quick_gelu(jnp.float32(1)), 1 / (1 + math.exp(-1.702)), rtol=1e-6)
