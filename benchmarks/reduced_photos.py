"""Fixed lists of photos, and composites of them, for `benchmarks.reducers`.

benchmarks/lists has names relative to a folder: of Caltech-101 five photos of each of 100 classes, as `draw`
draws them with seed 0; of the grocery set four of each of the first 75 classes that have four; of the
corridor and the wall all.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from vitjax.data.augment import composite
from vitjax.data.sources.base import ImageSource, RowsSource

LISTS = pathlib.Path(__file__).parent / "lists"
SHARES = 0.25, 0.5, 0.75  # of a composite's width


class Labelled(NamedTuple):
    """Photos as the model is shown them, uint8 (n, h, w, 3), and their classes."""

    views: np.ndarray
    labels: np.ndarray


def listed(images: str) -> list[str]:
    """The names on a list, relative to its folder; empty where there is no list."""
    path = LISTS / f"{images}.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def draw(source: ImageSource, per_class: int, most: int = 0, seed: int = 0) -> list[str]:
    """Names of so many photos of each class; of at most `most` classes with that many; in their order."""
    labels, rng, chosen = np.asarray(source.labels), np.random.default_rng(seed), []
    members = {number: rng.permutation(np.flatnonzero(labels == number)) for number in np.unique(labels)}
    enough = [number for number, rows in members.items() if len(rows) >= per_class]
    for number in enough[: most or None]:
        chosen += sorted(members[number][:per_class].tolist())
    return [source.names[i] for i in chosen]


def some(source: RowsSource, classes: np.ndarray, per_class: int) -> RowsSource:
    """So many photos of each of these classes, or all there are, the same in every run."""
    labels, rng = np.asarray(source.labels), np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(labels == number))[:per_class] for number in classes]
    return RowsSource(source, np.concatenate(rows))


def composites(views: np.ndarray, labels: np.ndarray, grid: tuple[int, int]) -> Labelled:
    """Each photo's strip in another, by `composite`, and for every patch the class of what most of it shows.

    Args:
        views: photos in the order of their classes; the other one is half the list further on.
        labels: of the photos.
        grid: (h, w) of the patches.
    """
    count, (height, width) = len(views), views.shape[1:3]
    made, cells = [], []
    for i in range(count):
        other, share = (i + count // 2) % count, SHARES[i % len(SHARES)]
        made.append(composite(views[i], views[other], share, np.random.default_rng(i)))
        white, black = np.full_like(views[i], 255), np.zeros_like(views[i])
        strip = composite(white, black, share, np.random.default_rng(i))[..., 0] > 108
        h, w = grid
        shown = strip.reshape(h, height // h, w, width // w).mean(axis=(1, 3)) > 0.5
        cells.append(np.where(shown.ravel(), labels[i], labels[other]))
    return Labelled(np.stack(made), np.stack(cells))
