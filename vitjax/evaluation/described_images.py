"""Images, or texts, with their descriptors: described in this run, or stored in a gallery before."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitjax.cli.console import bar, count_of, say, warn
from vitjax.config import EvalConfig
from vitjax.data.eval_loader import Batch, Skipped
from vitjax.data.sources.base import ImageSource
from vitjax.evaluation.index_images import index_images
from vitjax.reranker import Reranker
from vitjax.retrieval import DescriptorSet, Gallery
from vitjax.viz.plans import Patches, patches_of
from vitjax.viz.word_card import card_grid, word_card


class TextSource:
    """Text queries in place of images: image i is a card of its words, one in each cell of `grid(i)`.

    Args:
        texts: the queries, each once.
        words: of each text.
        relevant: text -> names of relevant gallery images; None = not known.
    """

    labels: np.ndarray | None = None

    def __init__(
        self,
        texts: Sequence[str],
        words: Sequence[Sequence[str]],
        relevant: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.names: list[str] = list(texts)
        self.words: list[list[str]] = [list(each) for each in words]
        self.relevant: Mapping[str, Sequence[str]] | None = relevant
        self.class_names: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        """The card of text i."""
        return Image.fromarray(word_card(self.words[i]))

    def grid(self, i: int) -> tuple[int, int]:
        """Rows and columns of the card."""
        return card_grid(len(self.words[i]))


@dataclass(frozen=True, eq=False)
class DescribedImages:
    """The queries or the gallery of a search: images, and the descriptors of those that could be read.

    Queries may be texts: their source is a `TextSource`.

    Attributes:
        source: of the images.
        descriptors: in memory, or of a gallery on a disk that is read where it is needed.
        rows: (n,), the image that row i of the descriptors describes: its position in `source`.
        skipped: images that could not be read.
        described: images that this run had to describe.
    """

    source: ImageSource
    descriptors: DescriptorSet
    rows: np.ndarray
    skipped: list[Skipped]
    described: int

    def __len__(self) -> int:
        return len(self.rows)

    def names(self) -> list[str]:
        """Name of the image of each row."""
        return [self.source.names[i] for i in self.rows]

    def classes(self) -> list[str] | None:
        """Class name of each row; None where there are no classes."""
        labels = self.source.labels
        return None if labels is None else [self.source.class_names[labels[i]] for i in self.rows]

    def pooled(self) -> np.ndarray:
        """Pooled vector of each row, (n, d)."""
        return self.descriptors.read_pooled(slice(None))()[0]

    def words(self, row: int) -> list[str]:
        """Words of the text of a row; empty of an image."""
        source = self.source
        return source.words[int(self.rows[row])] if isinstance(source, TextSource) else []

    def grid(self, row: int, reranker: Reranker) -> tuple[int, int]:
        """Rows and columns of the tokens of a row."""
        source = self.source
        return source.grid(int(self.rows[row])) if isinstance(source, TextSource) else reranker.token_grid

    def model_input(self, row: int, reranker: Reranker) -> np.ndarray:
        """The image of a row as the model sees it, uint8 (h, w, 3); the card of a text."""
        image = self.source.read(int(self.rows[row]))
        return np.asarray(image) if isinstance(self.source, TextSource) else reranker.preprocess.view(image)

    def patches(self, rows: Sequence[int], reranker: Reranker) -> list[Patches]:
        """What became of the patches of some rows; the words of a text are its patches."""
        if isinstance(self.source, TextSource):
            return [Patches.of_words(len(self.words(row)), self.grid(row, reranker)) for row in rows]
        images = self.descriptors.take(np.array(rows, np.int32)) if len(rows) else None
        grids = reranker.token_grid, reranker.patch_grid
        return [patches_of(images, i, *grids) for i in range(len(rows))]


def describe_images(
    reranker: Reranker, source: ImageSource, config: EvalConfig, name: str
) -> DescribedImages:
    """Runs the model over the images, with a progress bar of this name."""

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        images = len(source)
        return bar(batches, count, f"{name} ({count_of(images, 'image', 'images')})", total=images)

    descriptors, rows, skipped = reranker.describe(
        source, batch_size=config.batch_size, on_bad_image=config.data.on_bad_image, progress=progress
    )
    warn_skipped(skipped)
    return DescribedImages(source, descriptors, rows, skipped, len(rows))


def describe_gallery(reranker: Reranker, source: ImageSource, config: EvalConfig) -> DescribedImages:
    """The gallery's descriptors, in memory or at `config.index.path`, to which only new images are added."""
    path = config.index.path
    if not path:
        return describe_images(reranker, source, config, "gallery")
    before = len(Gallery.open(path)) if Gallery.exists(path) else 0
    images = count_of(len(source), "image", "images")

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        return bar(
            batches, count, f"gallery ({images}, {before} described before)", total=len(source) - before
        )

    gallery, rows, skipped = index_images(
        reranker, source, path, dtype=config.index.dtype, bits=config.index.bits,
        batch_size=config.batch_size, on_bad_image=config.data.on_bad_image, progress=progress,
    )  # fmt: skip
    say(f"{path} holds {len(gallery)} described images, {before} of them from before")
    warn_skipped(skipped)
    return DescribedImages(source, gallery, rows, skipped, len(gallery) - before)


def warn_skipped(skipped: Sequence[Skipped]) -> None:
    """Names the first images that were left out."""
    for item in skipped[:5]:
        warn(f"skipped {item.reason}")
    if len(skipped) > 5:
        warn(f"skipped {len(skipped) - 5} more: results.json names them")
