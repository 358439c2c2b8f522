"""Candidates transferred to the devices block by block, from memory or from a gallery on a disk."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from vitjax import sharding
from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.gallery.gallery import Gallery
from vitjax.retrieval.gallery.quantize import Stored, decode


class CandidateBlock(NamedTuple):
    """Candidates on the device(s).

    Attributes:
        index: (b, k), spread over the mesh: where in `rows` each candidate lies; -1 = padding.
        rows: descriptors of a gallery in memory, all of them on every device; or of a gallery on a disk, as
            stored, on each device those of its own part of `index`.
    """

    index: Any
    rows: Any


def candidate_blocks(
    gallery: Descriptors | Gallery, index: Int[np.ndarray, "q k"], height: int, mesh: Mesh | None
) -> Iterator[CandidateBlock]:
    """Yields the candidates of `height` queries at a time, the last block padded to that height."""
    lines = sharding.pad_rows(index + 1, height) - 1  # pads with -1
    parts = lines.reshape(-1, height, index.shape[1])
    if isinstance(gallery, Gallery):
        yield from _read_blocks(gallery, parts, mesh)
        return
    rows = on_device(gallery, mesh)
    for part in parts:
        yield CandidateBlock(_spread(part, mesh), rows)


def gathered(block: Int[jax.Array, "b k"], rows: Descriptors | Stored) -> Descriptors:
    """Descriptors of a block's candidates; to be called under jit, on each device for its part."""
    # Padding reads row 0, and its result is dropped later.
    found = rows.take(jax.numpy.maximum(block, 0))
    return decode(found) if isinstance(found, Stored) else found


def pooled_rows(
    gallery: Descriptors | Gallery,
) -> Callable[[Int[np.ndarray, "b k"]], Float[np.ndarray, "b k d"]]:
    """Returns what gives the pooled vectors of some rows, float32 on the host; padding (-1) gives any."""
    if isinstance(gallery, Descriptors):
        pooled = sharding.fetch(gallery.pooled)
        return lambda index: pooled[index]

    def read(index: np.ndarray) -> np.ndarray:
        rows, where = np.unique(np.maximum(index, 0), return_inverse=True)
        return gallery.read_pooled(rows)()[0].astype(np.float32)[where.reshape(index.shape)]

    return read


def on_device(gallery: Descriptors, mesh: Mesh | None) -> Descriptors:
    """Puts a gallery on the device(s), padded so that galleries of similar size share a compiled program."""
    if isinstance(gallery.tokens, np.ndarray):
        step = max(64, 1 << max(len(gallery).bit_length() - 4, 0))
        gallery = sharding.pad_rows(gallery, step)
    return jax.device_put(gallery) if mesh is None else sharding.replicate(gallery, mesh)


def _read_blocks(
    gallery: Gallery, parts: Int[np.ndarray, "p h k"], mesh: Mesh | None
) -> Iterator[CandidateBlock]:
    """Reads the rows of the next block while the caller works on this one; each row of a block once."""
    devices = 1 if mesh is None else mesh.size
    shares = parts.reshape(len(parts), devices, -1, parts.shape[2])
    mine = [0] if mesh is None else sharding.own_devices(mesh)
    size = shares.shape[2] * shares.shape[3]

    def start(part: np.ndarray) -> tuple[np.ndarray, dict[int, Callable[[], Stored]]]:
        rows = [np.unique(np.maximum(share, 0)) for share in part]
        where = [np.where(x < 0, -1, np.searchsorted(row, x)) for row, x in zip(rows, part, strict=True)]
        return np.concatenate(where).astype(np.int32), {i: gallery.read(rows[i]) for i in mine}

    reading = start(shares[0])
    for i in range(len(parts)):
        where, waiting = reading
        here = {place: sharding.pad_rows(wait(), size) for place, wait in waiting.items()}
        if i + 1 < len(parts):
            reading = start(shares[i + 1])
        rows = jax.device_put(here[0]) if mesh is None else sharding.join_shares(here, mesh)
        yield CandidateBlock(_spread(where, mesh), rows)


def _spread(x: np.ndarray, mesh: Mesh | None) -> jax.Array:
    return jax.device_put(x) if mesh is None else sharding.spread_rows(x, mesh)
