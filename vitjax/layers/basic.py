"""Small modules that several backbones share, named as in timm so that weights keep their names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.activations import ACTIVATIONS

linear_init: nn.initializers.Initializer = nn.initializers.truncated_normal(stddev=0.02)


def drop_branch(module: nn.Module, update: Float[Array, " b *rest"], rate: float) -> Float[Array, " b *rest"]:
    """A residual branch that some images go without, where `module` has the rng "dropout": stochastic depth.

    Source: Huang et al. 2016 (arXiv:1603.09382), in timm's form: every image on its own, those that keep the
    branch have it scaled by 1 / (1 - rate), so that its mean is the same.
    """
    if not rate or not module.has_rng("dropout"):
        return update
    shape = (len(update), *[1] * (update.ndim - 1))
    stays = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, shape)
    return jnp.where(stays, update / (1 - rate), 0)


def drop_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rate of each block: from 0 at the first, rising evenly to `rate` at the last."""
    return tuple(rate * i / max(depth - 1, 1) for i in range(depth))


class PatchEmbed(nn.Module):
    """Linear map of every square patch to a token; patches do not overlap.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), Eq. 1. A strided convolution in timm; here the
    same numbers as one matrix product over flattened patches. The kernel keeps its convolution shape.
    """

    patch_size: int
    embed_dim: int
    dtype: str = "float32"
    norm_eps: float | int | None = None  # of a norm of the tokens, as Swin has it; None = no norm
    use_bias: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        """Returns one token per patch, row by row; pixels right and below that fill none are left out."""
        size = self.patch_size
        batch, height, width, channels = images.shape
        proj = _PatchProjection(size, self.embed_dim, self.dtype, self.use_bias, name="proj")
        rows, columns = height // size, width // size
        images = images[:, : rows * size, : columns * size]
        patches = images.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        tokens = proj(patches.reshape(batch, rows * columns, size * size * channels))
        if self.norm_eps is None:
            return tokens
        return LayerNorm(self.norm_eps, name="norm")(tokens).astype(self.dtype)


class _PatchProjection(nn.Module):
    patch_size: int
    embed_dim: int
    dtype: str
    use_bias: bool = True

    @nn.compact
    def __call__(self, patches: Float[Array, "b n k"]) -> Float[Array, "b n d"]:
        size = self.patch_size
        channels = patches.shape[-1] // (size * size)
        shape = (size, size, channels, self.embed_dim)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        flat = kernel.reshape(-1, self.embed_dim).astype(self.dtype)
        tokens = patches.astype(self.dtype) @ flat
        if not self.use_bias:
            return tokens
        bias = self.param("bias", nn.initializers.zeros, (self.embed_dim,), jnp.float32)
        return tokens + bias.astype(self.dtype)[None, None, :]


class Mlp(nn.Module):
    """Two linear layers with a non-linearity between them.

    `act`: a name of `ACTIVATIONS`: "gelu" (the exact one, by erf), "quick_gelu", "gelu_tanh" or "relu".
    """

    hidden_dim: int
    dtype: str = "float32"
    act: str = "gelu"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Returns an update of every token on its own."""
        hidden = nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=linear_init, name="fc1")(tokens)
        hidden = ACTIVATIONS[self.act](hidden)
        return nn.Dense(tokens.shape[-1], dtype=self.dtype, kernel_init=linear_init, name="fc2")(hidden)


class SwiGlu(nn.Module):
    """Gated MLP: one linear layer, through SiLU, multiplies another.

    Source: Shazeer 2020 (arXiv:2002.05202), SwiGLU. Names are timm's, gate and value apart.
    """

    hidden_dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Returns an update of every token on its own."""
        gate, value = (
            nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=linear_init, name=name)(tokens)
            for name in ("fc1_g", "fc1_x")
        )
        hidden = jax.nn.silu(gate.astype(jnp.float32)).astype(value.dtype) * value
        return nn.Dense(tokens.shape[-1], dtype=self.dtype, kernel_init=linear_init, name="fc2")(hidden)


class LayerScale(nn.Module):
    """Learned factor per feature on a residual branch.

    Source: Touvron et al. 2021, CaiT (arXiv:2103.17239), Eq. 4.
    """

    init_value: float | int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Returns the scaled tokens."""
        start = nn.initializers.constant(self.init_value)
        gamma = self.param("gamma", start, (tokens.shape[-1],), jnp.float32)
        return tokens * gamma.astype(self.dtype)[None, None, :]


class LayerNorm(nn.Module):
    """Layer normalisation computed and returned in float32, whatever the compute type.

    Variance is the mean of squared deviations, not E[x^2] - E[x]^2: ViT features have means large enough
    for the difference to show at the tolerance we hold against the reference implementations.
    """

    eps: float | int = 1e-6

    @nn.compact
    def __call__(self, tokens: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
        """Returns tokens with mean 0 and variance 1 over features, then scaled and shifted."""
        features = tokens.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        tokens = tokens.astype(jnp.float32)
        centred = tokens - tokens.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        along = (1,) * (tokens.ndim - 1) + (features,)
        return centred * inverse * scale.reshape(along) + bias.reshape(along)
