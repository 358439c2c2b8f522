"""What search, reranking and explanations need of descriptors, wherever they are kept."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from vitjax.retrieval.candidate_blocks import CandidateBlock
from vitjax.retrieval.descriptors import Descriptors, Sizes


@runtime_checkable
class DescriptorSet(Protocol):
    """Descriptors of images: in memory (`Descriptors`), stored (`Gallery`), or kept by a class of yours.

    Rows are counted from 0; a row is an image.
    """

    @property
    def sizes(self) -> Sizes:
        """Number of images, and the lengths that two sets must share to be compared."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether all rows are in memory: then nothing is gained by reading some of them only."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def ids(self, rows: Any = None) -> list[Any]:
        """Names of some rows, in their order; None: of all. A row of -1, as `search` pads, has None."""
        ...

    def take(self, rows: Any) -> Descriptors:
        """The descriptors at some rows, in memory: a slice, or whole numbers from 0."""
        ...

    def read_pooled(self, rows: Any) -> Callable[[], tuple[Float[np.ndarray, "n d"], Bool[np.ndarray, " n"]]]:
        """Starts to read pooled vectors, and which rows have a valid token; the result waits for them."""
        ...

    def search(
        self, queries: Any, k: int, *, exclude: Any = None, mesh: Mesh | None = None
    ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
        """The k nearest rows of each query, exactly, as `vitjax.retrieval.search` has them."""
        ...

    def on_devices(self, mesh: Mesh) -> "DescriptorSet":
        """The same set, brought to the devices once for many calls, if it is in memory."""
        ...

    def candidate_blocks(
        self, blocks: Int[np.ndarray, "p b k"], mesh: Mesh | None
    ) -> Iterator[CandidateBlock]:
        """Yields blocks of candidates on the devices, see `vitjax.retrieval.candidate_blocks`.

        Args:
            blocks: the candidates of b queries in each block, rows of the set; -1 = padding.
            mesh: spreads the queries of a block; None = one device.
        """
        ...
