"""Text towers: the transformers that stand beside an image tower, as one module."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.layers.activations import ACTIVATIONS
from vitjax.layers.attention import Attention
from vitjax.layers.basic import LayerNorm, Mlp, linear_init
from vitjax.models.block_stack import run_blocks
from vitjax.models.outputs import TextOutput

POOLS = ("end", "last", "mean")


class TextBlock(nn.Module):
    """Pre-norm transformer block of a text tower; names are those of `vit.Block`."""

    num_heads: int
    mlp_hidden: int
    mlp: str
    eps: float | int
    causal: bool
    dtype: str
    attention: str
    return_attention: bool = False

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b l d"], seen: Float[Array, "b l"] | None = None
    ) -> tuple[Float[Array, "b l d"], Any]:
        """Returns the updated tokens and, if asked for, the attention after softmax.

        Args:
            tokens: of all positions.
            seen: 0 for positions at which no token looks; None = all are seen.
        """
        attn = Attention(
            self.num_heads, dtype=self.dtype, implementation=self.attention, causal=self.causal, name="attn"
        )
        normal = LayerNorm(self.eps, name="norm1")(tokens).astype(self.dtype)
        update, weights, _ = attn(normal, None, seen, return_attention=self.return_attention)
        tokens = tokens + update
        mlp = Mlp(self.mlp_hidden, self.dtype, self.mlp, name="mlp")
        return tokens + mlp(LayerNorm(self.eps, name="norm2")(tokens).astype(self.dtype)), weights


class TextTransformer(nn.Module):
    """Transformer over token ids: text towers of CLIP, SigLIP, TIPS and their like.

    Source: Radford et al. 2021, CLIP (arXiv:2103.00020); Zhai et al. 2023, SigLIP (arXiv:2303.15343);
    Maninis et al. 2025, TIPS (arXiv:2410.16512).

    Attributes:
        vocab_size: number of token ids.
        context_length: most tokens of a text.
        embed_dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads; divides `embed_dim`.
        mlp_hidden: width inside the MLP; None = 4 times `embed_dim`.
        mlp: non-linearity of the MLPs, a name of `vitjax.layers.activations.ACTIVATIONS`.
        eps: of every layer norm.
        causal: a token sees only itself and those before it (CLIP).
        masks_padding: no token looks at padding, and tokens there are zeros in the result (TIPS); False:
            padding counts like any token, as in CLIP and SigLIP.
        positions: "learned", or "sinusoid": fixed, sines then cosines (TIPS).
        scales_embedding: token embeddings are multiplied by the root of `embed_dim` (TIPS).
        pool: which token stands for the text: "end", the first end token; "last", the one at the last
            position, padding or not; "mean", the mean of those that are no padding.
        end_token: id of the end token, for `pool="end"`; None = the highest id of each text.
        projection_dim: width of the joint space, which pooled is projected to; None = pooled itself.
        projection_bias: whether that projection has a bias.
        dtype: "float32" or "bfloat16", of matrix products; parameters, norms, softmax, results are float32.
        remat: see `VisionTransformer`, as the next two.
        scan_layers: one block is compiled and scanned.
        attention: "xla" or "cudnn".
    """

    vocab_size: int = 49408
    context_length: int = 77
    embed_dim: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_hidden: int | None = None
    mlp: str = "gelu"
    eps: float | int = 1e-5
    causal: bool = True
    masks_padding: bool = False
    positions: str = "learned"
    scales_embedding: bool = False
    pool: str = "end"
    end_token: int | None = None
    projection_dim: int | None = None
    projection_bias: bool = False
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False
    attention: str = "xla"

    @nn.nowrap
    def field_errors(self) -> list[str]:
        """Returns which fields do not go together."""
        wrong = []
        if self.embed_dim % self.num_heads:
            wrong.append(f"text embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if min(self.depth, self.vocab_size, self.context_length) < 1:
            wrong.append("text depth, vocab_size and context_length must be at least 1")
        for name, value, known in (
            ("mlp", self.mlp, tuple(ACTIVATIONS)),
            ("pool", self.pool, POOLS),
            ("positions", self.positions, ("learned", "sinusoid")),
        ):
            if value not in known:
                wrong.append(f"text {name} {value!r} is none of {', '.join(map(repr, known))}")
        return wrong

    def setup(self) -> None:
        """Makes what `project` shares with a call."""
        if self.projection_dim is not None:
            self.projection: nn.Dense = nn.Dense(
                self.projection_dim, use_bias=self.projection_bias, dtype=self.dtype, kernel_init=linear_init
            )

    @nn.compact
    def __call__(
        self,
        ids: Int[Array | np.ndarray, "b l"],
        valid: Bool[Array | np.ndarray, "b l"] | None = None,
        *,
        return_attention: bool = False,
    ) -> TextOutput:
        """Runs the network.

        Args:
            ids: token ids as the tower's tokenizer gives them, padded as the tower was trained.
            valid: False for padding; None = nowhere. Only `pool="mean"` and `masks_padding` look at it.
            return_attention: also returns the attention of every block.

        Raises:
            ValueError: texts longer than `context_length`.
        """
        ids = jnp.asarray(ids, jnp.int32)
        batch, length = ids.shape
        if not 0 < length <= self.context_length:
            raise UserError(f"texts have {length} tokens; this tower takes 1 to {self.context_length}.")
        there = jnp.ones((batch, length), jnp.float32) if valid is None else jnp.asarray(valid, jnp.float32)
        table = self.param("token_embedding", linear_init, (self.vocab_size, self.embed_dim), jnp.float32)
        tokens = jnp.take(table, ids, axis=0)
        if self.scales_embedding:
            tokens = tokens * self.embed_dim**0.5
        tokens = (tokens + self._positions(length)[None]).astype(self.dtype)
        fields = {
            "num_heads": self.num_heads, "mlp_hidden": self.mlp_hidden or 4 * self.embed_dim,
            "mlp": self.mlp, "eps": self.eps, "causal": self.causal, "dtype": self.dtype,
            "attention": self.attention, "return_attention": return_attention,
        }  # fmt: skip
        # Not 0: of a text that is all padding, attention is even instead of undefined.
        shared = (jnp.maximum(there, 1e-37),) if self.masks_padding else ()
        tokens, maps = run_blocks(self, TextBlock, fields, tokens, *shared, last=self.depth - 1)
        tokens = LayerNorm(self.eps, name="norm")(tokens)
        pooled = self._pool(tokens, ids, there)
        embedding = self.project(pooled)
        if self.masks_padding:
            tokens = tokens * there[:, :, None]
        return TextOutput(tokens, pooled, embedding, maps if return_attention else None)

    def project(self, tokens: Float[Array, "*b d"]) -> Float[Array, "*b j"]:
        """Tokens in the joint space, each as if it were the pooled one.

        Args:
            tokens: after the final norm, as a call returns them.
        """
        if self.projection_dim is None:
            return tokens
        return self.projection(tokens.astype(self.dtype)).astype(jnp.float32)

    def _positions(self, length: int) -> Float[Array, "l d"]:
        if self.positions == "sinusoid":
            return jnp.asarray(sinusoids(length, self.embed_dim))
        shape = (self.context_length, self.embed_dim)
        return self.param("position_embedding", linear_init, shape, jnp.float32)[:length]

    def _pool(
        self, tokens: Float[Array, "b l d"], ids: Int[Array, "b l"], there: Float[Array, "b l"]
    ) -> Float[Array, "b d"]:
        if self.pool == "mean":
            return jnp.einsum("bld,bl->bd", tokens, there) / jnp.maximum(there.sum(axis=1), 1)[:, None]
        if self.pool == "last":
            return tokens[:, -1]
        end = ids if self.end_token is None else ids == self.end_token
        return jnp.take_along_axis(tokens, end.argmax(axis=1)[:, None, None], axis=1)[:, 0]


def sinusoids(length: int, width: int) -> Float[np.ndarray, "l d"]:
    """Fixed positions: sines of all frequencies, then their cosines; frequencies from 1 down to 1e-4.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), Sec. 3.5, in the order of the code of TIPS.
    """
    half = width // 2
    rates = np.exp(-np.log(10_000.0) * np.arange(half) / max(half - 1, 1))
    angles = np.arange(length)[:, None] * rates[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
