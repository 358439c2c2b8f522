"""A token reducer of your own: the tokens of the largest norm stay."""

from dataclasses import dataclass

import jax.numpy as jnp

import vitjax
from vitjax.sparsify.reducers import KeepRatio


@dataclass(frozen=True)
class LargestNorm(KeepRatio):
    """`KeepRatio` has the blocks, the ratio and the counts; only the ranking is left to define."""

    name = "largest_norm"

    def step(self, tokens, token_map, given):
        """Returns the tokens that stay and the patches they stand for."""
        return super().step(tokens, token_map, given.replace(scores=jnp.linalg.norm(tokens, axis=-1)))


def model(**fields):
    """Any plain ViT, whose tokens this reducer drops before blocks 3, 6 and 9."""
    return vitjax.build("deit_tiny_patch16_224", reduce=LargestNorm(keep_ratio=0.5), **fields)
