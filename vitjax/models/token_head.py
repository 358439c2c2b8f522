"""The head that weighs patch tokens before they are matched, and the published one that it follows."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vitjax.errors import UserError
from vitjax.layers.activations import gelu
from vitjax.layers.basic import linear_init
from vitjax.models.elvis import Elvis

MOST_PARAMETERS = 20_000
PRICE = 0.35  # of an untrained head; what unrelated synthetic images give (`vitjax.retrieval.match_price`)
BOUND = 0.5  # of log weights: no token is taken out, and what is learned of one domain harms another less


class HeadOutput(NamedTuple):
    """What the head gives of b images of n tokens.

    Attributes:
        weights: share of the image's mass that each token has; 0 for padding, summing to 1.
        price: of a unit of unmatched mass, for every image the same, in [0, 2].
    """

    weights: Float[Array, "b n"]
    price: Float[Array, ""]


class TokenHead(nn.Module):
    """Log weight of each token by a small network, from the token and its similarity to the others.

    Source: the gain per token of ELViS (ICLR 2026). Different: the gain is a marginal of a converged plan
    rather than the score of a dustbin, depends on one image alone, so that it is stored with the descriptors
    and costs a pair nothing, and scores stay sums over matched patches. Nothing is projected: a fifth to an
    eighth of the parameters. Beside its own values a token has three numbers that mean the same in
    every domain: its largest and mean similarity to the image's other tokens, and that to their mean.

    An untrained head weighs all tokens alike.

    Attributes:
        local_dim: length of a token.
        hidden: units of the network; 0 = 32, or the largest multiple of 8 with at most 20,000 parameters.
    """

    local_dim: int = 384
    hidden: int = 0

    def blank(self) -> tuple[Array]:
        """An input of the shape that it takes."""
        return (jnp.zeros((1, 2, self.local_dim), jnp.float32),)

    @property
    def units(self) -> int:
        """Units of the network."""
        most = (MOST_PARAMETERS - 2) // (self.local_dim + 5)
        return self.hidden or max(min(32, most // 8 * 8), 1)

    @nn.compact
    def __call__(
        self, tokens: Float[Array | np.ndarray, "b n d"], valid: Bool[Array | np.ndarray, "b n"] | None = None
    ) -> HeadOutput:
        """Weighs the tokens, in float32.

        Args:
            tokens: of length 1, without positional bias where they are matched without it.
            valid: False = padding; None: no token is.
        """
        tokens = jnp.asarray(tokens, jnp.float32)
        valid = jnp.ones(tokens.shape[:2], bool) if valid is None else jnp.asarray(valid)
        found = jnp.concatenate([tokens * self.local_dim**0.5, 3 * _similarities(tokens, valid)], axis=-1)
        hidden = gelu(nn.Dense(self.units, kernel_init=linear_init, name="token_gain_fc1")(found))
        gain = nn.Dense(1, kernel_init=nn.initializers.zeros, name="token_gain_fc2")(hidden)[..., 0]
        gain = BOUND * jnp.tanh(gain / BOUND)
        price = self.param("price", nn.initializers.constant(PRICE), (), jnp.float32)
        weights = jnp.where(valid, jnp.exp(gain), 0.0)
        total = weights.sum(axis=1, keepdims=True)
        return HeadOutput(weights / jnp.where(total > 0, total, 1.0), jnp.clip(price, 0.0, 2.0))


def _similarities(tokens: Float[Array, "b n d"], valid: Bool[Array, "b n"]) -> Float[Array, "b n 3"]:
    """Largest and mean cosine to the other tokens, and the cosine to the mean token."""
    cosine = jnp.einsum("bnd,bmd->bnm", tokens, tokens, precision="highest")
    others = valid[:, None, :] & ~jnp.eye(tokens.shape[1], dtype=bool)[None]
    count = jnp.maximum(others.sum(axis=2), 1)
    mean = jnp.where(others, cosine, 0.0).sum(axis=2) / count
    largest = jnp.max(jnp.where(others, cosine, -1.0), axis=2)
    centre = jnp.where(valid[..., None], tokens, 0.0).sum(axis=1)
    length = jnp.sqrt(jnp.sum(centre * centre, axis=-1, keepdims=True) + 1e-12)
    return jnp.stack([largest, mean, jnp.einsum("bnd,bd->bn", tokens, centre / length)], axis=-1)


def match_head(local_dim: int, *, compat: str | None = None) -> nn.Module:
    """The head that weighs tokens, or the published one, without weights.

    Args:
        local_dim: length of a token.
        compat: None: ours, a `TokenHead`. "elvis": ELViS's form, an `Elvis`, to compare with its numbers.

    Raises:
        UserError: another `compat`.

    >>> match_head(384).units
    32
    """
    if compat not in (None, "elvis"):
        raise UserError(f"match_head: compat {compat!r} is unknown; known: None, 'elvis'")
    return TokenHead(local_dim) if compat is None else Elvis(local_dim)
