"""Synthetic images: what a model's tokens look like when there is nothing to recognise.

"leaves": opaque shapes of all sizes, dropped on each other at random, each with a colour and some texture.
Edges, occlusions and the falling spectrum of photographs come with the model; things, scenes and favourite
places do not, which is the point: the average over such images holds the positional bias.
"clouds": texture alone. A leaf and a cloud are surely not the same thing, so that the best matches between
the two kinds tell how well tokens match that have nothing to do with each other.
"""

import math
import random

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageDraw

from vitjax.errors import UserError

KINDS = ("leaves", "clouds")
SIDE = 224  # pixels; both kinds look alike at every scale, so a model may enlarge them
_LEAVES = 400
_RADII = 4.0, 120.0  # pixels: smallest and largest


class SyntheticSource:
    """Synthetic images, unlabelled; image i of a kind is the same everywhere and in every version.

    Source: Lee, Mumford, Huang 2001, Occlusion Models for Natural Images (IJCV 41): disks whose radius has
    density r^-3; both kinds as training images in Baradad et al. 2021 (arXiv:2106.05963). Different:
    ellipses and rectangles instead of disks, and texture with a 1/f spectrum on them.

    Args:
        kind: "leaves" or "clouds".
        count: number of images.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, kind: str, count: int) -> None:
        if kind not in KINDS:
            kinds = ", ".join(map(repr, KINDS))
            raise UserError(f"there are no synthetic images of kind {kind!r}; there are {kinds}.")
        self._make = _leaves if kind == "leaves" else _clouds
        self.names: list[str] = [f"{kind}-{i}" for i in range(count)]
        self.labels: np.ndarray | None = None
        self.class_names: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB."""
        # The numbers of a named generator are the same in every version of Python.
        return self._make(random.Random(self.names[i]))


def _leaves(draw: random.Random) -> Image.Image:
    tint = [draw.uniform(0.2, 0.8) for _ in range(3)]
    colours, textures = Image.new("RGB", (SIDE, SIDE), _rgb(tint)), Image.new("L", (SIDE, SIDE))
    on_colours, on_textures = ImageDraw.Draw(colours), ImageDraw.Draw(textures)
    for _ in range(_LEAVES):
        outline = _leaf(draw)
        on_colours.polygon(outline, _rgb([0.4 * c + 0.6 * draw.random() for c in tint]))
        on_textures.polygon(outline, round(255 * draw.random()) if draw.random() < 0.7 else 0)
    strength = np.asarray(textures, np.float64)[:, :, None] / 255
    return _image(np.asarray(colours) + 255 * 0.2 * strength * _texture(draw))


def _clouds(draw: random.Random) -> Image.Image:
    return _image(255 * (draw.uniform(0.3, 0.7) + draw.uniform(0.1, 0.25) * _texture(draw)))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _rgb(colour: list[float]) -> tuple[int, ...]:
    return tuple(round(255 * share) for share in colour)


def _leaf(draw: random.Random) -> list[tuple[float, float]]:
    """Corners of an ellipse or a rectangle somewhere, turned anyhow; large ones are rare."""
    low, high = (radius**-2 for radius in _RADII)
    radius = (low + draw.random() * (high - low)) ** -0.5
    x, y = (draw.uniform(-radius, SIDE + radius) for _ in range(2))
    turn, stretch = draw.uniform(0, math.pi), math.exp(draw.uniform(-0.7, 0.7))
    corners = draw.choice((4, 32))
    outline = []
    for k in range(corners):
        angle = 2 * math.pi * (k + 0.5) / corners
        along, across = radius * stretch * math.cos(angle), radius / stretch * math.sin(angle)
        outline.append(
            (
                x + along * math.cos(turn) - across * math.sin(turn),
                y + along * math.sin(turn) + across * math.cos(turn),
            )
        )
    return outline


def _texture(draw: random.Random) -> Float64[np.ndarray, "side side 3"]:
    """Noise of mean 0, deviation about 1 and amplitude 1 / frequency: mostly grey, a little coloured."""
    # Bits of a generator: the same in every version of numpy.
    raw = np.random.PCG64(draw.getrandbits(32)).random_raw(3 * SIDE * SIDE).astype(np.float64)
    white = raw.reshape(3, SIDE, SIDE) / 2**64 - 0.5
    across, down = np.fft.rfftfreq(SIDE)[None, :], np.fft.fftfreq(SIDE)[:, None]
    frequency = np.hypot(across, down)
    frequency[0, 0] = np.inf  # no offset
    layers = np.fft.irfft2(np.fft.rfft2(white) / frequency[None, :, :], s=(SIDE, SIDE))
    layers /= layers.std(axis=(1, 2), keepdims=True)
    grey, warm, green = layers
    return np.stack(
        [grey + 0.3 * warm + 0.1 * green, grey - 0.2 * green, grey - 0.3 * warm + 0.1 * green], -1
    )
