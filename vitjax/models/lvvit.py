"""LV-ViT: a vision transformer with a convolutional stem and a classifier of its own for every patch.

Submodules carry the names of the official code, which are timm's, so that a weight's path is its key with
other separators.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm, linear_init
from vitjax.layers.batch_norm import BatchNorm
from vitjax.layers.pos_embed import resize_positions
from vitjax.models.call_checks import last_block, patch_grid
from vitjax.models.outputs import BackboneOutput, TokenReduction
from vitjax.models.token_pruning import reducer_errors, reduction_by, run_reduced
from vitjax.models.vit import Block
from vitjax.sparsify.reducers import Reducer

_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's default


class ConvStem(nn.Module):
    """Three convolutions at half resolution, then one token per patch; `PatchEmbed4_2` of the official code.

    Source: Jiang et al. 2021, LV-ViT (arXiv:2104.10858), Sec. 3.2. A 7x7 convolution of stride 2 and two of
    3x3, each with batch normalisation and ReLU, then a projection of patches of half the patch size.
    """

    patch_size: int
    embed_dim: int
    stem_dim: int = 64
    bn_eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b rows columns d"]:
        """Returns the tokens on their grid."""
        x = images
        for i, (size, stride) in enumerate([(7, 2), (3, 1), (3, 1)], start=1):
            conv = nn.Conv(
                self.stem_dim, (size, size), (stride, stride), padding=size // 2, use_bias=False,
                dtype=self.dtype, kernel_init=_conv_init, name=f"conv{i}",
            )  # fmt: skip
            x = BatchNorm(self.bn_eps, name=f"bn{i}")(conv(x), train=train)
            x = jax.nn.relu(x).astype(self.dtype)
        half = self.patch_size // 2
        return nn.Conv(
            self.embed_dim, (half, half), (half, half), padding="VALID",
            dtype=self.dtype, kernel_init=_conv_init, name="proj",
        )(x)  # fmt: skip


class LVViT(nn.Module):
    """LV-ViT; the result has the same parts as that of `VisionTransformer`.

    Source: Jiang et al. 2021, "All Tokens Matter" (arXiv:2104.10858) and its official code. Residual branches
    are divided by `skip_lam`. In `heads`, "cls" are the scores of the CLS token (b, c) and "aux" those of
    every patch (b, n, c), the dense labels of the training; logits are cls + 0.5 * the largest aux score of
    each class over kept patches, the official prediction. Different from the official code: images of any
    size divisible by `patch_size` are accepted, the position table being resized to their grid as the
    official code does when it loads a checkpoint of another size (bicubic, not antialiased, by output size).
    MixToken, which swaps patches between images in training, is not part of the model.

    `train=True` normalises with the batch's statistics in the stem, and needs `mutable=["batch_stats"]`.

    Attributes:
        img_size: pixels, side or (height, width); the size the position table belongs to.
        patch_size: pixels, side; even.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads; divides `embed_dim`.
        mlp_ratio: hidden width of the MLP, in units of `embed_dim`.
        qkv_bias: whether query, key and value projections have a bias.
        num_classes: classes of both classifiers; 0 = no classifiers.
        skip_lam: divisor of the residual branches.
        stem_dim: channels of the stem's convolutions.
        eps: of every layer norm.
        bn_eps: of the stem's batch norms.
        dtype: "float32" or "bfloat16", of matrix products; parameters, norms, softmax, results are float32.
        remat: blocks are computed again in the backward pass instead of kept: less memory, more time.
        scan_layers: one block is compiled and scanned; see `run_blocks`.
        attention: "xla" or "cudnn"; see `attend`. Where maps are asked for they are computed either way.
        reducer: token reduction; see `VisionTransformer`.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    embed_dim: int = 384
    depth: int = 16
    num_heads: int = 6
    mlp_ratio: float | int = 3.0
    qkv_bias: bool = False
    num_classes: int = 1000
    skip_lam: float | int = 2.0
    stem_dim: int = 64
    eps: float | int = 1e-5
    bn_eps: float | int = 1e-5
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False
    attention: str = "xla"
    reducer: Reducer | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at `img_size`."""
        height, width = (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size
        return height // self.patch_size, width // self.patch_size

    @property
    def token_reduction(self) -> TokenReduction | None:
        """Token reduction of the model; None = none."""
        return reduction_by(self.reducer, self.depth)

    @property
    def prefix_count(self) -> int:
        """Number of tokens before the patch tokens: CLS."""
        return 1

    @nn.nowrap
    def resize_positions(
        self,
        table: Float[Array, "n d"],
        source: tuple[int, int],
        *,
        antialias: bool,
        offset: float | int,
        corners: bool = False,
        interpolation: str = "bicubic",
    ) -> Float[Array, "m d"]:
        """Patch rows of a position table resampled to this model's grid; used when weights are loaded."""
        return resize_positions(
            table, source, self.grid,
            antialias=antialias, offset=offset, corners=corners, interpolation=interpolation,
        )  # fmt: skip

    @nn.nowrap
    def field_errors(self) -> list[str]:
        """Returns which fields are inconsistent."""
        height, width = (self.img_size,) * 2 if isinstance(self.img_size, int) else self.img_size
        wrong = []
        if self.patch_size < 2 or self.patch_size % 2:
            wrong.append(f"patch_size {self.patch_size} is not even")
        elif min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            wrong.append(f"img_size {height}x{width} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads:
            wrong.append(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.depth < 1:
            wrong.append(f"depth is {self.depth}, below 1")
        if self.skip_lam <= 0:
            wrong.append(f"skip_lam is {self.skip_lam}; it must be above 0")
        return wrong + reducer_errors(self)

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
            train: batch normalisation uses and updates statistics of the batch; and see `VisionTransformer`.
            return_attention: also returns the attention of every block that ran.
            block: stop after this block, from 0, negative from the end; its tokens get the final norm. None =
                all blocks. Logits are None where blocks are left out.
            keep_ratio: see `VisionTransformer`.
            decisions: see `VisionTransformer`.

        Returns:
            Tokens, prefix (CLS) and pooled (CLS) in float32, after the final norm.

        Raises:
            ValueError: image size, block or arguments this model cannot serve.
        """
        images = jnp.asarray(images)
        last = last_block(block, self.depth)
        grid = patch_grid(images, self.patch_size)
        stem = ConvStem(
            self.patch_size, self.embed_dim, self.stem_dim, self.bn_eps, self.dtype, name="patch_embed"
        )
        patches = stem(images, train=train).reshape(images.shape[0], grid[0] * grid[1], self.embed_dim)
        tokens = self._add_positions(patches, grid)
        fields = {
            "num_heads": self.num_heads, "mlp_ratio": self.mlp_ratio, "qkv_bias": self.qkv_bias,
            "eps": self.eps, "dtype": self.dtype, "skip_lam": self.skip_lam,
            "attention": self.attention, "return_attention": return_attention,
        }  # fmt: skip
        tokens, maps, parts, keep = run_reduced(
            self, Block, fields, tokens,
            last=last, grid=grid, train=train, keep_ratio=keep_ratio, decisions=decisions,
        )  # fmt: skip
        tokens = LayerNorm(self.eps, name="norm")(tokens)
        prefix, patches = tokens[:, :1], tokens[:, 1:]
        heads, logits = {}, None
        if self.num_classes and last == self.depth - 1:
            head = nn.Dense(self.num_classes, kernel_init=linear_init, name="head")
            aux_head = nn.Dense(self.num_classes, kernel_init=linear_init, name="aux_head")
            heads = {"cls": head(prefix[:, 0]), "aux": aux_head(patches)}
            logits = heads["cls"] + 0.5 * _largest(heads["aux"], keep)
        return BackboneOutput(
            tokens=patches,
            pooled=prefix[:, 0],
            prefix=prefix,
            logits=logits,
            attention=maps if return_attention else None,
            heads=heads,
            grid=grid,
            **parts,
        )

    def _add_positions(self, patches: Array, grid: tuple[int, int]) -> Array:
        """Puts CLS in front and adds positions to all."""
        rows = 1 + self.grid[0] * self.grid[1]
        cls_token = self.param("cls_token", linear_init, (1, 1, self.embed_dim), jnp.float32)
        table = self.param("pos_embed", linear_init, (1, rows, self.embed_dim), jnp.float32)
        positions = resize_positions(table[0, 1:], self.grid, grid, antialias=False)
        front = jnp.broadcast_to(cls_token + table[:, :1], (patches.shape[0], 1, self.embed_dim))
        tokens = patches + positions[None].astype(self.dtype)
        return jnp.concatenate([front.astype(self.dtype), tokens], axis=1)


def _largest(scores: Array, keep: Array | None) -> Array:
    """Per class over the patches that are kept; 0 for an image that keeps none."""
    if keep is None:
        return scores.max(axis=1)
    kept = (keep > 0.5)[..., None]
    largest = jnp.where(kept, scores, -jnp.inf).max(axis=1)
    return jnp.where(kept.any(axis=1), largest, 0.0)
