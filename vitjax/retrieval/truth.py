"""What is known about right answers: from classes, from a file, or nothing."""

import json
import os
import pathlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from vitjax.retrieval.metrics import relevance_metrics, retrieval_metrics, same_label

KS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Truth:
    """Right answers of a search; rows are those of the descriptors.

    Attributes:
        positives: per query, the gallery rows that are right; None = nothing is known.
        labels: classes of queries and gallery, where the truth comes from classes.
        own: per query, the gallery row that is the query itself and must not be found; -1 = none.
    """

    positives: list[Int[np.ndarray, " _"]] | None
    labels: tuple[np.ndarray, np.ndarray] | None
    own: Int[np.ndarray, " q"]

    @classmethod
    def from_labels(cls, queries: np.ndarray, gallery: np.ndarray, own: Int[np.ndarray, " q"]) -> "Truth":
        """Images of the query's class are right, the query itself left out."""
        return cls(same_label(queries, gallery, own), (queries, gallery), own)

    def right(self, query: int, row: int) -> bool | None:
        """Whether a gallery row answers a query; None where nothing is known."""
        return None if self.positives is None else bool(np.isin(row, self.positives[query]))

    def hits(self, index: Int[np.ndarray, "q k"]) -> Bool[np.ndarray, "q k"]:
        """Which places of a ranking hold a right image; nowhere, where nothing is known."""
        if self.positives is None:
            return np.zeros(index.shape, bool)
        pairs = zip(index, self.positives, strict=True)
        return np.array([np.isin(row, right) for row, right in pairs], bool).reshape(index.shape) & (
            index >= 0
        )

    def take(self, queries: Int[np.ndarray, " m"]) -> "Truth":
        """The truth about some of the queries."""
        positives = None if self.positives is None else [self.positives[i] for i in queries]
        labels = None if self.labels is None else (self.labels[0][queries], self.labels[1])
        return Truth(positives, labels, self.own[queries])

    def metrics(self, index: Int[np.ndarray, "q k"]) -> dict[str, float]:
        """Metrics of a ranking: with classes those of metric learning, else those of place recognition.

        Returns:
            What `retrieval_metrics` or `relevance_metrics` return; empty where nothing is known.
        """
        if self.labels is not None:
            in_itself = bool((self.own >= 0).all())
            return retrieval_metrics(
                index, *self.labels, ref_includes_query=in_itself, ks=KS, on_short="omit"
            )
        return {} if self.positives is None else relevance_metrics(index, self.positives, ks=KS)


def read_ground_truth(path: str | os.PathLike[str], queries: int, gallery: int) -> dict[int, list[int]]:
    """Reads which gallery images are right for each query.

    Args:
        path: JSON, `{"0": [3, 4], "1": [5]}` or `[[3, 4], [5]]`; numbers are positions in file-name order.
        queries: how many there are.
        gallery: how many images there are.

    Raises:
        ValueError: not such a file, or it names images that do not exist; one line says what to do.
    """
    try:
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        truth = {int(query): [int(i) for i in right] for query, right in pairs}
    except OSError as error:
        raise ValueError(f"ground truth {path}: {error.strerror}; give a JSON file") from None
    except (ValueError, TypeError, RecursionError):
        raise ValueError(
            f'ground truth {path}: expected JSON like {{"0": [3, 4], "1": [5]}}: query -> right images'
        ) from None
    images = [i for right in truth.values() for i in right]
    if not all(0 <= q < queries for q in truth) or not all(0 <= i < gallery for i in images):
        raise ValueError(
            f"ground truth {path}: queries up to {max(truth)} and images up to {max(images, default=0)}; "
            f"there are {queries} and {gallery}, counted from 0 in file-name order"
        )
    return truth
