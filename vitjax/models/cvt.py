"""CvT: a convolutional vision transformer in three stages, names as in the released checkpoints.

Submodules carry the names of Microsoft's code (`stage0`, `patch_embed`, `blocks_0`, `conv_proj_q`, `norm`,
`head`), so that a weight's path is its key with other separators.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.layers.attention import attend, explicit_attention
from vitjax.layers.basic import LayerNorm, Mlp, linear_init
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.depthwise import DepthwiseConv
from vitjax.models.call_checks import check_colour_last, last_block, refuse_pruning
from vitjax.models.outputs import BackboneOutput


class ConvEmbed(nn.Module):
    """Overlapping patches to tokens: strided convolution, then layer norm."""

    patch_size: int
    stride: int
    padding: int
    embed_dim: int
    eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        """Returns one token per position of the coarser grid."""
        proj = nn.Conv(
            self.embed_dim,
            (self.patch_size, self.patch_size),
            strides=self.stride,
            padding=self.padding,
            dtype=self.dtype,
            kernel_init=linear_init,
            name="proj",
        )
        return LayerNorm(self.eps, name="norm")(proj(image)).astype(self.dtype)


class ConvProjection(nn.Module):
    """Depthwise 3x3 convolution, then batch norm: CvT's convolutional projection."""

    stride: int = 1
    bn_eps: float | int = 1e-5

    @nn.compact
    def __call__(self, image: Float[Array, "b h w d"], *, train: bool = False) -> Float[Array, "b y x d"]:
        """Returns the projection in float32, one position per `stride` of both axes, rounded up."""
        mixed = DepthwiseConv(3, self.stride, use_bias=False, name="conv")(image)
        return BatchNorm(self.bn_eps, name="bn")(mixed, train=train)


class ConvAttention(nn.Module):
    """Attention whose query, key and value come from convolutions; keys and values on a coarser grid.

    Source: Wu et al. 2021 (arXiv:2103.15808), Sec. 3.2. As in the released code, and unlike the usual: the
    scale is 1 / sqrt(whole width), not head width; prefix tokens skip the convolutions.
    """

    num_heads: int
    qkv_bias: bool = True
    stride_kv: int = 2
    bn_eps: float | int = 1e-5
    dtype: str = "float32"
    implementation: str = "xla"  # see `attend`

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n d"],
        grid: tuple[int, int],
        *,
        train: bool = False,
        return_attention: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b heads n m"] | None]:
        """Returns the update of every token and, if asked for, the attention after softmax (float32).

        Args:
            tokens: prefix tokens, then patches row by row of `grid`.
            grid: rows and columns.
            train: see `BatchNorm`.
            return_attention: the map has m < n keys: prefix, then the coarser grid row by row.
        """
        batch, count, dim = tokens.shape
        prefix = count - grid[0] * grid[1]
        front, image = tokens[:, :prefix], tokens[:, prefix:].reshape(batch, *grid, dim)
        parts = []
        for name, stride in (("q", 1), ("k", self.stride_kv), ("v", self.stride_kv)):
            local = ConvProjection(stride, self.bn_eps, name=f"conv_proj_{name}")(image, train=train)
            rows = jnp.concatenate([front, local.reshape(batch, -1, dim).astype(self.dtype)], axis=1)
            proj = nn.Dense(
                dim, use_bias=self.qkv_bias, dtype=self.dtype, kernel_init=linear_init, name=f"proj_{name}"
            )
            parts.append(proj(rows).reshape(batch, -1, self.num_heads, dim // self.num_heads))
        query, key, value = parts
        weights = None
        if return_attention:
            mixed, weights = explicit_attention(query, key, value, scale=dim**-0.5)
        else:
            mixed = attend(query, key, value, scale=dim**-0.5, implementation=self.implementation)
        proj = nn.Dense(dim, dtype=self.dtype, kernel_init=linear_init, name="proj")
        return proj(mixed.reshape(batch, count, dim)), weights


class Block(nn.Module):
    """Pre-norm transformer block: convolutional attention, then MLP, each on a residual branch."""

    num_heads: int
    grid: tuple[int, int]
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    stride_kv: int = 2
    act: str = "quick_gelu"
    eps: float | int = 1e-5
    bn_eps: float | int = 1e-5
    dtype: str = "float32"
    attention: str = "xla"
    train: bool = False  # fields, not arguments: rematerialisation traces arguments
    return_attention: bool = False

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"]
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b heads n m"] | None]:
        """Returns the updated tokens and, if asked for, the attention after softmax."""
        attn = ConvAttention(
            self.num_heads, self.qkv_bias, self.stride_kv, self.bn_eps, self.dtype, self.attention,
            name="attn",
        )  # fmt: skip
        normal = LayerNorm(self.eps, name="norm1")(tokens).astype(self.dtype)
        update, weights = attn(normal, self.grid, train=self.train, return_attention=self.return_attention)
        tokens = tokens + update
        mlp = Mlp(int(tokens.shape[-1] * self.mlp_ratio), self.dtype, self.act, name="mlp")
        update = mlp(LayerNorm(self.eps, name="norm2")(tokens).astype(self.dtype))
        return tokens + update, weights


class Stage(nn.Module):
    """One stage: tokens of a coarser grid, then blocks.

    Attributes:
        patch_size: of the embedding's convolution, in positions of the grid before.
        patch_stride: as `patch_size`.
        patch_padding: as `patch_size`.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP, in units of `embed_dim`.
        qkv_bias: whether the linear projections of query, key and value have a bias.
        stride_kv: step of keys and values on the grid.
        cls_token: whether a CLS token joins in this stage.
        act: "quick_gelu" or "gelu".
        eps: of layer norms.
        bn_eps: of batch norms.
        dtype: of matrix products.
        remat: blocks are computed again in the backward pass.
        attention: see `attend`.
    """

    patch_size: int
    patch_stride: int
    patch_padding: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    stride_kv: int = 2
    cls_token: bool = False
    act: str = "quick_gelu"
    eps: float | int = 1e-5
    bn_eps: float | int = 1e-5
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        *,
        train: bool = False,
        return_attention: bool = False,
        blocks: int | None = None,
    ) -> tuple[Float[Array, "b p d"], Float[Array, "b y x d"], list[Any]]:
        """Returns CLS (or no rows), the patch tokens on their grid, neither normalised, and attention maps.

        Args:
            image: pixels, or the patch tokens of the stage before.
            train: see `BatchNorm`.
            return_attention: maps are None where not asked for.
            blocks: how many blocks run; None = all.
        """
        embed = ConvEmbed(
            self.patch_size, self.patch_stride, self.patch_padding, self.embed_dim, self.eps, self.dtype,
            name="patch_embed",
        )  # fmt: skip
        tokens = embed(image)
        batch, height, width, dim = tokens.shape
        tokens, prefix = tokens.reshape(batch, height * width, dim), int(self.cls_token)
        if self.cls_token:
            cls = self.param("cls_token", linear_init, (1, 1, dim), jnp.float32)
            tokens = jnp.concatenate([jnp.tile(cls.astype(self.dtype), (batch, 1, 1)), tokens], axis=1)
        block: Any = nn.remat(Block) if self.remat else Block
        maps = []
        for i in range(self.depth if blocks is None else blocks):
            layer = block(
                self.num_heads, (height, width), self.mlp_ratio, self.qkv_bias, self.stride_kv, self.act,
                self.eps, self.bn_eps, self.dtype, self.attention, train, return_attention,
                name=f"blocks_{i}",
            )  # fmt: skip
            tokens, weights = layer(tokens)
            maps.append(weights)
        return tokens[:, :prefix], tokens[:, prefix:].reshape(batch, height, width, dim), maps


class CvT(nn.Module):
    """Convolutional vision transformer; images of any size, as nothing in it depends on positions.

    Source: Wu et al. 2021, CvT (arXiv:2103.15808); microsoft/CvT f851e68 for what the paper leaves open, and
    transformers 5.23 for its Hugging Face form, which differs in one thing: the exact GELU. Defaults are
    CvT-13's. The final norm is applied to CLS and to the patch tokens of the last stage; the classifier sees
    CLS. Drop path, which the released training uses in the last stage, is not part of this module.

    Attributes:
        img_size: pixels, side or (height, width); only `grid` and the shapes of `init` depend on it.
        patch_size: per stage, side of the embedding's convolution: pixels, then tokens of the stage before.
        patch_stride: per stage, its step.
        patch_padding: per stage, zeros around.
        embed_dim: per stage, width of a token.
        depths: per stage, number of blocks.
        num_heads: per stage; divides `embed_dim`.
        mlp_ratio: per stage, hidden width of the MLP, in units of `embed_dim`.
        qkv_bias: whether query, key and value projections have a bias.
        stride_kv: step of keys and values on the grid of tokens.
        cls_token: per stage; only the last may have one. None there: pooled is the mean of the tokens.
        num_classes: classes of the classifier; 0 = no classifier.
        act: "quick_gelu" (Microsoft's checkpoints) or "gelu" (what transformers computes).
        eps: of every layer norm.
        bn_eps: of every batch norm.
        dtype: "float32" or "bfloat16", of matrix products; parameters, norms, softmax, results are float32.
        remat: blocks are computed again in the backward pass instead of kept: less memory, more time.
        attention: "xla" or "cudnn"; see `attend`. Where maps are asked for they are computed either way.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: tuple[int, ...] = (7, 3, 3)
    patch_stride: tuple[int, ...] = (4, 2, 2)
    patch_padding: tuple[int, ...] = (2, 1, 1)
    embed_dim: tuple[int, ...] = (64, 192, 384)
    depths: tuple[int, ...] = (1, 2, 10)
    num_heads: tuple[int, ...] = (1, 3, 6)
    mlp_ratio: tuple[float | int, ...] = (4.0, 4.0, 4.0)
    qkv_bias: bool = True
    stride_kv: int = 2
    cls_token: tuple[bool, ...] = (False, False, True)
    num_classes: int = 1000
    act: str = "quick_gelu"
    eps: float | int = 1e-5
    bn_eps: float | int = 1e-5
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens of the last stage at `img_size`."""
        height, width = (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size
        return self._grids(height, width)[-1]

    def _grids(self, height: int, width: int) -> list[tuple[int, int]]:
        grids = []
        for size, stride, padding in zip(self.patch_size, self.patch_stride, self.patch_padding, strict=True):
            height, width = ((x + 2 * padding - size) // stride + 1 for x in (height, width))
            grids.append((height, width))
        return grids

    @nn.nowrap
    def field_errors(self) -> list[str]:
        """Returns which fields are inconsistent."""
        per_stage = (
            "patch_size", "patch_stride", "patch_padding", "embed_dim", "depths", "num_heads", "mlp_ratio",
            "cls_token",
        )  # fmt: skip
        single = [name for name in per_stage if not isinstance(getattr(self, name), tuple)]
        if single:
            return [f"{name} is {getattr(self, name)!r}: give one value per stage" for name in single]
        stages = len(self.depths)
        wrong = [
            f"{name} has {len(getattr(self, name))} entries but depths has {stages}: give one per stage"
            for name in per_stage
            if len(getattr(self, name)) != stages
        ]
        if wrong or not stages:
            return wrong or ["depths is empty: give the number of blocks per stage"]
        if min(self.depths) < 1:
            wrong.append(f"depths is {self.depths}, but every stage needs a block")
        for width, heads in zip(self.embed_dim, self.num_heads, strict=True):
            if width % heads:
                wrong.append(f"embed_dim {width} is not a multiple of num_heads {heads}")
        if any(self.cls_token[:-1]):
            wrong.append(f"cls_token is {self.cls_token}; only the last stage can have one")
        if self.act not in ("quick_gelu", "gelu"):
            wrong.append(f"act {self.act!r} is neither 'quick_gelu' nor 'gelu'")
        if min(self.grid) < 1:
            wrong.append(f"img_size {self.img_size} is smaller than the first convolution")
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
            images: normalised pixels, any size.
            train: batch norms use the batch's statistics and update the running ones: apply with
                `mutable=["batch_stats"]`. False: the running ones.
            return_attention: also returns the attention of every block that ran, over all stages: keys are
                fewer than queries; in the last stage row and column 0 are CLS.
            block: stop after this block, counted over all stages from 0, negative from the end. None = all
                blocks. Logits are None where blocks are left out.
            keep_ratio: must be None: this model drops no tokens.
            decisions: must be None.

        Returns:
            Tokens, prefix and pooled in float32; grid is of the stage that ran last. Stopped before the last
            stage, tokens are not normalised (the final norm has the last stage's width), prefix is empty and
            pooled is their mean.

        Raises:
            ValueError: image size, block or arguments this model cannot serve.
        """
        refuse_pruning(keep_ratio, decisions)
        images = jnp.asarray(images)
        check_colour_last(images)
        height, width = images.shape[1:3]
        if min(self._grids(height, width)[-1]) < 1:
            raise UserError(f"images are {height}x{width} pixels; too small for a single patch: resize them.")
        count = sum(self.depths)
        stop = last_block(block, count) + 1
        prefix, image, maps = images[:, :0, 0], images, []
        for stage, depth in enumerate(self.depths):
            before = sum(self.depths[:stage])
            if stop > before:
                prefix, image, weights = self._stage(stage)(
                    image, train=train, return_attention=return_attention, blocks=min(depth, stop - before)
                )
                maps += weights
        batch, *grid, dim = image.shape
        prefix, tokens = (x.astype(jnp.float32) for x in (prefix, image.reshape(batch, -1, dim)))
        if stop > sum(self.depths[:-1]):
            norm = LayerNorm(self.eps, name="norm")
            prefix, tokens = norm(prefix), norm(tokens)
        pooled = prefix[:, 0] if prefix.shape[1] else tokens.mean(axis=1)
        heads = {}
        if self.num_classes and stop == count:
            heads["cls"] = nn.Dense(self.num_classes, kernel_init=linear_init, name="head")(pooled)
        return BackboneOutput(
            tokens=tokens,
            pooled=pooled,
            prefix=prefix,
            logits=heads.get("cls"),
            attention=tuple(maps) if return_attention else None,
            heads=heads,
            grid=(grid[0], grid[1]),
        )

    def _stage(self, i: int) -> Stage:
        return Stage(
            self.patch_size[i],
            self.patch_stride[i],
            self.patch_padding[i],
            self.embed_dim[i],
            self.depths[i],
            self.num_heads[i],
            self.mlp_ratio[i],
            self.qkv_bias,
            self.stride_kv,
            self.cls_token[i],
            self.act,
            self.eps,
            self.bn_eps,
            self.dtype,
            self.remat,
            self.attention,
            name=f"stage{i}",
        )
