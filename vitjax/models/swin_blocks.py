"""Window attention, Swin's block, and patch merging."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vitjax.layers.attention import attend, explicit_attention
from vitjax.layers.basic import LayerNorm, Mlp, drop_branch, linear_init
from vitjax.layers.masked_attention import masked_attention
from vitjax.layers.windows import WindowAttention, Windows


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
        self,
        tokens: Float[Array, "b h w d"],
        windows: Windows,
        keep: Float[Array, "b h w"] | None = None,
        *,
        return_attention: bool = False,
    ) -> tuple[Float[Array, "b h w d"], WindowAttention | None]:
        """Returns the update of every token and, if asked for, the attention after softmax (float32).

        Args:
            tokens: normalised.
            windows: how their grid is cut.
            keep: 1 where a token is seen in its window, 0 where only by itself; see `masked_softmax`. None =
                all.
            return_attention: whether maps are wanted.
        """
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
        if keep is not None:
            # Padding is a key like any other, here too.
            seen = windows.cut(keep[..., None] - 1)[..., 0] + 1
            mixed, maps = masked_attention(query, key, value, seen, bias=bias)
            weights = WindowAttention(maps, windows) if return_attention else None
        elif return_attention:
            mixed, maps = explicit_attention(query, key, value, bias=bias)
            weights = WindowAttention(maps, windows)
        else:
            mixed = attend(query, key, value, bias=bias, implementation=self.implementation)
        proj = nn.Dense(dim, dtype=self.dtype, kernel_init=linear_init, name="proj")
        return windows.join(proj(mixed.reshape(count, slots, dim))), weights

    def _bias(self, windows: Windows, count: int) -> Float[Array, "windows heads n n"]:
        """Relative position bias and shift mask of every window of the batch."""
        span = 2 * self.window[0] - 1, 2 * self.window[1] - 1
        table = self.param(
            "relative_position_bias_table", linear_init, (span[0] * span[1], self.num_heads), jnp.float32
        )
        rows, columns = np.divmod(np.arange(windows.size[0] * windows.size[1]), windows.size[1])
        down = rows[:, None] - rows[None, :] + self.window[0] - 1
        across = columns[:, None] - columns[None, :] + self.window[1] - 1
        bias = table[down * span[1] + across].transpose(2, 0, 1)[None]
        shift_mask = windows.shift_mask()
        if shift_mask is not None:
            bias = bias + jnp.asarray(shift_mask)[:, None]
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
    drop_path: float | int = 0.0

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
        tokens = tokens + drop_branch(self, update, self.drop_path)
        mlp = Mlp(int(dim * self.mlp_ratio), self.dtype, name="mlp")
        flat = LayerNorm(self.eps, name="norm2")(tokens).astype(self.dtype)
        update = mlp(flat.reshape(batch, height * width, dim))
        return tokens + drop_branch(self, update, self.drop_path).reshape(tokens.shape), weights


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
