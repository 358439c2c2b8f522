"""Queries of published benchmarks, with what their ground truth says of each."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from vitjax.data.sources.base import ListedSource
from vitjax.errors import UserError

Rows = list[Int[np.ndarray, " _"]]
Box = tuple[float, float, float, float]


class Setup(NamedTuple):
    """One reading of a ground truth.

    Attributes:
        positives: per query, positions of the gallery's images that are to be found; none = not counted.
        junk: per query, positions of images that count neither way.
    """

    positives: Rows
    junk: Rows


class JudgedSource(ListedSource):
    """Query images, of which a box may be what is searched for.

    Args:
        root: folder that the paths are relative to.
        files: relative POSIX paths.
        setups: readings of the ground truth, by the end of their metrics' names.
        boxes: x0, y0, x1, y1 of each query in pixels; None = whole images.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        files: Sequence[str],
        setups: Mapping[str, Setup],
        boxes: Sequence[Box] | None = None,
    ) -> None:
        super().__init__(root, files)
        self.setups: dict[str, Setup] = dict(setups)
        self.boxes: list[Box] | None = None if boxes is None else list(boxes)

    def fingerprint(self) -> str:
        """As `ListedSource` has it, of the boxes too."""
        return hashlib.sha256(f"{super().fingerprint()} {self.boxes}".encode()).hexdigest()[:32]

    def read(self, i: int) -> Image.Image:
        """Image i, or its box, rounded to whole pixels, as 8-bit RGB."""
        image = super().read(i)
        return image if self.boxes is None else image.crop(self.boxes[i])

    def relevant(self) -> Rows:
        """Per query, positions of the gallery's images that any setup has as positive."""
        each = [setup.positives for setup in self.setups.values()]
        return [np.unique(np.concatenate(rows)) for rows in zip(*each, strict=True)]


def rows_of(found: object, count: int, where: str, *, first: int = 0) -> Int[np.ndarray, " _"]:
    """Positions in a gallery, as a ground truth lists them.

    Args:
        found: the list.
        count: images of the gallery.
        where: what an error says it is.
        first: number of the first image.

    Raises:
        UserError: it holds anything but positions.
    """
    try:
        given = np.asarray(found, np.float64).ravel()
        rows = given.astype(np.int64) - first
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{where} is no list of numbers; is it the published file?") from None
    if (given != rows + first).any() or (rows < 0).any() or (rows >= count).any():
        raise UserError(f"{where} lists an image that is none of the {count}; is it the published file?")
    return rows


def box_of(found: object, where: str) -> Box:
    """x0, y0, x1, y1 of a query, as a ground truth lists them; raises UserError where they are no box."""
    try:
        box = np.asarray(found, np.float64).ravel().tolist()
    except (ValueError, TypeError):
        box = []
    if (
        len(box) != 4
        or not np.isfinite(box).all()
        or round(box[2]) <= round(box[0])
        or round(box[3]) <= round(box[1])
    ):
        raise UserError(f"{where} is no box x0, y0, x1, y1; is it the published file?")
    return box[0], box[1], box[2], box[3]
