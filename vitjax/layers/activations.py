"""Non-linearities that models and predictors share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU, x times the normal distribution function of x; computed in float32.

    Source: Hendrycks & Gimpel 2016 (arXiv:1606.08415), Sec. 2. By erf, as torch has it: `jax.nn.gelu` goes by
    erfc, which is several times slower on CPU, and whose result differs by 1e-7 of x.
    """
    exact = x.astype(jnp.float32)
    return (exact * (0.5 + 0.5 * jax.lax.erf(exact * np.float32(0.5**0.5)))).astype(x.dtype)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The GELU's approximation x * sigmoid(1.702 x), in the type of x.

    Source: Hendrycks & Gimpel 2016 (arXiv:1606.08415), Sec. 2.
    """
    return x * jax.nn.sigmoid(1.702 * x)


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The GELU's approximation by tanh, computed in float32.

    Source: Hendrycks & Gimpel 2016 (arXiv:1606.08415), Sec. 2; torch's GELU(approximate="tanh").
    """
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": gelu_tanh,
    "relu": jax.nn.relu,
}
