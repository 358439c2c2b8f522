"""PatchMerger: learned queries attend to normalised tokens."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.layers.basic import LayerNorm
from vitjax.sparsify.reduction.base import LearnedTokens


class PatchMerger(nn.Module):
    """Makes `count` tokens, each the attention of a learned query over all tokens; has to be trained.

    Source: Renggli et al. 2022, PatchMerger (arXiv:2202.12015), in the form and with the weight names of
    Haurum et al. 2023 (arXiv:2308.04657): queries start from N(0, 1), values are the normalised tokens.

    Attributes:
        count: tokens that it makes.
        scaled: products are divided by sqrt(d), which the models of that code do not do.
        eps: of the norm.
    """

    count: int
    scaled: bool = False
    eps: float | int = 1e-5

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]]:
        """Returns the made tokens, and the weights of the given ones in them, float32; rows sum to 1."""
        dim = tokens.shape[-1]
        normal = LayerNorm(self.eps, name="norm")(tokens)
        queries = self.param("queries", nn.initializers.normal(1.0), (self.count, dim), jnp.float32)
        logits = jnp.einsum("md,bnd->bmn", queries, normal) * (dim**-0.5 if self.scaled else 1.0)
        weights = jax.nn.softmax(logits, axis=-1)
        return jnp.einsum("bmn,bnd->bmd", weights, normal).astype(tokens.dtype), weights


@dataclass(frozen=True)
class PatchMerging(LearnedTokens):
    """Learned tokens before a block, by queries that attend to all tokens; see `PatchMerger`.

    No attention, no CLS; has to be trained, see `LearnedTokens`.

    Attributes:
        scaled: see `PatchMerger`.
    """

    scaled: bool = False

    name = "patchmerger"

    def make_tokens(
        self, tokens: Float[Array, "b n d"], kept: int, name: str
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]] | None:
        """See `Reducer.make_tokens`."""
        return PatchMerger(kept, scaled=self.scaled, name=name)(tokens)
