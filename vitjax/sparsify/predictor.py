"""DynamicViT's predictor: log-probabilities of keeping and dropping each token."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.activations import gelu

_init = nn.initializers.normal(0.02)


class Predictor(nn.Module):
    """Log-probabilities of keeping and of dropping each token, from the token and from all that are left.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eqs. 2 to 5, in the form of the official code,
    whose names the weights carry: index 0 = keep (the paper's text counts the other way round), and the
    global half is divided by the number of kept tokens. Different from that code: an image whose tokens are
    all dropped has a global half of zeros, not NaN.

    Attributes:
        eps: of the layer norm; torch's default, not the backbone's.
        dtype: "float32" or "bfloat16", of matrix products; norm, mean and log-softmax are float32.
    """

    eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], keep: Float[Array, "b n"] | None = None
    ) -> Float[Array, "b n 2"]:
        """Returns log-probabilities in float32; index 0 = keep.

        Args:
            tokens: patch tokens of the residual stream, not normalised.
            keep: 1 where a token is still there, 0 where it was dropped before; carries gradient. None = all.
        """
        dim = tokens.shape[-1]

        def linear(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=_init, name=name)

        norm = nn.LayerNorm(epsilon=self.eps, use_fast_variance=False, dtype=jnp.float32, name="in_conv_0")
        hidden = gelu(linear(dim, "in_conv_1")(norm(tokens).astype(self.dtype)))
        local, shared = hidden[..., : dim // 2], hidden[..., dim // 2 :]
        shared = masked_mean(shared.astype(jnp.float32), keep)[:, None, :].astype(hidden.dtype)
        hidden = jnp.concatenate([local, jnp.broadcast_to(shared, (*local.shape[:2], dim - dim // 2))], -1)
        hidden = gelu(linear(dim // 2, "out_conv_0")(hidden))
        hidden = gelu(linear(dim // 4, "out_conv_2")(hidden))
        return jax.nn.log_softmax(linear(2, "out_conv_4")(hidden).astype(jnp.float32), axis=-1)


def masked_mean(
    tokens: Float[Array, "b n d"], keep: Float[Array, "b n"] | None = None
) -> Float[Array, "b d"]:
    """Mean over the kept tokens; zeros for an image without any.

    Gradient reaches `keep` also where it is 0.
    """
    if keep is None:
        return tokens.mean(axis=1)
    total = keep.sum(axis=1, keepdims=True)
    some = total > 0
    return jnp.einsum("bn,bnd->bd", keep, tokens) / jnp.where(some, total, 1.0)
