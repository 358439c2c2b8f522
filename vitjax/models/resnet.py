"""ResNet-50: the last feature map as tokens, for comparison with transformers.

Submodules carry timm's names, which are torchvision's (`conv1`, `layer1_0`, `downsample_0`, `fc`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.layers.batch_norm import BatchNorm
from vitjax.models.call_checks import check_colour_last, last_block, refuse_attention, refuse_pruning
from vitjax.models.outputs import BackboneOutput

_STEM = 64  # channels of the first convolution, in timm too whatever `channels` is
_EXPANSION = 4  # output channels of a block, in units of its inner ones
_STRIDE = 32  # pixels of the image per position of the last map
# flax takes pairs as well as words here; its annotation names words only.
_POOL_PADDING: Any = ((1, 1), (1, 1))

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions; the stride is in the 3x3 ("v1.5", as timm has it)."""

    channels: int
    stride: int = 1
    eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b rows columns d"]:
        """Returns the block's features; a projection brings the input to their shape where it differs."""
        wide = self.channels * _EXPANSION
        y = x
        for i, (width, size, stride) in enumerate(
            [(self.channels, 1, 1), (self.channels, 3, self.stride), (wide, 1, 1)], start=1
        ):
            y = _conv(width, size, stride, self.dtype, f"conv{i}")(y)
            # A block starts as the identity.
            y = BatchNorm(self.eps, init_scale=float(i < 3), name=f"bn{i}")(y, train=train)
            y = jax.nn.relu(y).astype(self.dtype) if i < 3 else y
        if self.stride != 1 or x.shape[-1] != wide:
            x = _conv(wide, 1, self.stride, self.dtype, "downsample_0")(x)
            x = BatchNorm(self.eps, name="downsample_1")(x, train=train)
        return jax.nn.relu(y + x.astype(jnp.float32)).astype(self.dtype)


class ResNet(nn.Module):
    """Residual network whose last feature map is the tokens.

    Source: He et al. 2016 (arXiv:1512.03385), Table 1, with timm's `resnet50` layout. There is no CLS token:
    prefix is (b, 0, d), pooled is the mean over positions; and no final norm: tokens come after the last
    ReLU. There is no attention either, and `return_attention` is an error: a caller who asks for it would
    weigh tokens by it.

    `train=True` normalises with the batch's statistics, and needs `mutable=["batch_stats"]`.

    Attributes:
        img_size: pixels, side or (height, width), the weights are used at; any other size is accepted too.
        layers: residual blocks of each stage.
        channels: inner channels of each stage's blocks; four times as many come out.
        num_classes: classes of the classifier; 0 = no classifier.
        eps: of every batch norm.
        dtype: "float32" or "bfloat16", of convolutions; parameters, norms and results are float32.
    """

    img_size: int | tuple[int, int] = 224
    layers: tuple[int, ...] = (3, 4, 6, 3)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    num_classes: int = 1000
    eps: float | int = 1e-5
    dtype: str = "float32"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map at `img_size`."""
        height, width = (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size
        return -(-height // _STRIDE), -(-width // _STRIDE)

    @nn.nowrap
    def field_errors(self) -> list[str]:
        """Returns which fields are inconsistent."""
        wrong = []
        if min(self.grid) < 1:
            wrong.append(f"img_size is {self.img_size}, below 1")
        if not self.layers or min(self.layers) < 1 or len(self.layers) != len(self.channels):
            wrong.append(
                f"layers {self.layers} and channels {self.channels}: give one of each per stage, layers at "
                "least 1"
            )
        return wrong

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"],
        *,
        train: bool = False,
        return_attention: bool = False,
        block: int | None = None,
        keep_ratio: object = None,
        decisions: object = None,
    ) -> BackboneOutput:
        """Runs the network.

        Args:
            images: normalised pixels, of any size.
            train: batch normalisation uses and updates statistics of the batch.
            return_attention: must be False.
            block: stop after this residual block, from 0 over all stages, negative from the end: its map is
                the tokens, on its own grid (a quarter of the image's side after stage 1, then halved by each
                stage). Logits are None where blocks are left out.
            keep_ratio: must be None: this model drops no tokens.
            decisions: must be None.

        Returns:
            Tokens and pooled in float32.

        Raises:
            ValueError: block or arguments this model cannot serve.
        """
        images = jnp.asarray(images)
        refuse_pruning(keep_ratio, decisions)
        check_colour_last(images)
        refuse_attention(return_attention, "a ResNet")
        last = last_block(block, sum(self.layers))
        x = _conv(_STEM, 7, 2, self.dtype, "conv1")(images)
        x = jax.nn.relu(BatchNorm(self.eps, name="bn1")(x, train=train)).astype(self.dtype)
        x = nn.max_pool(x, (3, 3), (2, 2), padding=_POOL_PADDING)
        done = 0
        for stage, (count, channels) in enumerate(zip(self.layers, self.channels, strict=True)):
            for i in range(min(count, last + 1 - done)):
                stride = 2 if stage and not i else 1
                name = f"layer{stage + 1}_{i}"
                x = Bottleneck(channels, stride, self.eps, self.dtype, name=name)(x, train=train)
            done += count
        batch, *grid, width = x.shape
        tokens = x.astype(jnp.float32).reshape(batch, grid[0] * grid[1], width)
        pooled = tokens.mean(axis=1)
        heads = {}
        if self.num_classes and last == sum(self.layers) - 1:
            fc = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")
            heads = {"cls": fc(pooled)}
        return BackboneOutput(
            tokens=tokens,
            pooled=pooled,
            prefix=jnp.zeros((batch, 0, width), jnp.float32),
            logits=heads.get("cls"),
            heads=heads,
            grid=(grid[0], grid[1]),
        )


def _conv(width: int, size: int, stride: int, dtype: str, name: str) -> nn.Conv:
    return nn.Conv(
        width, (size, size), (stride, stride), padding=size // 2, use_bias=False, dtype=dtype,
        kernel_init=_conv_init, name=name,
    )  # fmt: skip
