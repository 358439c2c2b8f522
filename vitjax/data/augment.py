"""Training augmentation on the host, in Pillow and NumPy."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from vitjax.data.transforms import FILTERS, Preprocess

_GREY = (124, 116, 104)  # what turned and moved images are filled with: ImageNet's mean
_TRIES = 10


@runtime_checkable
class Choices(Protocol):
    """The fields of a config that are read here; see `vitjax.config.train_config.AugmentConfig`."""

    crop: float
    shift: int
    flip: bool
    rand_augment: int
    magnitude: float
    jitter: float
    erase: float


@dataclass(frozen=True, slots=True)
class Augment:
    """From an RGB image and random numbers to pixels of the model's size; equal numbers, equal pixels.

    Source: timm's training transform, in its order: RandomResizedCrop, flip, RandAugment or colour jitter,
    random erasing. Different: erased pixels are noise of 8 bits, cut off at black and white.

    Attributes:
        recipe: the model's input.
        choices: operations and their strength.
    """

    recipe: Preprocess
    choices: Choices

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the augmented image."""
        wanted, size = self.choices, self.recipe.image_size
        if wanted.crop:
            box = crop_box(image.size, wanted.crop, rng)
            # Not resize(box=): its filter would see pixels outside the crop.
            image = image.crop(box).resize((size, size), FILTERS[self.recipe.interpolation])
        else:
            image = Image.fromarray(self.recipe.view(image))
        if wanted.shift:
            image = _shift(image, wanted.shift, rng)
        if wanted.flip and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        if wanted.rand_augment:
            image = rand_augment(image, wanted.rand_augment, wanted.magnitude, rng)
        elif wanted.jitter:
            image = jitter(image, wanted.jitter, rng)
        pixels = np.asarray(image)
        if wanted.erase and rng.random() < wanted.erase:
            pixels = erase(pixels, self.recipe.mean, self.recipe.std, rng)
        return pixels


def composite(
    image: UInt8[np.ndarray, "h w 3"],
    background: UInt8[np.ndarray, "h w 3"],
    share: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """A strip of an image in another, so that both share a known part and nothing lies where it lay.

    The strip has the whole height, rolled over its upper edge, and is put to the side where it was not; the
    result is a little darker and compressed again.

    Args:
        image: what the strip is of.
        background: of the same shape.
        share: of the width, in (0, 1].
        rng: where the strip begins, and how far it is rolled.
    """
    height, side = image.shape[:2]
    width = round(share * side)
    room = side - width
    start = int(rng.integers(0, room + 1))
    to = 0 if start > room // 2 else room
    strip = np.roll(image[:, start : start + width], int(rng.integers(height // 4, 3 * height // 4)), axis=0)
    whole = background.copy()
    whole[:, to : to + width] = strip
    file = io.BytesIO()
    Image.fromarray((0.85 * whole).astype(np.uint8)).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file).convert("RGB"))


def crop_box(size: tuple[int, int], least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random part of an image.

    Source: Szegedy et al. 2015 (arXiv:1409.4842), as torchvision's RandomResizedCrop: its area a share in
    [least, 1], its width 3/4 to 4/3 of its height, log-uniform; the centre where ten tries do not fit.
    """
    width, height = size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _shift(image: Image.Image, border: int, rng: np.random.Generator) -> Image.Image:
    """A window of the same size, anywhere in the image with a black border."""
    left, top = (int(x) for x in rng.integers(-border, border + 1, size=2))
    return image.crop((left, top, left + image.width, top + image.height))


def rand_augment(image: Image.Image, count: int, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """Some random changes, each made with probability 1/2 and a strength about `magnitude` of 10.

    Source: Cubuk et al. 2020, RandAugment (arXiv:1909.13719), as timm's "rand-m9-mstd0.5-inc1": 15 kinds,
    strengths normal with deviation 0.5, all rising with the magnitude. Different: posterizing leaves at least
    one bit, where timm leaves none at the magnitude 10, a black image.
    """
    for kind in rng.integers(0, len(_KINDS), size=count):
        strength = min(max(rng.normal(magnitude, 0.5), 0.0), 10.0) / 10
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < 0.5:
            image = _KINDS[kind](image, strength, sign)
    return image


def _affine(image: Image.Image, matrix: tuple[float | int, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=_GREY
    )


def _enhance(kind: type) -> Callable[[Image.Image, float, int], Image.Image]:
    def change(image: Image.Image, strength: float, sign: int) -> Image.Image:
        return kind(image).enhance(max(0.1, 1 + sign * 0.9 * strength))

    return change


def _rotate(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return image.rotate(30 * strength * sign, resample=Image.Resampling.BICUBIC, fillcolor=_GREY)


def _brighten_dark(image: Image.Image, strength: float, _: int) -> Image.Image:
    more = min(128, int(110 * strength))
    return image.point([min(255, i + more) if i < 128 else i for i in range(256)] * 3)


_KINDS: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda image, *_: ImageOps.autocontrast(image),
    lambda image, *_: ImageOps.equalize(image),
    lambda image, *_: ImageOps.invert(image),
    _rotate,
    lambda image, s, _: ImageOps.posterize(image, max(1, 4 - int(4 * s))),
    lambda image, s, _: ImageOps.solarize(image, 256 - min(256, int(256 * s))),
    _brighten_dark,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda image, s, sign: _affine(image, (1, 0.3 * s * sign, 0, 0, 1, 0)),
    lambda image, s, sign: _affine(image, (1, 0, 0, 0.3 * s * sign, 1, 0)),
    lambda image, s, sign: _affine(image, (1, 0, 0.45 * s * sign * image.width, 0, 1, 0)),
    lambda image, s, sign: _affine(image, (1, 0, 0, 0, 1, 0.45 * s * sign * image.height)),
)


_JITTERED = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each by a factor in 1 +- strength, in random order."""
    for kind in rng.permutation(3):
        factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
        image = _JITTERED[kind](image).enhance(factor)
    return image


def erase(
    pixels: UInt8[np.ndarray, "h w 3"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """Noise in place of a random box.

    Source: Zhong et al. 2020, Random Erasing (arXiv:1708.04896), as timm's mode "pixel": 2 % to a third of
    the area, sides 0.3 to 3.3 to each other, normal noise of the model's own mean and deviation.
    """
    height, width = pixels.shape[:2]
    for _ in range(_TRIES):
        area = rng.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            noise = (
                rng.standard_normal((h, w, 3)) * np.asarray(std)[None, None] + np.asarray(mean)[None, None]
            )
            pixels = pixels.copy()
            pixels[top : top + h, left : left + w] = np.rint(np.clip(255 * noise, 0, 255))
            break
    return pixels
