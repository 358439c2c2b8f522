"""8-bit pixels as model input, on the device: a quarter of the bytes travel."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


class Pixels(NamedTuple):
    """How pixels are normalised: (pixel / 255 - mean) / std per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns normalised pixels."""
        mean, std = (jnp.array(x, jnp.float32)[None, None, None, :] for x in self)
        return (images.astype(jnp.float32) / 255 - mean) / std


class Renormalise(NamedTuple):
    """From pixels normalised in one way to pixels normalised in another."""

    before: Pixels
    after: Pixels

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns them; exactly the same where both ways are."""
        if self.before == self.after:
            return images
        ours, theirs = (
            [jnp.array(x, jnp.float32)[None, None, None, :] for x in way] for way in (self.before, self.after)
        )
        return (images * ours[1] + ours[0] - theirs[0]) / theirs[1]
