"""ConvNeXt: a convolutional network in stages, whose last map is the tokens; DynamicCNN is one of its forms.

Submodules carry timm's names (`stem_0`, `stages_0`, `downsample_1`, `blocks_0`, `conv_dw`), but for the final
norm and the classifier, which are `norm` and `head` (timm: `head.norm`, `head.fc`).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.layers.basic import LayerNorm, drop_rates, linear_init
from vitjax.layers.pos_embed import resize_positions
from vitjax.models.block_stack import run_blocks
from vitjax.models.call_checks import check_colour_last, last_block, refuse_attention, refuse_pruning
from vitjax.models.convnext_blocks import Block, downsampled, patches
from vitjax.models.convnext_dynamic import DynamicStage
from vitjax.models.outputs import BackboneOutput, TokenReduction
from vitjax.models.two_paths import SPARSE_STAGE, two_path_errors, two_path_ratios, two_path_reduction

_STEM = 4  # pixels, side of the first convolution's patches


class Stage(nn.Module):
    """Blocks of one width; every stage but the first halves the map before them, without padding."""

    dim: int
    depth: int
    downsamples: bool
    block: dict[str, Any]  # fields of every block
    eps: float | int = 1e-6
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False
    drop_path_rate: tuple[float, ...] = ()  # of each block

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, last: int) -> Float[Array, "b y x d"]:
        """Returns the map after block `last` of this stage."""
        if self.downsamples:
            x = downsampled(x, self.dim, self.eps, self.dtype)
        return run_blocks(self, Block, self.block, x, last=last)[0]


class ConvNeXt(nn.Module):
    """ConvNeXt whose last map is the tokens; pooled is their mean, then the final norm.

    Source: Liu et al. 2022 (arXiv:2201.03545); Siméoni et al. 2025, DINOv3 (arXiv:2508.10104), whose
    ConvNeXt pools as the original does, before the norm, and norms every position besides. There is no CLS
    token: prefix is (b, 0, d). There is no attention either, and `return_attention` is an error: a caller
    who asks for it would weigh tokens by it. Names of fields are timm's where it has them.

    Attributes:
        img_size: pixels, side or (height, width), the weights are used at; any other size is accepted too.
        depths: blocks of each stage.
        dims: width of each stage.
        kernel_size: side of the blocks' depthwise convolutions, odd.
        mlp_ratio: hidden width of the MLPs, in units of a stage's width.
        act: non-linearity of the MLPs; see `Mlp`.
        num_classes: classes of the classifier; 0 = no classifier.
        init_values: start of each block's factor per feature; None = none.
        eps: of every layer norm.
        pseudo_patch_size: pixels; the last map is resized before the norm to the grid of a ViT with such
            patches, bilinear and antialiased (the original DINOv3's `patch_size`); None = as it is. Pooled
            stays the mean of the map.
        dtype: "float32" or "bfloat16", of matrix products; parameters, norms, depthwise convolutions, results
            are float32.
        remat: blocks are computed again in the backward pass instead of kept: less memory, more time.
        scan_layers: of each stage one block is compiled and scanned; see `run_blocks`.
        drop_path_rate: probability that an image goes without the last block, where a call has the rng
            "dropout"; that of the others rises evenly from 0.
        pruning_loc: blocks of the third stage, from 0, that a predictor comes before; from the first of them
            on each position takes either the MLP or one linear layer. () = a plain ConvNeXt.
        keep_ratio: share of that stage's positions on the slow path after each predictor: r, r - 0.2,
            r - 0.4, or one number for each. Decisions are made anew each time: a position may come back.
        compat: "released": training as in the official code, with two values of every position, which is not
            the function that its evaluation computes. None: one value, the same function in both.
    """

    img_size: int | tuple[int, int] = 224
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    kernel_size: int = 7
    mlp_ratio: float | int = 4.0
    act: str = "gelu"
    num_classes: int = 1000
    init_values: float | int | None = 1e-6
    eps: float | int = 1e-6
    pseudo_patch_size: int | None = None
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False
    drop_path_rate: float | int = 0.0
    pruning_loc: tuple[int, ...] = ()
    keep_ratio: float | int | tuple[float, ...] = 0.7
    compat: str | None = None

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of each stage's map at `img_size`."""
        height, width = (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size
        sides = [_STEM * 2**stage for stage in range(len(self.depths))]
        return [(height // side, width // side) for side in sides]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at `img_size`."""
        if not self.pseudo_patch_size:
            return self.grids[-1]
        height, width = (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size
        return height // self.pseudo_patch_size, width // self.pseudo_patch_size

    @property
    def token_reduction(self) -> TokenReduction | None:
        """Token reduction of the third stage; None = none."""
        return two_path_reduction("dynamic_convnext", self)

    @property
    def _stride(self) -> int:
        """Pixels per position of the last map."""
        return _STEM * 2 ** (len(self.depths) - 1)

    @nn.nowrap
    def field_errors(self) -> list[str]:
        """Returns which fields do not go together, which would otherwise surface deep inside the self."""
        wrong = []
        if not self.depths or min(self.depths) < 1 or len(self.depths) != len(self.dims):
            return [
                f"depths {self.depths} and dims {self.dims}: give one of each per stage, depths at least 1"
            ]
        if min(self.grid) < 1:
            wrong.append(f"img_size {self.img_size} is smaller than one token, {self._stride} pixels")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            wrong.append(f"kernel_size is {self.kernel_size}; it must be odd")
        if not 0 <= self.drop_path_rate < 1 or (self.drop_path_rate and self.scan_layers):
            wrong.append(
                f"drop_path_rate {self.drop_path_rate} is not in [0, 1), or above 0 with scan_layers"
            )
        if self.pruning_loc and self.scan_layers:
            wrong.append("scan_layers needs blocks of equal form, and pruning_loc makes them differ")
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
            images: normalised pixels, of any size; what fills no position right and below is left out.
            train: with `pruning_loc`, which positions take which path is sampled, from the rng "gumbel", and
                both are computed for all. A plain ConvNeXt computes the same either way; stochastic depth
                follows the rng "dropout".
            return_attention: must be False.
            block: stop after this block, from 0 over all stages, negative from the end: its map is the
                tokens, on its own grid (a quarter of the image's side in stage 0, then halved by each stage).
                Logits are None where blocks are left out.
            keep_ratio: as the field, instead of it; static under jit. For models with `pruning_loc`.
            decisions: 1 = slow path, instead of sampled ones, per predictor on the grid of the third stage;
                both paths are computed in evaluation too. For models with `pruning_loc`.

        Returns:
            Tokens and pooled in float32. Stopped before the last stage, they are not normalised (the final
            norm has the last stage's width) and not resized.

        Raises:
            ValueError: image size, block or arguments this model cannot serve.
        """
        images = jnp.asarray(images)
        if not self.pruning_loc:
            refuse_pruning(keep_ratio, decisions)
        check_colour_last(images)
        height, width = images.shape[1:3]
        refuse_attention(return_attention, "a ConvNeXt")
        if min(height, width) < max(self._stride, self.pseudo_patch_size or 0):
            raise UserError(
                f"images are {height}x{width} pixels; too small for a single token of {self._stride} pixels: "
                "resize them."
            )
        last = last_block(block, sum(self.depths))
        ratios = two_path_ratios(self.keep_ratio if keep_ratio is None else keep_ratio, len(self.pruning_loc))
        x, parts = self._maps(images, last, ratios=ratios, train=train, decisions=decisions)
        pooled = x.mean(axis=(1, 2))
        ends = last >= sum(self.depths[:-1])
        if ends and self.pseudo_patch_size:
            x = _resized(x, (height // self.pseudo_patch_size, width // self.pseudo_patch_size))
        batch, *grid, dim = x.shape
        tokens = x.reshape(batch, grid[0] * grid[1], dim)
        if ends:
            norm = LayerNorm(self.eps, name="norm")
            tokens, pooled = norm(tokens), norm(pooled)
        heads = {}
        if self.num_classes and last == sum(self.depths) - 1:
            heads = {"cls": nn.Dense(self.num_classes, kernel_init=linear_init, name="head")(pooled)}
        return BackboneOutput(
            tokens=tokens,
            pooled=pooled,
            prefix=jnp.zeros((batch, 0, dim), jnp.float32),
            logits=heads.get("cls"),
            heads=heads,
            grid=(grid[0], grid[1]),
            **parts,
        )

    def _maps(self, images: Array, last: int, **call: Any) -> tuple[Float[Array, "b y x d"], dict[str, Any]]:
        """The map after block `last`, counted over all stages, in float32, and what the third stage decided.

        `call` has the arguments of a stage with two paths.
        """
        x = patches(self.dims[0], _STEM, self.dtype, "stem_0")(images)
        x = LayerNorm(self.eps, name="stem_1")(x).astype(self.dtype)
        rates = drop_rates(self.drop_path_rate, sum(self.depths))
        fields = {
            "kernel_size": self.kernel_size, "mlp_ratio": self.mlp_ratio, "act": self.act,
            "init_values": self.init_values, "eps": self.eps, "dtype": self.dtype,
        }  # fmt: skip
        done, parts = 0, {}
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if last < done:
                break
            own = rates[done : done + depth] if self.drop_path_rate else ()
            ends, name = min(depth - 1, last - done), f"stages_{i}"
            if self.pruning_loc and i == SPARSE_STAGE:
                sparse = DynamicStage(
                    dim, depth, fields, self.pruning_loc, self.eps, self.dtype, self.remat, self.compat, own,
                    name=name,
                )  # fmt: skip
                x, parts = sparse(x, last=ends, **call)
            else:
                stage = Stage(
                    dim, depth, i > 0, fields, self.eps, self.dtype, self.remat, self.scan_layers, own,
                    name=name,
                )  # fmt: skip
                x = stage(x, last=ends)
            done += depth
        return x.astype(jnp.float32), parts


def _resized(x: Float[Array, "b h w d"], grid: tuple[int, int]) -> Float[Array, "b y x d"]:
    """Maps on another grid, bilinear and antialiased."""
    batch, height, width, dim = x.shape
    rows = x.transpose(1, 2, 0, 3).reshape(height * width, batch * dim)
    rows = resize_positions(rows, (height, width), grid, interpolation="bilinear")
    return rows.reshape(*grid, batch, dim).transpose(2, 0, 1, 3)
