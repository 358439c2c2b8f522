"""ConvNeXt's block, and the convolutions that make its maps coarser."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm, Mlp, drop_branch, linear_init
from vitjax.layers.depthwise import DepthwiseConv


class Block(nn.Module):
    """Residual block: a depthwise convolution mixes positions, then an MLP works on each position alone."""

    kernel_size: int = 7
    mlp_ratio: float | int = 4.0
    act: str = "gelu"
    init_values: float | int | None = 1e-6
    eps: float | int = 1e-6
    dtype: str = "float32"
    drop_path: float | int = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> tuple[Float[Array, "b h w d"], None]:
        """Returns the updated map; there are no attention maps, the second result of other blocks."""
        mixed = DepthwiseConv(self.kernel_size, name="conv_dw")(x)
        update = self.pointwise(mixed.reshape(len(x), -1, x.shape[-1])).reshape(x.shape)
        return x + drop_branch(self, update, self.drop_path), None

    def pointwise(self, mixed: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Update of every position from what the convolution gathered there."""
        channels = mixed.shape[-1]
        flat = LayerNorm(self.eps, name="norm")(mixed).astype(self.dtype)
        update = Mlp(int(channels * self.mlp_ratio), self.dtype, self.act, name="mlp")(flat)
        return self.scaled(update, "gamma")

    def scaled(self, update: Float[Array, "b n d"], name: str) -> Float[Array, "b n d"]:
        """The update by a factor per feature, where the block has such factors."""
        if self.init_values is None:
            return update
        start = nn.initializers.constant(self.init_values)
        factors: Any = self.param(name, start, update.shape[-1:], jnp.float32)
        return update * factors.astype(self.dtype)[None, None, :]


def patches(dim: int, size: int, dtype: str, name: str) -> nn.Conv:
    """A convolution whose windows do not overlap."""
    return nn.Conv(
        dim, (size, size), (size, size), padding="VALID", dtype=dtype, kernel_init=linear_init, name=name
    )


def downsampled(x: Float[Array, "b h w c"], dim: int, eps: float, dtype: str) -> Float[Array, "b y x d"]:
    """A map of half the sides, without padding; inside the compact method of a stage."""
    x = LayerNorm(eps, name="downsample_0")(x).astype(dtype)
    return patches(dim, 2, dtype, "downsample_1")(x)
