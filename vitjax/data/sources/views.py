"""Views of images: each image is a class of its own, so that similarity is learned without labels."""

import numpy as np
from PIL import Image

from vitjax.data.augment import Augment, composite
from vitjax.data.sources.base import ImageSource, notes_of

SHARES = 0.25, 0.75  # of an image that a composite holds, at least and at most


class Views:
    """Each image of a source several times over: itself, then augmented and in a composite by turns.

    A composite is an augmented view of which a strip lies in another image of the source.

    Args:
        source: the images; their own classes are not looked at.
        count: of each image, at least 2.
        augment: from an image to pixels of the model's size.
        seed: of every random choice; equal seeds, equal views.
    """

    def __init__(self, source: ImageSource, count: int, augment: Augment, seed: int) -> None:
        self._source, self._count, self._augment, self._seed = source, count, augment, seed
        self.class_names: list[str] = list(source.names)
        self.names: list[str] = [f"{name}, view {v}" for name in source.names for v in range(count)]
        self.labels: np.ndarray | None = np.repeat(np.arange(len(source), dtype=np.int32), count)

    def __len__(self) -> int:
        return len(self.names)

    def notes(self) -> list[str]:
        """Those of the source."""
        return notes_of(self._source)

    def read(self, i: int) -> Image.Image:
        """View i as 8-bit RGB; raises ImageError where an image that it is made of cannot be read."""
        owner, view = divmod(i, self._count)
        image = self._source.read(owner)
        if not view:
            return image
        rng = np.random.default_rng([self._seed, i])
        pixels = self._augment(image, rng)
        if view % 2 == 0 and len(self._source) > 1:
            other = (owner + int(rng.integers(1, len(self._source)))) % len(self._source)
            background = self._augment.recipe.view(self._source.read(other))
            pixels = composite(pixels, background, rng.uniform(*SHARES), rng)
        return Image.fromarray(pixels)
