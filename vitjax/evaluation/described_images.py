"""One side of a search: images and what is known of them."""

from dataclasses import dataclass

import numpy as np

from vitjax.data.eval_loader import Skipped
from vitjax.data.sources.base import ImageSource
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, Gallery


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the search: its images, and the descriptors of those that could be read.

    `rows[i]` is the image (position in file-name order) that row i of the descriptors describes. A gallery
    is on a disk, and is read where it is needed.
    """

    source: ImageSource
    descriptors: Descriptors | Gallery
    rows: np.ndarray
    skipped: list[Skipped]
    described: int  # images that this run had to describe

    def names(self) -> list[str]:
        """Name of the image of each row."""
        return [self.source.names[i] for i in self.rows]

    def classes(self) -> list[str] | None:
        """Class name of each row; None where there are no classes."""
        labels = self.source.labels
        return None if labels is None else [self.source.class_names[labels[i]] for i in self.rows]

    def seen(self, row: int, reranker: Reranker) -> np.ndarray:
        """The image of a row as the model saw it."""
        return reranker.preprocess.view(self.source.read(int(self.rows[row])))
