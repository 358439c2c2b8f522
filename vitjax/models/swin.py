"""Swin transformers: attention inside windows that shift from block to block, on ever coarser grids.

Submodules carry timm's names (`patch_embed`, `layers_0`, `blocks_0`, `downsample`, `norm`, `head`), so that a
weight's path is its timm key with other separators.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.models.arguments import last_block, patch_grid, refuse_pruning
from vitjax.models.attention import attend, explicit_attention
from vitjax.models.layers import LayerNorm, Mlp, PatchEmbed, linear_init
from vitjax.models.outputs import BackboneOutput
from vitjax.models.windows import WindowAttention, Windows


class WindowSelfAttention(nn.Module):
    """Self-attention inside each window, with a learned logit per head and offset between two tokens.

    Source: Liu et al. 2021 (arXiv:2103.14030), Eq. 4. `window` is the largest window, to which the table of
    offsets belongs; smaller ones use the middle of the table.
    """

    num_heads: int
    window: tuple[int, int]
    qkv_bias: bool = True
    dtype: str = "float32"
    implementation: str = "xla"  # see `attend`

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b h w d"], windows: Windows, *, return_attention: bool = False
    ) -> tuple[Float[Array, "b h w d"], WindowAttention | None]:
        """Returns the update of every token and, if asked for, the attention after softmax (float32)."""
        dim = tokens.shape[-1]
        dense = nn.Dense(
            3 * dim, use_bias=self.qkv_bias, dtype=self.dtype, kernel_init=linear_init, name="qkv"
        )
        # Padding goes through the projection too: its keys and values are the projection's bias.
        inside = windows.cut(tokens)
        count, slots, _ = inside.shape
        qkv = dense(inside).reshape(count, slots, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        bias = self._bias(windows, count)
        weights = None
        if return_attention:
            mixed, maps = explicit_attention(query, key, value, bias=bias)
            weights = WindowAttention(maps, windows)
        else:
            mixed = attend(query, key, value, bias=bias, implementation=self.implementation)
        proj = nn.Dense(dim, dtype=self.dtype, kernel_init=linear_init, name="proj")
        return windows.join(proj(mixed.reshape(count, slots, dim))), weights

    def _bias(self, windows: Windows, count: int) -> Float[Array, "windows heads n n"]:
        """Logits by offset, and against neighbours that the roll made, for every window of the batch."""
        span = 2 * self.window[0] - 1, 2 * self.window[1] - 1
        table = self.param(
            "relative_position_bias_table", linear_init, (span[0] * span[1], self.num_heads), jnp.float32
        )
        rows, columns = np.divmod(np.arange(windows.size[0] * windows.size[1]), windows.size[1])
        down = rows[:, None] - rows[None, :] + self.window[0] - 1
        across = columns[:, None] - columns[None, :] + self.window[1] - 1
        bias = table[down * span[1] + across].transpose(2, 0, 1)[None]
        strangers = windows.strangers()
        if strangers is not None:
            bias = bias + jnp.asarray(strangers)[:, None]
        repeated = jnp.broadcast_to(bias[None], (count // bias.shape[0], *bias.shape))
        return repeated.reshape(count, *bias.shape[1:])


class Block(nn.Module):
    """Pre-norm transformer block on a grid of tokens, with attention inside windows."""

    num_heads: int
    window: tuple[int, int]
    shifted: bool
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    eps: float | int = 1e-5
    dtype: str = "float32"
    attention: str = "xla"
    return_attention: bool = False  # a field, not an argument: rematerialisation traces arguments

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b h w d"]
    ) -> tuple[Float[Array, "b h w d"], WindowAttention | None]:
        """Returns the updated tokens and, if asked for, the attention after softmax."""
        batch, height, width, dim = tokens.shape
        windows = Windows.fit((height, width), self.window, shifted=self.shifted)
        attn = WindowSelfAttention(
            self.num_heads, self.window, self.qkv_bias, self.dtype, self.attention, name="attn"
        )
        update, weights = attn(
            LayerNorm(self.eps, name="norm1")(tokens).astype(self.dtype),
            windows,
            return_attention=self.return_attention,
        )
        tokens = tokens + update
        mlp = Mlp(int(dim * self.mlp_ratio), self.dtype, name="mlp")
        flat = LayerNorm(self.eps, name="norm2")(tokens).astype(self.dtype)
        update = mlp(flat.reshape(batch, height * width, dim))
        return tokens + update.reshape(tokens.shape), weights


class PatchMerging(nn.Module):
    """Every 2x2 tokens to one, twice as wide; odd sides are padded with zeros.

    Source: Liu et al. 2021 (arXiv:2103.14030), 3.1. The four are stacked column by column: upper left, lower
    left, upper right, lower right.
    """

    eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b h w d"]) -> Float[Array, "b y x e"]:
        """Returns the tokens of the coarser grid."""
        batch, height, width, dim = tokens.shape
        if height % 2 or width % 2:
            tokens = jnp.pad(tokens, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        rows, columns = tokens.shape[1] // 2, tokens.shape[2] // 2
        four = tokens.reshape(batch, rows, 2, columns, 2, dim).transpose(0, 1, 3, 4, 2, 5)
        four = LayerNorm(self.eps, name="norm")(four.reshape(batch, rows, columns, 4 * dim))
        dense = nn.Dense(2 * dim, use_bias=False, dtype=self.dtype, kernel_init=linear_init, name="reduction")
        return dense(four.astype(self.dtype))


class Stage(nn.Module):
    """Blocks on one grid, after merging patches to it in all stages but the first."""

    depth: int
    num_heads: int
    window: tuple[int, int]
    merge: bool
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    eps: float | int = 1e-5
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b h w d"], *, depth: int, return_attention: bool = False
    ) -> tuple[Float[Array, "b y x e"], list[WindowAttention | None]]:
        """Returns the tokens after the first `depth` blocks and the attention of each."""
        if self.merge:
            tokens = PatchMerging(self.eps, self.dtype, name="downsample")(tokens)
        block: Any = nn.remat(Block) if self.remat else Block
        maps = []
        for i in range(depth):
            layer = block(
                self.num_heads, self.window, i % 2 == 1, self.mlp_ratio, self.qkv_bias, self.eps, self.dtype,
                self.attention, return_attention, name=f"blocks_{i}",
            )  # fmt: skip
            tokens, weights = layer(tokens)
            maps.append(weights)
        return tokens, maps


class _Classifier(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, pooled: Float[Array, "b d"]) -> Float[Array, "b c"]:
        return nn.Dense(self.num_classes, kernel_init=linear_init, name="fc")(pooled)


class SwinTransformer(nn.Module):
    """Swin transformer whose last grid of tokens and attention in windows are part of the result.

    Source: Liu et al. 2021 (arXiv:2103.14030). Field names, weight names and defaults are timm's. There is no
    CLS token: prefix is (b, 0, d) and pooled is the mean of the tokens. Different from timm: images of any
    size divisible by `patch_size` are accepted; windows keep the size they have at `img_size`, made smaller
    where the grid is, and a grid that fits one window is not rolled: what timm gives for a model built for
    that size, while its `dynamic_img_size` keeps the rolls of `img_size`. Hugging Face's code pads before it
    rolls, so its numbers differ where windows do not divide the grid.

    Attributes:
        img_size: pixels, side or (height, width). An axis of a stage's grid shorter than the window has a
            window, and a table of offsets, of its own length.
        patch_size: pixels, side.
        embed_dim: width of a token in the first stage; doubles from stage to stage.
        depths: blocks of each stage; every second block of a stage is shifted.
        num_heads: attention heads of each stage.
        window_size: tokens: a side, (rows, columns), or one of these per stage.
        mlp_ratio: hidden width of the MLP, in units of the token's.
        qkv_bias: whether query, key and value projections have a bias.
        num_classes: classes of the classifier; 0 = no classifier.
        eps: of every layer norm.
        dtype: "float32" or "bfloat16", of matrix products; parameters, norms, softmax, results are float32.
        remat: blocks are computed again in the backward pass instead of kept: less memory, more time.
        attention: "xla" or "cudnn"; see `attend`. Where maps are asked for they are computed either way.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[Any, ...] = 7
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    num_classes: int = 1000
    eps: float | int = 1e-5
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of tokens of each stage at `img_size`."""
        height, width = (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size
        grids = [(height // self.patch_size, width // self.patch_size)]
        while len(grids) < len(self.depths):
            grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
        return grids

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of the last stage at `img_size`."""
        return self.grids[-1]

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Rows and columns of each stage's windows."""
        return [
            (min(grid[0], size[0]), min(grid[1], size[1]))
            for grid, size in zip(self.grids, _sizes(self.window_size, len(self.depths)), strict=True)
        ]

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
            images: normalised pixels; height and width divisible by `patch_size`.
            train: accepted for all backbones; this one computes the same either way.
            return_attention: also returns the attention of every block that ran, as `WindowAttention`.
            block: stop after this block, counted from 0 over all stages, negative from the end. None = all
                blocks. Logits are None where blocks are left out.
            keep_ratio: must be None: this model drops no tokens.
            decisions: must be None.

        Returns:
            Tokens and pooled in float32, on the grid of the stage that ran last. Those of the last stage get
            the final norm, after whichever block; it does not fit an earlier stage's width, so tokens that
            stop there are as the block leaves them, without a norm, as timm has its intermediate features.

        Raises:
            ValueError: image size, block or arguments this model cannot serve.
        """
        del train
        refuse_pruning(keep_ratio, decisions)
        images = jnp.asarray(images)
        last = last_block(block, sum(self.depths))
        height, width = patch_grid(images, self.patch_size)
        embed = PatchEmbed(self.patch_size, self.embed_dim, self.dtype, norm_eps=self.eps, name="patch_embed")
        tokens = embed(images).reshape(-1, height, width, self.embed_dim)
        maps, before = [], 0
        for i, (depth, heads, window) in enumerate(
            zip(self.depths, self.num_heads, self.windows, strict=True)
        ):
            if before > last:
                break
            stage = Stage(
                depth, heads, window, i > 0, self.mlp_ratio, self.qkv_bias, self.eps, self.dtype, self.remat,
                self.attention, name=f"layers_{i}",
            )  # fmt: skip
            tokens, found = stage(
                tokens, depth=min(depth, last + 1 - before), return_attention=return_attention
            )
            maps += found
            before += depth
        batch, height, width, dim = tokens.shape
        tokens = tokens.reshape(batch, height * width, dim)
        if last >= sum(self.depths[:-1]):
            tokens = LayerNorm(self.eps, name="norm")(tokens)
        tokens = tokens.astype(jnp.float32)
        pooled = tokens.mean(axis=1)
        heads = {}
        if self.num_classes and last == sum(self.depths) - 1:
            heads = {"cls": _Classifier(self.num_classes, name="head")(pooled)}
        return BackboneOutput(
            tokens=tokens,
            pooled=pooled,
            prefix=tokens[:, :0],
            logits=heads.get("cls"),
            attention=tuple(maps) if return_attention else None,
            heads=heads,
            grid=(height, width),
        )


def _sizes(window_size: int | tuple[Any, ...], stages: int) -> list[tuple[int, int]]:
    """Rows and columns per stage; two plain numbers are rows and columns for all stages, timm's rule."""
    if isinstance(window_size, int) or (len(window_size) == 2 and isinstance(window_size[0], int)):
        window_size = (window_size,) * stages
    return [(size, size) if isinstance(size, int) else size for size in window_size]


def mistakes(model: SwinTransformer) -> list[str]:
    """Returns which fields do not go together, which would otherwise surface deep inside the model."""
    height, width = (model.img_size,) * 2 if isinstance(model.img_size, int) else model.img_size
    stages, wrong = len(model.depths), []
    if min(height, width) < model.patch_size or height % model.patch_size or width % model.patch_size:
        wrong.append(f"img_size {height}x{width} is not a multiple of patch_size {model.patch_size}")
    if min(model.depths, default=0) < 1:
        wrong.append(f"depths {model.depths} must be one number of blocks, 1 or more, per stage")
    if len(model.num_heads) != stages:
        wrong.append(f"num_heads {model.num_heads} and depths {model.depths} differ in length")
    for i, heads in enumerate(model.num_heads):
        if model.embed_dim * 2**i % heads:
            wrong.append(f"stage {i} is {model.embed_dim * 2**i} wide, not a multiple of num_heads {heads}")
    sizes = _sizes(model.window_size, stages)
    if len(sizes) != stages:
        wrong.append(f"window_size {model.window_size} and depths {model.depths} differ in length")
    if min(map(min, sizes), default=1) < 1:
        wrong.append(f"window_size {model.window_size} is below 1")
    return wrong


_TINY = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_SMALL = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_BASE = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}

# name: (fields that differ from the module's defaults, tag of timm's weights on the hub)
SWIN = {
    "swin_tiny_patch4_window7_224": (_TINY, "ms_in1k"),
    "swin_small_patch4_window7_224": (_SMALL, "ms_in22k_ft_in1k"),
    "swin_base_patch4_window7_224": (_BASE, "ms_in22k_ft_in1k"),
    "swin_base_patch4_window12_384": (_BASE | {"window_size": 12, "img_size": 384}, "ms_in22k_ft_in1k"),
}
