"""Multi-head self-attention, with or without its maps."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.basic import linear_init
from vitjax.layers.masked_attention import masked_attention
from vitjax.layers.rope import rotate


class Facets(NamedTuple):
    """Queries, keys and values of a block's attention."""

    query: Float[Array, "b n heads w"]
    key: Float[Array, "b n heads w"]
    value: Float[Array, "b n heads w"]


class Attention(nn.Module):
    """Self-attention over tokens; one fused projection `qkv` as in timm.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), Eq. 1; scale 1 / sqrt(head width).
    """

    num_heads: int
    qkv_bias: bool = True
    dtype: str = "float32"
    implementation: str = "xla"  # see `attend`
    key_bias: bool = True  # False: only queries and values have one, as `q_bias` and `v_bias`
    rope_pairs: bool = False  # see `rotate`
    causal: bool = False  # True: a token sees itself and those before it

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n d"],
        keep: Float[Array, "b n"] | None = None,
        sizes: Float[Array, "b n"] | None = None,
        rope: Float[Array, "#b n 2 w"] | None = None,
        *,
        return_attention: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b heads n n"] | None, Facets]:
        """Returns the update of every token; the attention after softmax (float32), if asked for; the facets.

        Without maps a faster order of the same operations is used; both compute the softmax in float32
        and give the same tokens up to rounding.

        Args:
            tokens: normalised.
            keep: 1 where a token is seen, 0 where only by itself; see `masked_softmax`. None = all.
            sizes: how many patches a token stands for: it gets attention as if it were there so many times
                (Bolya et al. 2023, ToMe, arXiv:2210.09461, proportional attention). None = one each.
            rope: rotations of queries and keys by position, from `vitjax.layers.rope`; facets are as they
                were before. None = none.
            return_attention: whether maps are wanted.
        """
        batch, count, dim = tokens.shape
        whole = self.qkv_bias and self.key_bias
        dense = nn.Dense(3 * dim, use_bias=whole, dtype=self.dtype, kernel_init=linear_init, name="qkv")
        projected = dense(tokens)
        if self.qkv_bias and not self.key_bias:
            zeros = nn.initializers.zeros
            q_bias, v_bias = (self.param(name, zeros, (dim,), jnp.float32) for name in ("q_bias", "v_bias"))
            bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
            projected = projected + bias.astype(projected.dtype)[None, None, :]
        qkv = projected.reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        facets = Facets(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        query, key, value = facets
        if rope is not None:
            query, key = (rotate(x, rope, pairs=self.rope_pairs) for x in (query, key))
        bias = None
        if sizes is not None:
            bias = jnp.log(sizes)[:, None, None, :]
        if self.causal:
            later = jnp.where(jnp.tri(count, dtype=bool), 0.0, -jnp.inf)[None, None]
            bias = later if bias is None else bias + later
        if bias is not None:
            bias = jnp.broadcast_to(bias, (batch, self.num_heads, count, count))
        weights = None
        if keep is not None:
            mixed, found = masked_attention(query, key, value, keep, bias=bias)
            weights = found if return_attention else None
        elif return_attention:
            mixed, weights = explicit_attention(query, key, value, bias=bias)
        else:
            mixed = attend(query, key, value, bias=bias, implementation=self.implementation)
        proj = nn.Dense(dim, dtype=self.dtype, kernel_init=linear_init, name="proj")
        return proj(mixed.reshape(batch, count, dim)), weights, facets


def explicit_attention(
    query: Float[Array, "b n heads w"],
    key: Float[Array, "b m heads w"],
    value: Float[Array, "b m heads w"],
    *,
    scale: float | None = None,
    bias: Float[Array, "b heads n m"] | None = None,
) -> tuple[Float[Array, "b n heads w"], Float[Array, "b heads n m"]]:
    """Attention that keeps its weights; softmax in float32, result in the type of `value`.

    `scale` multiplies the products of query and key; None = 1 / sqrt(head width). `bias` is added to
    them after.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = jnp.einsum("bnhw,bmhw->bhnm", query, key, preferred_element_type=jnp.float32) * factor
    logits = logits if bias is None else logits + bias
    weights = jax.nn.softmax(logits, axis=-1)
    mixed = jnp.einsum("bhnm,bmhw->bnhw", weights.astype(value.dtype), value)
    return mixed, weights


def attend(
    query: Float[Array, "b n heads w"],
    key: Float[Array, "b m heads w"],
    value: Float[Array, "b m heads w"],
    *,
    scale: float | None = None,
    bias: Float[Array, "b heads n m"] | None = None,
    implementation: str = "xla",
) -> Float[Array, "b n heads w"]:
    """Attention without its weights; softmax in float32, result in the type of `value`.

    Args:
        query: of every query token.
        key: of every key token.
        value: of every key token.
        scale: multiplies the products of query and key; None = 1 / sqrt(head width).
        bias: added to them after.
        implementation: "xla": two products, between them the softmax, whose sum divides after the second, on
            w numbers per token instead of m. Measured a tenth faster for a whole ViT-S/14 on CPU than the
            default of `jax.nn.dot_product_attention`, which compiles to the same two products on every
            platform. "cudnn": NVIDIA's fused kernel, which keeps no n x m array, where `fits_cudnn`, and
            "xla" elsewhere. Not seen on a GPU yet.
    """
    if implementation == "cudnn" and fits_cudnn(query, key, bias):
        return fused_attention(query, key, value, scale=scale, bias=bias, implementation="cudnn")
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = jnp.einsum("bhnw,bhmw->bhnm", query * factor, key, preferred_element_type=jnp.float32)
    logits = logits if bias is None else logits + bias
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    mixed = jnp.einsum(
        "bhnm,bhmw->bhnw", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    return (mixed / total).astype(value.dtype).transpose(0, 2, 1, 3)


def fits_cudnn(
    query: Float[Array, "b n heads w"],
    key: Float[Array, "b m heads w"],
    bias: Float[Array, "b heads n m"] | None = None,
) -> bool:
    """Whether NVIDIA's fused kernel takes these: a GPU by default, 16 bits, head width 8, 16, ... 128.

    With a bias both token counts must be even: the kernel's backward pass asks for it, and whether there will
    be one is not known here.
    """
    even = bias is None or (query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0)
    width = query.shape[-1]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return jax.default_backend() == "gpu" and half and width % 8 == 0 and width <= 128 and even


def fused_attention(
    query: Float[Array, "b n heads w"],
    key: Float[Array, "b m heads w"],
    value: Float[Array, "b m heads w"],
    *,
    scale: float | None,
    bias: Float[Array, "b heads n m"] | None,
    implementation: Literal["xla", "cudnn"],
) -> Float[Array, "b n heads w"]:
    """JAX's own attention; `bias` is rounded to the type of `query`, which cuDNN asks for."""
    if bias is not None:
        bias = bias.astype(query.dtype)
    return jax.nn.dot_product_attention(query, key, value, bias, scale=scale, implementation=implementation)
