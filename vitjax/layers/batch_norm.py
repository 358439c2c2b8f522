"""Batch normalisation with torch's running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.errors import UserError


class BatchNorm(nn.Module):
    """Normalisation of every channel over batch and positions, in float32, whatever the compute type.

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), with torch's bookkeeping, so that its checkpoints train
    on as they were: `momentum` is the share of the *new* batch, and the running variance takes the unbiased
    variance of the batch while the batch itself is normalised by the biased one. flax's own layer has the
    opposite momentum and keeps the biased variance.

    The statistics are of the whole array: under `jit` with the batch cut over devices, of the global batch.

    Attributes:
        eps: added to the variance.
        momentum: share of the new batch in the running statistics, in [0, 1].
        init_scale: start of the learned scale; 0 where a residual branch starts as nothing.
    """

    eps: float | int = 1e-5
    momentum: float | int = 0.1
    init_scale: float | int = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*lead c"], *, train: bool = False) -> Float[Array, "*lead c"]:
        """Returns normalised, scaled and shifted values in float32.

        Args:
            x: at least one leading axis; channels last.
            train: normalise by the statistics of `x` and update the running ones, which needs
                `mutable=["batch_stats"]` in `apply`. False: by the running ones.

        Raises:
            ValueError: in training, statistics that cannot be updated or a single value per channel.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.constant(self.init_scale), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x = x.astype(jnp.float32)
        along = (1,) * (x.ndim - 1) + (channels,)
        centre, spread = mean.value, var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            centre = x.mean(axis=axes)
            spread = jnp.square(x - centre.reshape(along)).mean(axis=axes)
            if not self.is_initializing():
                self._update(mean, var, centre, spread, x.size // channels)
        factor = scale * jax.lax.rsqrt(spread + self.eps)
        return (x - centre.reshape(along)) * factor.reshape(along) + bias.reshape(along)

    def _update(self, mean: nn.Variable, var: nn.Variable, centre: Array, spread: Array, count: int) -> None:
        if not self.is_mutable_collection("batch_stats"):
            raise UserError(
                "train=True updates the running statistics of batch norms: pass mutable=['batch_stats'] to "
                "apply and keep what it returns, or leave train=False."
            )
        if count < 2:
            raise UserError("batch norm in training needs more than one value per channel; got one.")
        kept = 1 - self.momentum
        mean.value = kept * mean.value + self.momentum * centre
        var.value = kept * var.value + self.momentum * spread * (count / (count - 1))
