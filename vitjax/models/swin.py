"""Swin transformers: attention inside windows that shift from block to block, on ever coarser grids.

Submodules carry timm's names (`patch_embed`, `layers_0`, `blocks_0`, `downsample`, `norm`, `head`), so that a
weight's path is its timm key with other separators.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm, PatchEmbed, drop_rates, linear_init
from vitjax.layers.windows import WindowAttention
from vitjax.models.call_checks import last_block, patch_grid, refuse_pruning
from vitjax.models.outputs import BackboneOutput, TokenReduction
from vitjax.models.swin_blocks import Block, PatchMerging
from vitjax.models.swin_dynamic import DynamicStage
from vitjax.models.two_paths import SPARSE_STAGE, two_path_errors, two_path_ratios, two_path_reduction


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
    drop_path: tuple[float, ...] = ()

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
                self.attention, return_attention, self.drop_path[i] if self.drop_path else 0.0,
                name=f"blocks_{i}",
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
        drop_path_rate: as in `VisionTransformer`, over the blocks of all stages.
        pruning_loc: blocks of the third stage, from 0, that a predictor comes before; from the first of them
            on each token takes either the MLP or one linear layer. () = a plain Swin.
        keep_ratio: share of that stage's tokens on the slow path after each predictor: r, r - 0.2, r - 0.4,
            or one number for each. Decisions are made anew each time: a token may come back.
        mask_keys: attention inside windows sees kept tokens and the token itself only.
        compat: "released": training as in the official code, with two values of every token, which is not the
            function that its evaluation computes. None: one value, the same function in both.
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
    drop_path_rate: float | int = 0.0
    pruning_loc: tuple[int, ...] = ()
    keep_ratio: float | int | tuple[float, ...] = 0.7
    mask_keys: bool = False
    compat: str | None = None

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
    def token_reduction(self) -> TokenReduction | None:
        """Token reduction of the third stage; None = none."""
        return two_path_reduction("dynamicswin", self)

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Rows and columns of each stage's windows."""
        return [
            (min(grid[0], size[0]), min(grid[1], size[1]))
            for grid, size in zip(self.grids, _sizes(self.window_size, len(self.depths)), strict=True)
        ]

    @nn.nowrap
    def field_errors(self) -> list[str]:
        """Returns which fields are inconsistent."""
        height, width = (self.img_size,) * 2 if isinstance(self.img_size, int) else self.img_size
        stages, wrong = len(self.depths), []
        if min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            wrong.append(f"img_size {height}x{width} is not a multiple of patch_size {self.patch_size}")
        if not 0 <= self.drop_path_rate < 1:
            wrong.append(f"drop_path_rate {self.drop_path_rate} is not in [0, 1)")
        if min(self.depths, default=0) < 1:
            wrong.append(f"depths {self.depths} must be one number of blocks, 1 or more, per stage")
        if len(self.num_heads) != stages:
            wrong.append(f"num_heads {self.num_heads} and depths {self.depths} differ in length")
        for i, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**i % heads:
                wrong.append(
                    f"stage {i} is {self.embed_dim * 2**i} wide, not a multiple of num_heads {heads}"
                )
        sizes = _sizes(self.window_size, stages)
        if len(sizes) != stages:
            wrong.append(f"window_size {self.window_size} and depths {self.depths} differ in length")
        if min(map(min, sizes), default=1) < 1:
            wrong.append(f"window_size {self.window_size} is below 1")
        return wrong + two_path_errors(self)

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"],
        *,
        train: bool = False,
        return_attention: bool = False,
        block: int | None = None,
        keep_ratio: float | int | Sequence[float] | None = None,
        decisions: Float[Array, "b stages _"] | None = None,
    ) -> BackboneOutput:
        """Runs the network.

        Args:
            images: normalised pixels; height and width divisible by `patch_size`.
            train: with `pruning_loc`, which tokens take which path is sampled, from the rng "gumbel", and
                both are computed for all. A plain Swin computes the same either way.
            return_attention: also returns the attention of every block that ran, as `WindowAttention`.
            block: stop after this block, counted from 0 over all stages, negative from the end. None = all
                blocks. Logits are None where blocks are left out.
            keep_ratio: as the field, instead of it; static under jit. For models with `pruning_loc`.
            decisions: 1 = slow path, instead of sampled ones, per predictor on the grid of the third stage;
                both paths are computed in evaluation too. For models with `pruning_loc`.

        Returns:
            Tokens and pooled in float32, on the grid of the stage that ran last. Those of the last stage get
            the final norm, after whichever block; it does not fit an earlier stage's width, so tokens that
            stop there are as the block leaves them, without a norm, as timm has its intermediate features.

        Raises:
            ValueError: image size, block or arguments this model cannot serve.
        """
        if not self.pruning_loc:
            refuse_pruning(keep_ratio, decisions)
        ratios = two_path_ratios(self.keep_ratio if keep_ratio is None else keep_ratio, len(self.pruning_loc))
        images = jnp.asarray(images)
        last = last_block(block, sum(self.depths))
        height, width = patch_grid(images, self.patch_size)
        embed = PatchEmbed(self.patch_size, self.embed_dim, self.dtype, norm_eps=self.eps, name="patch_embed")
        tokens = embed(images).reshape(-1, height, width, self.embed_dim)
        maps, before, parts = [], 0, {}
        for i, (depth, heads, window) in enumerate(
            zip(self.depths, self.num_heads, self.windows, strict=True)
        ):
            if before > last:
                break
            dropped = drop_rates(self.drop_path_rate, sum(self.depths))[before : before + depth]
            if self.pruning_loc and i == SPARSE_STAGE:
                sparse = DynamicStage(
                    depth, heads, window, self.mlp_ratio, self.qkv_bias, self.eps, self.dtype, self.remat,
                    self.attention, self.pruning_loc, self.mask_keys, self.compat, dropped,
                    name=f"layers_{i}",
                )  # fmt: skip
                tokens, found, parts = sparse(
                    tokens, depth=min(depth, last + 1 - before), ratios=ratios, train=train,
                    decisions=decisions, return_attention=return_attention,
                )  # fmt: skip
                maps += found
                before += depth
                continue
            stage = Stage(
                depth, heads, window, i > 0, self.mlp_ratio, self.qkv_bias, self.eps, self.dtype, self.remat,
                self.attention, dropped, name=f"layers_{i}",
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
            **parts,
        )


def _sizes(window_size: int | tuple[Any, ...], stages: int) -> list[tuple[int, int]]:
    """Rows and columns per stage; two plain numbers are rows and columns for all stages, timm's rule."""
    if isinstance(window_size, int) or (len(window_size) == 2 and isinstance(window_size[0], int)):
        window_size = (window_size,) * stages
    return [(size, size) if isinstance(size, int) else size for size in window_size]
