"""The candidates of some queries, brought to the devices block by block."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from vitjax import parallel
from vitjax.retrieval.descriptors import Descriptors


class Block(NamedTuple):
    """Candidates on the device(s).

    Attributes:
        index: (b, k), spread over the mesh: where in `rows` each candidate lies; -1 = padding.
        rows: descriptors to gather them from; every device holds all of them.
    """

    index: Any
    rows: Any


def candidate_blocks(
    gallery: Descriptors, index: Int[np.ndarray, "q k"], height: int, mesh: Mesh | None
) -> Iterator[Block]:
    """Yields the candidates of `height` queries at a time, the last block padded to that height."""
    rows = on_device(gallery, mesh)
    for start in range(0, len(index), height):
        part = index[start : start + height]
        part = np.pad(part, ((0, height - len(part)), (0, 0)), constant_values=-1)
        yield Block(jax.device_put(part) if mesh is None else parallel.spread_rows(part, mesh), rows)


def on_device(gallery: Descriptors, mesh: Mesh | None) -> Descriptors:
    """Puts a gallery on the device(s), padded so that galleries of similar size share a compiled program."""
    if isinstance(gallery.tokens, np.ndarray):
        step = max(64, 1 << max(len(gallery).bit_length() - 4, 0))
        gallery = parallel.pad_rows(gallery, step)
    return jax.device_put(gallery) if mesh is None else parallel.replicate(gallery, mesh)
