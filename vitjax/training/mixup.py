"""Mixup and cutmix of a whole batch, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def soft_labels(labels: Int[Array, " b"], classes: int, smoothing: float) -> Float[Array, "b k"]:
    """Shares of classes: `smoothing` spread over all of them, the rest on the label."""
    return jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def mix(
    rng: Array,
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    *,
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Every image with another of the batch, in one proportion for the whole batch.

    Source: Zhang et al. 2018, mixup (arXiv:1710.09412); Yun et al. 2019, CutMix (arXiv:1905.04899); in the
    form of timm's `Mixup(mode="batch")`: image i with image b - 1 - i, one of the two ways by a fair coin
    where both are on, the cut box clipped at the border and its true area deciding the labels.

    Args:
        rng: a key.
        images: normalised pixels.
        labels: shares of classes.
        mixup: alpha of the Beta distribution, 0 = never.
        cutmix: the same for cutmix.
    """
    if not mixup and not cutmix:
        return images, labels
    coin, by_mixup, by_cutmix, box = jax.random.split(rng, 4)
    cut = jax.random.bernoulli(coin) if mixup and cutmix else jnp.bool_(bool(cutmix))
    share = jax.random.beta(by_mixup, mixup, mixup) if mixup else jnp.float32(1)
    inside = _box(box, images.shape[1:3], jax.random.beta(by_cutmix, cutmix, cutmix)) if cutmix else None
    other = jnp.flip(images, axis=0)
    mixed = images * share + other * (1 - share)
    if inside is not None:
        share = jnp.where(cut, 1 - inside.mean(), share)
        mixed = jnp.where(cut, jnp.where(inside[None, :, :, None] > 0, other, images), mixed)
    return mixed, labels * share + jnp.flip(labels, axis=0) * (1 - share)


def _box(rng: Array, size: tuple[int, ...], share: Array) -> Float[Array, "h w"]:
    """1 inside a box of about 1 - share of the image, its centre anywhere, clipped at the border."""
    axes = []
    for key, length in zip(jax.random.split(rng), size, strict=True):
        half = jnp.floor(length * jnp.sqrt(1 - share)) // 2
        centre = jax.random.randint(key, (), 0, length)
        place = jnp.arange(length)
        axes.append(((place >= centre - half) & (place < centre + half)).astype(jnp.float32))
    return axes[0][:, None] * axes[1][None, :]
