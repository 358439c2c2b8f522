"""The Searcher protocol: what reranking needs of a first stage."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh

from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.first_stage.exact import search


@runtime_checkable
class Searcher(Protocol):
    """Finds nearest rows of a gallery: a `Gallery` itself, `ExactSearcher`, `FaissIndex`, `QdrantIndex`."""

    def search(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (q, k), largest first, and rows (q, k); -inf and -1 where there are no more.

        Args:
            queries: descriptors, of which `pooled` counts, or an array (q, d).
            k: rows wanted for each.
        """
        ...


class ExactSearcher:
    """Descriptors in memory as a first stage, see `vitjax.retrieval.search`.

    Args:
        gallery: what is searched; `jax.device_put` it once when searching often.
        mesh: devices that share the rows; None: one.
    """

    def __init__(self, gallery: Descriptors, *, mesh: Mesh | None = None) -> None:
        self._gallery, self._mesh = gallery, mesh

    def search(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows, exactly."""
        return search(queries, self._gallery, k, mesh=self._mesh)
