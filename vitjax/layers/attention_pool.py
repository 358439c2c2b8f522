"""Attention pooling: a learned query that looks at all tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm, Mlp, linear_init


class AttentionPool(nn.Module):
    """One vector of many tokens: attention of a learned query, then a residual MLP.

    Source: Zhai et al. 2022 (arXiv:2106.04560), Sec. 3.2, after Lee et al. 2019, Set Transformer
    (arXiv:1810.00825). Names are timm's (`AttentionPoolLatent`), keys and values in one projection `kv`.
    """

    num_heads: int
    mlp_hidden: int
    eps: float | int = 1e-6
    act: str = "gelu_tanh"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], sizes: Float[Array, "b n"] | None = None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b heads 1 n"]]:
        """Returns the pooled vector, and the attention after softmax, both in float32.

        Args:
            tokens: normalised.
            sizes: how many patches a token stands for; it gets attention as if it were there so many times,
                and none where this is 0. None = one each.
        """
        batch, count, dim = tokens.shape
        split = (self.num_heads, dim // self.num_heads)
        latent = self.param("latent", linear_init, (1, 1, dim), jnp.float32).astype(self.dtype)

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=linear_init, name=name)

        query = dense(dim, "q")(latent).reshape(1, *split)
        key, value = jnp.split(dense(2 * dim, "kv")(tokens.astype(self.dtype)), 2, axis=-1)
        key, value = (x.reshape(batch, count, *split) for x in (key, value))
        logits = jnp.einsum("qhw,bnhw->bhqn", query, key, preferred_element_type=jnp.float32)
        logits = logits * split[1] ** -0.5
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        if sizes is not None:
            weights = weights * sizes[:, None, None, :]
        weights = weights / weights.sum(axis=-1, keepdims=True)
        mixed = jnp.einsum("bhqn,bnhw->bqhw", weights.astype(value.dtype), value)
        pooled = dense(dim, "proj")(mixed.reshape(batch, 1, dim))
        update = Mlp(self.mlp_hidden, self.dtype, self.act, name="mlp")(
            LayerNorm(self.eps, name="norm")(pooled).astype(self.dtype)
        )
        return (pooled + update)[:, 0].astype(jnp.float32), weights
