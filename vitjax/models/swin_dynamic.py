"""The dynamic stage of DynamicSwin: selected tokens take the MLP (slow path), others a linear layer."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.layers.basic import LayerNorm, Mlp, drop_branch, linear_init
from vitjax.layers.windows import WindowAttention, Windows
from vitjax.models.swin_blocks import Block, PatchMerging, WindowSelfAttention
from vitjax.models.token_pruning import decide
from vitjax.sparsify.decisions import as_keep, keep_count, stage_ratios, take, top_k_index
from vitjax.sparsify.predictor import Predictor

Split = tuple[Int[Array, "b k"], Int[Array, "b m"]]  # positions that take the slow path, and the others


def swin_ratios(keep_ratio: float | int | Sequence[float | int], stages: int) -> tuple[float, ...]:
    """Share of tokens on the slow path after each predictor: r, r - 0.2, r - 0.4, or the shares themselves.

    Different from the official code, where 0.7 - 0.2 falls short of 0.5 in floating point and 97 of 196
    tokens stay: decimal differences, 98, which is what the published costs hold.

    Raises:
        ValueError: not one share per predictor, or one outside (0, 1].
    """
    if not isinstance(keep_ratio, Sequence):
        keep_ratio = tuple(round(keep_ratio - 0.2 * stage, 9) for stage in range(stages))
    return stage_ratios(keep_ratio, stages)


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
            update = _each_its_way(flat(tokens), split, slow, fast)
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
        batch, height, width, _ = tokens.shape
        cells = height * width
        masked = train or decisions is not None
        if decisions is not None and decisions.shape != (batch, len(self.pruning_loc), cells):
            raise UserError(
                f"decisions have shape {decisions.shape}; expected (images, predictors, tokens of the sparse "
                f"stage) = {(batch, len(self.pruning_loc), cells)}."
            )
        fields = {
            "num_heads": self.num_heads, "window": self.window, "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias, "eps": self.eps, "dtype": self.dtype, "attention": self.attention,
            "return_attention": return_attention,
        }  # fmt: skip
        keep, split, other = None, None, None
        maps, scores, applied, index = [], [], [], []
        for i in range(depth):
            if i in self.pruning_loc:
                stage = self.pruning_loc.index(i)
                merged = tokens if other is None or keep is None else tokens * keep + other * (1 - keep)
                predictor = Predictor(dtype=self.dtype, name=f"score_predictor_{stage}")
                scores.append(predictor(merged.reshape(batch, cells, merged.shape[-1])))
                if masked:
                    flat = decide(self, scores[-1], None if decisions is None else decisions[:, stage])
                else:
                    split = split_tokens(scores[-1][..., 0], ratios[stage])
                    flat = as_keep(split[0], cells)
                    index.append(split[0])
                applied.append(flat)
                keep = flat.reshape(batch, height, width, 1)
                if masked and self.compat == "released" and other is None:
                    other = tokens
            fields["drop_path"] = self.drop_path[i] if self.drop_path else 0.0
            if keep is None:
                tokens, weights = self._layer(Block, i, fields)(tokens)
            else:
                layer = self._layer(DynamicBlock, i, fields | {"mask_keys": self.mask_keys})
                tokens, other, weights = layer(tokens, keep.astype(tokens.dtype), split, other)
            maps.append(weights)
        if other is not None and keep is not None:
            tokens = tokens * keep + other * (1 - keep)
        parts: dict[str, Any] = {"scores": tuple(scores), "keep_index": tuple(index)}
        if applied:
            parts["decisions"] = jnp.stack(applied, axis=1)
        return tokens, maps, parts

    def _layer(self, kind: type[nn.Module], i: int, fields: dict[str, Any]) -> Any:
        made: Any = nn.remat(kind) if self.remat else kind
        return made(**fields, shifted=i % 2 == 1, name=f"blocks_{i}")


def split_tokens(scores: Float[Array, "b n"], ratio: float) -> Split:
    """Ascending positions of the best int(n * ratio) tokens, and of the others."""
    count = scores.shape[1]
    best = top_k_index(scores, keep_count(count, ratio, alive=count))
    order = jnp.argsort(as_keep(best, count), axis=1, stable=True)  # those that are not among the best first
    return best, order[:, : count - best.shape[1]]


def _each_its_way(tokens: Array, split: Split, slow: Any, fast: Any) -> Array:
    """Updates of all tokens in their order, each path computed for its own tokens."""
    best, rest = split
    if not rest.shape[1]:
        return slow(tokens)
    updates = jnp.concatenate([slow(take(tokens, best)), fast(take(tokens, rest))], axis=1)
    return take(updates, jnp.argsort(jnp.concatenate([best, rest], axis=1), axis=1))
