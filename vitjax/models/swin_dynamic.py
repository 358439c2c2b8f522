"""The dynamic stage of DynamicSwin: selected tokens take the MLP (slow path), others a linear layer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm, Mlp, drop_branch, linear_init
from vitjax.layers.windows import WindowAttention, Windows
from vitjax.models.swin_blocks import Block, PatchMerging, WindowSelfAttention
from vitjax.models.two_paths import Split, each_its_way, run_two_paths


class FastMlp(nn.Module):
    """The fast path: a layer norm and one linear layer in place of an MLP."""

    eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Returns an update of every token on its own."""
        normal = LayerNorm(self.eps, name="fc1_0")(tokens).astype(self.dtype)
        return nn.Dense(tokens.shape[-1], dtype=self.dtype, kernel_init=linear_init, name="fc1_1")(normal)


class DynamicBlock(nn.Module):
    """Swin's block with a slow and a fast path after attention; attention itself is over all tokens.

    Source: Rao et al. 2023, "Dynamic Spatial Sparsification" (arXiv:2207.01580), Sec. 3.3.
    """

    num_heads: int
    window: tuple[int, int]
    shifted: bool
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    eps: float | int = 1e-5
    dtype: str = "float32"
    attention: str = "xla"
    return_attention: bool = False
    drop_path: float | int = 0.0
    mask_keys: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b h w d"],
        keep: Float[Array, "b h w 1"],
        split: Split | None = None,
        other: Float[Array, "b h w d"] | None = None,
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w d"] | None, WindowAttention | None]:
        """Returns the updated tokens, the other stream, and, if asked for, the attention after softmax.

        Args:
            tokens: on their grid.
            keep: 1 = slow path, 0 = fast path; carries gradient where there is no `split`.
            split: the same as positions: each path is computed for its own tokens only.
            other: the released training form keeps two values of every token, `tokens` as if it had gone the
                slow way and `other` as if the fast one, and `keep` chooses at the start of every block.
        """
        shape = tokens.shape
        before = tokens
        if other is not None:
            tokens = tokens * keep + other * (1 - keep)
        attn = WindowSelfAttention(
            self.num_heads, self.window, self.qkv_bias, self.dtype, self.attention, name="attn"
        )
        update, weights = attn(
            LayerNorm(self.eps, name="norm1")(tokens).astype(self.dtype),
            Windows.fit((shape[1], shape[2]), self.window, shifted=self.shifted),
            keep[..., 0] if self.mask_keys else None,
            return_attention=self.return_attention,
        )
        tokens = tokens + self._dropped(update)
        norm2 = LayerNorm(self.eps, name="norm2")
        mlp = Mlp(int(shape[-1] * self.mlp_ratio), self.dtype, name="mlp")
        fast = FastMlp(self.eps, self.dtype, name="fastmlp")

        def flat(x: Array) -> Array:
            return x.reshape(shape[0], shape[1] * shape[2], x.shape[-1])

        def slow(x: Array) -> Array:
            return mlp(norm2(x).astype(self.dtype))

        if split is not None:
            update = each_its_way(flat(tokens), split, slow, fast)
            return tokens + self._dropped(update).reshape(shape), None, weights
        if other is None:
            update = flat(keep) * slow(flat(tokens)) + (1 - flat(keep)) * fast(flat(tokens))
            return tokens + self._dropped(update).reshape(shape).astype(tokens.dtype), None, weights
        slow_input = tokens * keep + before * (1 - keep)
        fast_input = tokens * (1 - keep) + other * keep
        after = tokens + self._dropped(slow(flat(slow_input))).reshape(shape)
        return after, tokens + self._dropped(fast(flat(fast_input))).reshape(shape), weights

    def _dropped(self, update: Array) -> Array:
        return drop_branch(self, update, self.drop_path)


class DynamicStage(nn.Module):
    """A stage of Swin whose predictors select the tokens of the slow path; each selects among all tokens.

    Fields as in `swin.Stage`; `pruning_loc` are blocks of this stage that a predictor comes before.
    """

    depth: int
    num_heads: int
    window: tuple[int, int]
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    eps: float | int = 1e-5
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"
    pruning_loc: tuple[int, ...] = (1, 2, 3)
    mask_keys: bool = False
    compat: str | None = None
    drop_path: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b h w d"],
        *,
        depth: int,
        ratios: tuple[float, ...],
        train: bool = False,
        decisions: Float[Array, "b stages _"] | None = None,
        return_attention: bool = False,
    ) -> tuple[Float[Array, "b y x e"], list[WindowAttention | None], dict[str, Any]]:
        """Returns the tokens after the first `depth` blocks, the attention of each, and fields of the output.

        Args:
            tokens: of the stage before.
            depth: blocks to run.
            ratios: share of tokens on the slow path after each predictor.
            train: samples decisions, from the rng "gumbel", and computes both paths for every token.
            decisions: given ones instead; both paths are computed whatever `train` says.
            return_attention: whether maps are wanted.
        """
        tokens = PatchMerging(self.eps, self.dtype, name="downsample")(tokens)
        fields = {
            "num_heads": self.num_heads, "window": self.window, "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias, "eps": self.eps, "dtype": self.dtype, "attention": self.attention,
            "return_attention": return_attention,
        }  # fmt: skip

        def layer(i: int, two_paths: bool) -> Callable:
            kind: Any = DynamicBlock if two_paths else Block
            own = fields | ({"mask_keys": self.mask_keys} if two_paths else {})
            own["drop_path"] = self.drop_path[i] if self.drop_path else 0.0
            made: Any = nn.remat(kind) if self.remat else kind
            return made(**own, shifted=i % 2 == 1, name=f"blocks_{i}")

        return run_two_paths(
            self, layer, tokens, depth=depth, ratios=ratios, train=train, decisions=decisions
        )
