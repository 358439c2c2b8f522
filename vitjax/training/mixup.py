"""Mixup and cutmix of a batch, on the device."""

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
    group: int = 0,
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Every image with another of its group, in one proportion for the whole group.

    Source: Zhang et al. 2018, mixup (arXiv:1710.09412); Yun et al. 2019, CutMix (arXiv:1905.04899); in the
    form of timm's `Mixup(mode="batch")`: image i with image b - 1 - i, one of the two ways by a fair coin
    where both are on, the cut box clipped at the border and its true area deciding the labels. A group is
    what timm's batch is, the images of one GPU: consecutive rows, whatever the number of devices here.

    Args:
        rng: a key.
        images: normalised pixels.
        labels: shares of classes.
        mixup: alpha of the Beta distribution, 0 = never.
        cutmix: the same for cutmix.
        group: images of a group, a divisor of b; 0, or more than b = all of them.
    """
    if not mixup and not cutmix:
        return images, labels
    rows = min(group or len(images), len(images))
    keys = jax.random.split(rng, len(images) // rows)
    size = images.shape[1], images.shape[2]
    share, inside = jax.vmap(lambda key: draw(key, size, mixup=mixup, cutmix=cutmix))(keys)
    pixels = images.reshape(-1, rows, *images.shape[1:])
    mixed, soft = jax.vmap(blend)(pixels, labels.reshape(-1, rows, labels.shape[1]), share, inside)
    return mixed.reshape(images.shape), soft.reshape(labels.shape)


def draw(
    rng: Array, size: tuple[int, int], *, mixup: float, cutmix: float
) -> tuple[Float[Array, ""], Float[Array, "h w"]]:
    """What a group's images are mixed by: the share that each keeps, and the box cut out, 1 inside it.

    One of the two changes nothing: the share is 1 where a box is cut, and the box is empty where none is.
    """
    coin, by_mixup, by_cutmix, centre = jax.random.split(rng, 4)
    cut = jax.random.bernoulli(coin) if mixup and cutmix else jnp.bool_(bool(cutmix))
    share = jax.random.beta(by_mixup, mixup, mixup) if mixup else jnp.float32(1)
    inside = jnp.zeros(size)
    if cutmix:
        centre = [
            jax.random.randint(key, (), 0, n) for key, n in zip(jax.random.split(centre), size, strict=True)
        ]
        inside = jnp.where(cut, box(jax.random.beta(by_cutmix, cutmix, cutmix), centre, size), 0.0)
    return jnp.where(cut, 1.0, share), inside


def blend(
    images: Float[Array, "b h w c"],
    labels: Float[Array, "b k"],
    share: Float[Array, ""],
    inside: Float[Array, "h w"],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
    """Image i with image b - 1 - i: its share of each pixel, none of it inside the box; labels likewise."""
    kept = share * (1 - inside)
    pixels = kept[None, :, :, None]
    mixed = images * pixels + jnp.flip(images, axis=0) * (1 - pixels)
    return mixed, labels * kept.mean() + jnp.flip(labels, axis=0) * (1 - kept.mean())


def box(share: Array, centre: list[Array], size: tuple[int, int]) -> Float[Array, "h w"]:
    """1 inside a box of about 1 - share of the image, clipped at the border; all as (y, x)."""
    axes = []
    for middle, length in zip(centre, size, strict=True):
        half = jnp.floor(length * jnp.sqrt(1 - share)) // 2
        coordinate = jnp.arange(length)
        axes.append(((coordinate >= middle - half) & (coordinate < middle + half)).astype(jnp.float32))
    return axes[0][:, None] * axes[1][None, :]
