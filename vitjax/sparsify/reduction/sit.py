"""SiT's token slimming: weights over tokens from a small MLP of each."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.activations import gelu
from vitjax.layers.basic import LayerNorm, linear_init
from vitjax.sparsify.reduction.base import LearnedTokens


class TokenSlimming(nn.Module):
    """Makes `count` tokens, sums of all with weights that an MLP gives each token; has to be trained.

    Source: Zong et al. 2022, SiT (arXiv:2111.12127), Eqs. 2 and 3, in the form and with the weight names of
    Haurum et al. 2023 (arXiv:2308.04657). The sums are of the tokens before the norm.

    Attributes:
        count: tokens that it makes.
        ratio: hidden width, in units of the token's.
        eps: of the norm.
    """

    count: int
    ratio: float | int = 0.5
    eps: float | int = 1e-5

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]]:
        """Returns the made tokens, and the weights of the given ones in them, float32; rows sum to 1."""
        hidden = LayerNorm(self.eps, name="weight_0")(tokens)
        width = int(tokens.shape[-1] * self.ratio)
        hidden = gelu(nn.Dense(width, kernel_init=linear_init, name="weight_1")(hidden))
        scale = self.param("scale", nn.initializers.ones, (1, 1, 1), jnp.float32)
        logits = nn.Dense(self.count, kernel_init=linear_init, name="weight_3")(hidden) * scale
        weights = jax.nn.softmax(logits, axis=1).swapaxes(1, 2)
        mixed = jnp.einsum("bmn,bnd->bmd", weights, tokens.astype(jnp.float32))
        return mixed.astype(tokens.dtype), weights


@dataclass(frozen=True)
class SiT(LearnedTokens):
    """Learned tokens before a block, by weights that an MLP gives each token; see `TokenSlimming`.

    No attention, no CLS; has to be trained, see `LearnedTokens`.

    Attributes:
        ratio: see `TokenSlimming`.
    """

    ratio: float | int = 0.5

    name = "sit"

    def make_tokens(
        self, tokens: Float[Array, "b n d"], kept: int, name: str
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]] | None:
        """See `Reducer.make_tokens`."""
        return TokenSlimming(kept, ratio=self.ratio, name=name)(tokens)
