"""Baseline: tokens at random."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vitjax.sparsify.reduction.base import KeepRatio, StepInput
from vitjax.sparsify.token_map import TokenMap


@dataclass(frozen=True)
class RandomTokens(KeepRatio):
    """Baseline: as many tokens as `DynamicViT` keeps, at random; the same positions in every image."""

    name = "random"

    def select(self, token_map: TokenMap, given: StepInput, kept: int) -> Int[Array, "b k"]:
        """See `Reducer.select`."""
        batch, count = token_map.index.shape
        fixed = np.sort(np.random.default_rng((0, given.stage)).permutation(count)[:kept])
        return jnp.broadcast_to(jnp.asarray(fixed, jnp.int32)[None], (batch, kept))
