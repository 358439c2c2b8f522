"""Photos as data URIs, small enough together that a page of a hundred queries still opens at once."""

import base64
import io
from collections.abc import Collection, Mapping

import numpy as np
from PIL import Image

# Longest side in pixels and WebP quality, best first; the first that fits the budget is used for all.
_STEPS = ((512, 82), (384, 76), (256, 74), (224, 62), (192, 55), (160, 48), (128, 40), (96, 32))
_THUMBNAIL = 160  # pixels; twice the width at which a thumbnail is shown
_SAMPLE = 24


def embed_images(
    images: Mapping[str, np.ndarray], *, thumbnails: Collection[str], budget: int
) -> dict[str, str]:
    """WebP data URIs, one per image, of about `budget` bytes together.

    The quality is chosen once, from a sample of the images, so equal images look equal in the page.

    Args:
        images: key -> uint8 (h, w, 3), RGB.
        thumbnails: keys of images that are only shown small; these are stored at 160 px.
        budget: bytes of all data URIs; a target, not a promise: the last step is used where none fits.

    Returns:
        key -> "data:image/webp;base64,...".
    """
    small = set(thumbnails)
    keys = list(images)
    sample = keys[:: max(1, len(keys) // _SAMPLE)]
    for side, quality in _STEPS:
        size = sum(len(_encode(images[key], _side(key, side, small), quality)) for key in sample)
        if size * len(keys) <= budget * len(sample):
            break
    return {key: _encode(images[key], _side(key, side, small), quality) for key in keys}


def _side(key: str, side: int, small: set[str]) -> int:
    return min(side, _THUMBNAIL) if key in small else side


def _encode(image: np.ndarray, side: int, quality: int) -> str:
    pil = Image.fromarray(np.ascontiguousarray(image))
    pil.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    pil.save(file, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
