"""Sinkhorn clustering: tokens assigned to learned clusters by a transport plan."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.sparsify.reduction.base import LearnedTokens
from vitjax.sparsify.reduction.groups import unit


class SinkhornPool(nn.Module):
    """Makes `count` tokens, sums of unit tokens by a transport plan to learned clusters; has to be trained.

    Source: the Sinkhorn clustering of Haurum et al. 2023 (arXiv:2308.04657), in the form and with the weight
    names of its code. Both marginals are 1 / (m + n), which no plan has where m differs from n: after the
    last step every token's weights sum to 1, a cluster's to about n / m. Different from it: the parameter is
    not overwritten by its unit vectors; as there, no gradient goes through their norm.

    Attributes:
        count: tokens that it makes.
        eps: of the entropy, in units of the cosine.
        iterations: of both marginals.
    """

    count: int
    eps: float | int = 1.0
    iterations: int = 3

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]]:
        """Returns the made tokens, and the weights of the given ones in them, float32; columns sum to 1."""
        v = self.param("v", nn.initializers.normal(1.0), (self.count, tokens.shape[-1]), jnp.float32)
        norm = jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
        u = unit(tokens)
        cost = jnp.einsum("md,bnd->bmn", v / jax.lax.stop_gradient(norm), u) / self.eps
        mass = -jnp.log(float(self.count + tokens.shape[1]))
        by_cluster = jnp.zeros((len(tokens), self.count, 1), jnp.float32)
        by_token = jnp.zeros((len(tokens), 1, tokens.shape[1]), jnp.float32)
        for _ in range(self.iterations):
            by_cluster = mass - jax.nn.logsumexp(cost + by_token, axis=2, keepdims=True)
            by_token = mass - jax.nn.logsumexp(cost + by_cluster, axis=1, keepdims=True)
        weights = jnp.exp(cost + by_cluster + by_token - mass)
        return jnp.einsum("bmn,bnd->bmd", weights, u).astype(tokens.dtype), weights


@dataclass(frozen=True)
class SinkhornTokens(LearnedTokens):
    """Learned tokens before a block, by a transport plan to learned clusters; see `SinkhornPool`.

    No attention, no CLS; has to be trained, see `LearnedTokens`.

    Attributes:
        eps: see `SinkhornPool`.
        iterations: likewise.
    """

    eps: float | int = 1.0
    iterations: int = 3

    name = "sinkhorn"

    def make_tokens(
        self, tokens: Float[Array, "b n d"], kept: int, name: str
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]] | None:
        """See `Reducer.make_tokens`."""
        return SinkhornPool(kept, eps=self.eps, iterations=self.iterations, name=name)(tokens)
