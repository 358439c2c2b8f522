"""DPC-KNN: clusters around tokens that are dense and far from denser ones, each merged to one token."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.sparsify.decisions import take
from vitjax.sparsify.reduction.base import KeepRatio, StepInput, in_raster_order
from vitjax.sparsify.reduction.groups import Groups, distances, group_sum
from vitjax.sparsify.token_map import TokenMap


class Clusters(NamedTuple):
    """Centres, best first, and the place in them of each token's centre; -1 = masked."""

    centres: Int[Array, "b m"]
    cluster: Int[Array, "b n"]


def density_peaks(
    x: Float[Array, "b n d"],
    count: int,
    *,
    neighbours: int = 5,
    noise: Float[Array, "b n"] | None = None,
    mask: Float[Array, "b n"] | None = None,
) -> Clusters:
    """Clusters by density peaks: a centre has a high density and is far from tokens of a higher one.

    Source: Du et al. 2016, DPC-KNN; Zeng et al. 2022, TCFormer (arXiv:2204.08680), Eqs. 1 to 3, in the form
    of its code: distances are divided by sqrt(d), a token is one of its own nearest neighbours. Different
    from it: a masked token is 1 further away than the largest distance of its own image, not of the batch,
    so that no image depends on its batch; only one with fewer than `neighbours` tokens shows it. The distance
    from a token to itself is exactly 0.

    Args:
        x: all tokens take part.
        count: clusters.
        neighbours: of the density, the token itself included.
        noise: in [0, 1); 1e-6 of it decides between equal densities, randomly in the code. None = the first.
        mask: 1 = a token, 0 = padding. None = all are tokens.
    """
    gap = distances(x) / x.shape[-1] ** 0.5
    if mask is not None:
        far = gap.max(axis=(1, 2), keepdims=True) + 1.0
        gap = jnp.where(mask[:, None, :] > 0, gap, far)
    nearest = -jax.lax.top_k(-gap, min(neighbours, x.shape[1]))[0]
    density = jnp.exp(-jnp.mean(nearest**2, axis=-1))
    if noise is not None:
        density = density + 1e-6 * noise
    if mask is not None:
        density = density * mask
    denser = density[:, None, :] > density[:, :, None]
    parent = jnp.where(denser, gap, gap.max(axis=(1, 2), keepdims=True)).min(axis=-1)
    centres = jax.lax.top_k(parent * density, count)[1].astype(jnp.int32)
    cluster = take(gap, centres).argmin(axis=1).astype(jnp.int32)
    rows = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], centres.shape)
    cluster = cluster.at[jnp.arange(len(x))[:, None], centres].set(rows)
    return Clusters(centres, cluster if mask is None else jnp.where(mask > 0, cluster, -1))


def merge_clusters(
    tokens: Float[Array, "b n d"],
    cluster: Int[Array, "b n"],
    count: int,
    *,
    weights: Float[Array, "b n"] | None = None,
) -> tuple[Groups, Float[Array, "b n"]]:
    """Each cluster as the weighted mean of its tokens, and the share that each token has in its mean.

    As in TCFormer's code (Eq. 4 with weights of exp(score), its learned score layer), 1e-6 is added to a
    cluster's weight. Sizes count tokens.
    """
    weights = jnp.ones(cluster.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    total = group_sum(weights, cluster, count) + 1e-6
    share = jnp.where(cluster < 0, 0.0, weights / take(total, jnp.maximum(cluster, 0)))
    mean = group_sum(share[..., None] * tokens.astype(jnp.float32), cluster, count)
    sizes = group_sum(jnp.ones(cluster.shape, jnp.float32), cluster, count)
    return Groups(mean.astype(tokens.dtype), sizes, cluster), share


@dataclass(frozen=True)
class DpcKnn(KeepRatio):
    """Merges clusters around density peaks, as many as `DynamicViT` keeps; see `density_peaks`.

    Works before a block, from the tokens alone: no attention, no CLS, no training. Tokens of a cluster count
    alike (equal weights of Haurum et al. 2023, arXiv:2308.04657), whatever they stand for already.

    Attributes:
        neighbours: of the density.
    """

    neighbours: int = 5

    name = "dpcknn"
    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        found = density_peaks(tokens, kept, neighbours=self.neighbours)
        merged, _ = merge_clusters(tokens, found.cluster, kept)
        return in_raster_order(merged.tokens, token_map, found.cluster, found.centres)
