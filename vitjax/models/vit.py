"""Plain vision transformers: ViT, DeiT, DINOv2, DINOv3, image towers of CLIP and SigLIP, as one module.

Submodules carry timm's names (`patch_embed`, `blocks_0`, `norm`, `head`), so that a weight's path is its
timm key with other separators.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.layers.activations import ACTIVATIONS
from vitjax.layers.attention import Attention, Facets
from vitjax.layers.attention_pool import AttentionPool
from vitjax.layers.basic import LayerNorm, LayerScale, Mlp, PatchEmbed, SwiGlu, drop_branch, linear_init
from vitjax.layers.pos_embed import resize_positions
from vitjax.layers.rope import Rope
from vitjax.models.call_checks import last_block, patch_grid, refuse_facet
from vitjax.models.outputs import BackboneOutput, TokenReduction
from vitjax.models.token_pruning import reducer_errors, reduction_by, run_reduced
from vitjax.sparsify.predictor import masked_mean
from vitjax.sparsify.reducers import Reducer, StepInput
from vitjax.sparsify.reduction.base import OF_ATTENTION
from vitjax.sparsify.token_map import TokenMap


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each on a residual branch."""

    num_heads: int
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    init_values: float | int | None = None
    eps: float | int = 1e-6
    dtype: str = "float32"
    skip_lam: float | int = 1.0  # LV-ViT's divisor of both branches
    attention: str = "xla"
    drop_path: float | int = 0.0
    return_attention: bool = False  # a field, not an argument: rematerialisation traces arguments
    facet: str = "token"  # "query", "key" or "value": also returns these
    reducer: Reducer | None = None  # what to do between attention and MLP, and which of its steps this is
    stage: int = 0
    prefix: int = 0
    key_bias: bool = True  # see `Attention`
    rope_pairs: bool = False
    mlp: str = "gelu"  # see `VisionTransformer`
    mlp_hidden: int | None = None  # width inside the MLP; None = int(width * mlp_ratio)

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n d"],
        keep: Float[Array, "b n"] | None = None,
        token_map: TokenMap | None = None,
        rope: Float[Array, "#b n 2 w"] | None = None,
    ) -> tuple[Float[Array, "b m d"], Any]:
        """Returns the updated tokens and, if asked for, the attention after softmax.

        Args:
            tokens: prefix first.
            keep: see `Attention`.
            token_map: what the patch tokens stand for; they get attention by their size. With a `reducer`,
                the second result is (attention, what they stand for now), and sizes count for merged tokens
                only. With a `facet`, it is (attention, that facet of all tokens, heads side by side).
            rope: see `Attention`.
        """
        attn = Attention(
            self.num_heads, self.qkv_bias, self.dtype, self.attention, self.key_bias, self.rope_pairs,
            name="attn",
        )  # fmt: skip
        normal = LayerNorm(self.eps, name="norm1")(tokens).astype(self.dtype)
        looks = self.reducer is not None and not set(OF_ATTENTION).isdisjoint(self.reducer.needs)
        sizes = None
        if token_map is not None and (self.reducer is None or self.reducer.merges):
            front = jnp.ones((len(tokens), tokens.shape[1] - token_map.size.shape[1]), jnp.float32)
            sizes = jnp.concatenate([front, token_map.size], axis=1)
        update, weights, facets = attn(
            normal, keep, sizes, rope, return_attention=self.return_attention or looks
        )
        if self.init_values is not None:
            update = LayerScale(self.init_values, self.dtype, name="ls1")(update)
        tokens = tokens + self._scaled(update)
        if self.reducer is not None and token_map is not None:
            tokens, token_map = self._reduce(self.reducer, tokens, token_map, weights, facets)
            weights = weights if self.return_attention else None
        hidden = self.mlp_hidden or int(tokens.shape[-1] * self.mlp_ratio)
        if self.mlp == "swiglu":
            mlp = SwiGlu(hidden, self.dtype, name="mlp")
        else:
            mlp = Mlp(hidden, self.dtype, self.mlp, name="mlp")
        update = mlp(LayerNorm(self.eps, name="norm2")(tokens).astype(self.dtype))
        if self.init_values is not None:
            update = LayerScale(self.init_values, self.dtype, name="ls2")(update)
        tokens = tokens + self._scaled(update)
        if self.facet != "token":
            return tokens, (weights, getattr(facets, self.facet).reshape(normal.shape))
        return tokens, weights if self.reducer is None else (weights, token_map)

    def _reduce(
        self, reducer: Reducer, tokens: Array, token_map: TokenMap, weights: Array | None, facets: Facets
    ) -> tuple[Array, TokenMap]:
        given = StepInput(
            stage=self.stage, prefix=self.prefix, **self._needed(reducer.needs, weights, facets)
        )
        patches, token_map = reducer.step(tokens[:, self.prefix :], token_map, given)
        return jnp.concatenate([tokens[:, : self.prefix], patches], axis=1), token_map

    def _needed(self, needs: tuple[str, ...], weights: Array | None, facets: Facets) -> dict[str, Any]:
        """Fields of `StepInput` that a reducer needs; nothing else is computed."""
        found, prefix = {}, self.prefix
        if "keys" in needs:
            found["keys"] = facets.key[:, prefix:].mean(axis=2)
        if weights is None:
            return found
        if "received" in needs:
            found["received"] = weights.mean(axis=(1, 2))[:, prefix:]
        if not {"scores", "significance"}.isdisjoint(needs):
            # Without a CLS token: the attention of all patches, as in VisionZip.
            asking = (weights[:, :, 0] if prefix else weights.mean(axis=2))[:, :, prefix:]
            if "scores" in needs:
                found["scores"] = asking.mean(axis=1)
            if "significance" in needs:
                norm = jnp.linalg.norm(facets.value[:, prefix:].astype(jnp.float32), axis=-1)
                found["significance"] = (asking * jnp.swapaxes(norm, 1, 2)).sum(axis=1)
        return found

    def _scaled(self, update: Array) -> Array:
        update = drop_branch(self, update, self.drop_path)
        return update if self.skip_lam == 1 else update / self.skip_lam


class VisionTransformer(nn.Module):
    """Vision transformer whose patch tokens, prefix tokens and attention maps are all part of the result.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); Touvron et al. 2021, DeiT (arXiv:2012.12877);
    Touvron et al. 2022, DeiT III (arXiv:2204.07118); Oquab et al. 2023, DINOv2 (arXiv:2304.07193); Darcet et
    al. 2024, registers (arXiv:2309.16588); Siméoni et al. 2025, DINOv3 (arXiv:2508.10104), whose pooled
    vector is here the CLS token, as in the paper (timm's default is the mean of its patches); Radford et al.
    2021, CLIP (arXiv:2103.00020), whose code norms the CLS token alone at the end, where here all tokens are;
    Zhai et al. 2023, SigLIP (arXiv:2303.15343); Maninis et al. 2025, TIPS (arXiv:2410.16512), whose second
    CLS token is the register; Bolya et al. 2025, Perception Encoder (arXiv:2504.13181). Field names, weight
    names and defaults are timm's. Different from timm: images of any size divisible by `patch_size` are
    accepted, the position table being resized to their grid.

    Attributes:
        img_size: pixels, side or (height, width); the size the position table belongs to.
        patch_size: pixels, side.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads; divides `embed_dim`.
        mlp_ratio: hidden width of the MLP, in units of `embed_dim`.
        qkv_bias: whether query, key and value projections have a bias.
        num_classes: classes of the classifier; 0 = no classifier.
        global_pool: "token": pooled is the CLS token; "second": the token after it, TIPS's second CLS token;
            "avg": the mean of the patch tokens; "map": attention pooling, see `AttentionPool`.
        class_token: whether there is a CLS token.
        no_embed_class: the position table has rows for patches only.
        reg_tokens: number of register tokens, after CLS.
        init_values: start of LayerScale; None = no LayerScale.
        eps: of every layer norm.
        fc_norm: the final norm comes after pooling, and tokens are not normalised; None = exactly where
            `global_pool` is "avg", timm's rule.
        distilled: a distillation token after CLS, with a classifier of its own.
        interpolation: how the position table is resized to images of another size: "bicubic" or "bilinear".
        interpolate_antialias: whether that is antialiased.
        interpolate_offset: in patches; 0.1 in the original DINOv2 without registers.
        dtype: "float32" or "bfloat16", of matrix products; parameters, norms, softmax, results are float32.
        remat: blocks are computed again in the backward pass instead of kept: less memory, more time.
        scan_layers: one block is compiled and scanned; see `run_blocks`.
        attention: "xla" or "cudnn"; see `attend`. Where maps are asked for they are computed either way.
        drop_path_rate: probability that an image goes without a branch of the last block, where a call has
            the rng "dropout"; that of the others rises evenly from 0.
        key_bias: False: keys have no bias; see `Attention`.
        mlp: non-linearity of the MLPs, a name of `vitjax.layers.activations.ACTIVATIONS`; or "swiglu": gated.
        mlp_hidden: width inside the MLP; None = int(embed_dim * mlp_ratio).
        rope_base: tokens have rotary instead of added positions, with this base; None = added ones. See
            `vitjax.layers.rope`.
        rope_pairs: rotary positions are those of Perception Encoder, which come beside added ones.
        pool_heads: heads of the attention pooling; None = `num_heads`.
        pool_hidden: width inside the MLP of the attention pooling; None = as in the blocks.
        pre_norm: a norm before the blocks, and patches projected without bias, as in CLIP.
        drop_edge: pixels right and below that fill no patch are left out, as a convolution without padding
            does (SigLIP So400m/14 at 384 pixels); False = such images are refused.
        reducer: token reduction, an object of `vitjax.sparsify.reducers` or of your own;
            None = not at all. `build` makes one from its name: `reduce="topk", keep_ratio=0.7,
            pruning_loc=(3, 6, 9)`. A trained one has a predictor before each step; the others work with any
            weights.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    num_classes: int = 1000
    global_pool: str = "token"
    class_token: bool = True
    no_embed_class: bool = False
    reg_tokens: int = 0
    init_values: float | int | None = None
    eps: float | int = 1e-6
    fc_norm: bool | None = None
    distilled: bool = False
    interpolation: str = "bicubic"
    interpolate_antialias: bool = True
    interpolate_offset: float | int = 0.0
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False
    attention: str = "xla"
    drop_path_rate: float | int = 0.0
    key_bias: bool = True
    mlp: str = "gelu"
    mlp_hidden: int | None = None
    rope_base: float | int | None = None
    rope_pairs: bool = False
    pool_heads: int | None = None
    pool_hidden: int | None = None
    pre_norm: bool = False
    drop_edge: bool = False
    reducer: Reducer | None = None

    def setup(self) -> None:
        """Makes what `pool_alone` shares with a call."""
        if self.global_pool == "map":
            hidden = self.pool_hidden or self.mlp_hidden or int(self.embed_dim * self.mlp_ratio)
            heads = self.pool_heads or self.num_heads
            self.attn_pool: AttentionPool = AttentionPool(heads, hidden, self.eps, self.mlp, self.dtype)

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
        """Number of tokens before the patch tokens."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens

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
        uneven = (height % self.patch_size or width % self.patch_size) and not self.drop_edge
        if min(height, width) < self.patch_size or uneven:
            wrong.append(f"img_size {height}x{width} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads:
            wrong.append(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.pool_heads and self.embed_dim % self.pool_heads:
            wrong.append(f"embed_dim {self.embed_dim} is not a multiple of pool_heads {self.pool_heads}")
        if self.global_pool not in ("token", "second", "avg", "map"):
            wrong.append(f"global_pool {self.global_pool!r} is none of 'token', 'second', 'avg', 'map'")
        if self.global_pool == "second" and not (self.class_token and self.reg_tokens):
            wrong.append("global_pool 'second' needs class_token and reg_tokens")
        if self.global_pool == "token" and not self.class_token:
            wrong.append("global_pool 'token' needs class_token; use global_pool='avg'")
        if self.distilled and (not self.class_token or self.reg_tokens or self.global_pool != "token"):
            wrong.append("distilled needs class_token, global_pool 'token' and no reg_tokens")
        if self.depth < 1:
            wrong.append(f"depth is {self.depth}, below 1")
        if self.mlp not in (*ACTIVATIONS, "swiglu") or (self.global_pool == "map" and self.mlp == "swiglu"):
            known = ", ".join(map(repr, (*ACTIVATIONS, "swiglu")))
            wrong.append(f"mlp {self.mlp!r} is none of {known}, or 'swiglu' with global_pool 'map'")
        if self.interpolation not in ("bicubic", "bilinear"):
            wrong.append(f"interpolation {self.interpolation!r} is neither 'bicubic' nor 'bilinear'")
        width = self.embed_dim // self.num_heads
        if self.rope_base is not None and width % 4:
            wrong.append(f"rope_base needs heads whose width is a multiple of 4; it is {width}")
        if not 0 <= self.drop_path_rate < 1 or (self.drop_path_rate and self.scan_layers):
            wrong.append(
                f"drop_path_rate {self.drop_path_rate} is not in [0, 1), or above 0 with scan_layers"
            )
        return wrong + reducer_errors(self)

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w c"] | Float[Array | np.ndarray, "b n d"],
        *,
        train: bool = False,
        return_attention: bool = False,
        block: int | None = None,
        keep_ratio: float | int | Sequence[float] | None = None,
        decisions: Float[Array, "b stages _"] | None = None,
        facet: str = "token",
        first: int = 0,
        final_norm: bool = True,
    ) -> BackboneOutput:
        """Runs the network.

        Args:
            images: normalised pixels; height and width divisible by `patch_size`. With `first`, tokens.
            train: a trained reducer samples which tokens to drop, from the rng "gumbel", and masks them
                instead of dropping them. All else is computed the same either way.
            return_attention: also returns the attention of every block that ran.
            block: stop after this block, from 0, negative from the end; its tokens get the final norm. None =
                all blocks. Logits are None where blocks are left out.
            keep_ratio: as the field, instead of it; static under jit. For models with a `reducer`.
            decisions: 1 = keep, instead of sampled ones, per stage on the full grid, before stages are made
                cumulative; they mask in evaluation too. For trained reducers.
            facet: "query", "key" or "value": the patch tokens of the result are what the last block that runs
                makes of its input for its attention, heads side by side and without a norm; all else stays.
                For models that reduce no tokens.
            first: start at this block: `images` are what the blocks before it gave with `final_norm=False`,
                of images of the model's size, prefix and tokens side by side, (b, n, d).
            final_norm: False: tokens and prefix are returned as the last block that runs left them.

        Returns:
            Tokens, prefix and pooled in float32. With `fc_norm`, tokens and prefix are not normalised and
            pooled is the norm of their pooling, as in timm.

        Raises:
            ValueError: image size, block or arguments this model cannot serve.
        """
        images = jnp.asarray(images)
        last = last_block(block, self.depth)
        if first:
            tokens, grid = self._resumed(images, first, last), self.grid
        else:
            grid = patch_grid(images, self.patch_size, drop_edge=self.drop_edge)
            tokens = self._embedded(images, grid)
        fields = {
            "num_heads": self.num_heads, "mlp_ratio": self.mlp_ratio, "qkv_bias": self.qkv_bias,
            "init_values": self.init_values, "eps": self.eps, "dtype": self.dtype,
            "attention": self.attention, "return_attention": return_attention, "facet": facet,
            "key_bias": self.key_bias, "mlp": self.mlp, "mlp_hidden": self.mlp_hidden,
            "rope_pairs": self.rope_pairs,
        }  # fmt: skip
        refuse_facet(self, facet)
        rope = None
        if self.rope_base is not None:
            # Of Perception Encoder, patches are counted from 1 where there is a CLS token.
            origin = int(self.class_token) if self.rope_pairs else None
            rope = Rope(grid, self.embed_dim // self.num_heads, self.prefix_count, self.rope_base, origin)
        tokens, maps, parts, keep = run_reduced(
            self, Block, fields, tokens,
            first=first, last=last, grid=grid, train=train, keep_ratio=keep_ratio, decisions=decisions,
            rope=rope,
        )  # fmt: skip
        norm_after_pool = self.global_pool == "avg" if self.fc_norm is None else self.fc_norm
        normed = not norm_after_pool and final_norm
        tokens = LayerNorm(self.eps, name="norm")(tokens) if normed else tokens.astype(jnp.float32)
        prefix, patches = tokens[:, : self.prefix_count], tokens[:, self.prefix_count :]
        pooled, pool_attention = self._pool(prefix, patches, keep, parts.get("sizes"))
        if norm_after_pool:
            pooled = LayerNorm(self.eps, name="fc_norm")(pooled)
        heads = self._classify(pooled, prefix) if last == self.depth - 1 else {}
        if facet != "token":
            patches = maps[-1][1][:, self.prefix_count :].astype(jnp.float32)
            maps = tuple(weights for weights, _ in maps)
        return BackboneOutput(
            tokens=patches,
            pooled=pooled,
            prefix=prefix,
            logits=jnp.stack(list(heads.values())).mean(axis=0) if heads else None,
            attention=maps if return_attention else None,
            pool_attention=pool_attention if return_attention else None,
            heads=heads,
            grid=grid,
            **parts,
        )

    def _embedded(self, images: Array, grid: tuple[int, int]) -> Array:
        """What the first block gets of images."""
        embed = PatchEmbed(
            self.patch_size, self.embed_dim, self.dtype, use_bias=not self.pre_norm, name="patch_embed"
        )
        tokens = self._add_positions(embed(images), grid)
        return LayerNorm(self.eps, name="norm_pre")(tokens).astype(self.dtype) if self.pre_norm else tokens

    def _resumed(self, tokens: Array, first: int, last: int) -> Array:
        """Tokens that are given in place of images."""
        expected = (self.prefix_count + self.grid[0] * self.grid[1], self.embed_dim)
        if not 0 < first <= last + 1 or self.reducer is not None:
            raise UserError(f"first is {first}; give 1 to {last + 1}, of a model without a reducer.")
        if tokens.ndim != 3 or tokens.shape[1:] != expected:
            raise UserError(f"first {first} needs tokens (batch, *{expected}), not {tokens.shape}.")
        return tokens.astype(self.dtype)

    def _add_positions(self, tokens: Array, grid: tuple[int, int]) -> Array:
        """Puts the prefix tokens in front and adds positions, to the prefix too unless `no_embed_class`."""
        small = nn.initializers.normal(1e-6)
        names = [(self.class_token, "cls_token", 1), (self.distilled, "dist_token", 1)]
        names.append((self.reg_tokens > 0, "reg_token", self.reg_tokens))
        prefix = [
            self.param(name, small, (1, count, self.embed_dim), jnp.float32)
            for present, name, count in names
            if present
        ]
        front = jnp.concatenate(prefix, axis=1) if prefix else None
        if self.rope_base is not None and not self.rope_pairs:
            return tokens if front is None else self._with_prefix(front, tokens)
        embedded = 0 if self.no_embed_class else self.prefix_count
        rows = embedded + self.grid[0] * self.grid[1]
        table = self.param("pos_embed", linear_init, (1, rows, self.embed_dim), jnp.float32)
        patches = resize_positions(
            table[0, embedded:],
            self.grid,
            grid,
            antialias=self.interpolate_antialias,
            offset=self.interpolate_offset,
            interpolation=self.interpolation,
        )
        tokens = tokens + patches[None].astype(self.dtype)
        if front is None:
            return tokens
        return self._with_prefix(front + table[:, :embedded] if embedded else front, tokens)

    def _with_prefix(self, front: Array, tokens: Array) -> Array:
        front = jnp.broadcast_to(front, (len(tokens), *front.shape[1:])).astype(self.dtype)
        return jnp.concatenate([front, tokens], axis=1)

    def _pool(
        self, prefix: Array, patches: Array, keep: Array | None, sizes: Array | None
    ) -> tuple[Array, Array | None]:
        """The pooled vector, and the attention that made it where it was made by attention."""
        if self.global_pool == "map":
            counts = sizes if keep is None and self.reducer is not None and self.reducer.merges else keep
            if counts is not None:
                counts = jnp.concatenate([jnp.ones(prefix.shape[:2], counts.dtype), counts], axis=1)
            return self.attn_pool(jnp.concatenate([prefix, patches], axis=1), counts)
        if self.global_pool == "avg":
            return masked_mean(patches, keep), None
        if self.distilled:
            return prefix[:, :2].mean(axis=1), None
        return prefix[:, int(self.global_pool == "second")], None

    def pool_alone(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """What `pooled` would be for each token, were it the only one: itself, or attention-pooled."""
        if self.global_pool != "map":
            return tokens
        batch, count, dim = tokens.shape
        return self.attn_pool(tokens.reshape(batch * count, 1, dim))[0].reshape(batch, count, dim)

    def _classify(self, pooled: Array, prefix: Array) -> dict[str, Array]:
        """Scores of each classifier; the distilled model's two see their own token each."""
        if not self.num_classes:
            return {}
        head = nn.Dense(self.num_classes, kernel_init=linear_init, name="head")
        if not self.distilled:
            return {"cls": head(pooled)}
        head_dist = nn.Dense(self.num_classes, kernel_init=linear_init, name="head_dist")
        return {"cls": head(prefix[:, 0]), "dist": head_dist(prefix[:, 1])}
