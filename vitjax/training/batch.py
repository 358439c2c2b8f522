"""Batches on the device: 8-bit pixels become model input there, as a quarter of the bytes travel."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from vitjax.config.train_config import AugmentConfig
from vitjax.data.train_loader import RawBatch
from vitjax.training.mixup import mix, soft_labels


class Batch(NamedTuple):
    """What a loss is computed on.

    Attributes:
        images: normalised pixels, mixed where that is asked for.
        labels: shares of classes.
        index: positions in the source.
    """

    images: Float[Array, "b h w 3"]
    labels: Float[Array, "b k"]
    index: Int[Array, " b"]


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


def make_mixer(config: AugmentConfig, pixels: Pixels, classes: int) -> Callable[[RawBatch, Array], Batch]:
    """(raw batch, rng) -> batch: normalised, labels smoothed, both mixed as the config says."""

    def mixed(raw: RawBatch, rng: Array) -> Batch:
        labels = soft_labels(jnp.asarray(raw.labels), classes, config.smoothing)
        images, labels = mix(
            rng, pixels(jnp.asarray(raw.images)), labels,
            mixup=config.mixup, cutmix=config.cutmix, group=config.mix_group,
        )  # fmt: skip
        return Batch(images, labels, jnp.asarray(raw.index))

    return mixed
