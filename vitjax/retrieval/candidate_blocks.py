"""Candidates transferred to the devices block by block, from memory or from a gallery on a disk."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from vitjax import sharding


class CandidateBlock(NamedTuple):
    """Candidates on the device(s).

    Attributes:
        index: (b, k), spread over the mesh: where in `rows` each candidate lies; -1 = padding.
        rows: descriptors of a gallery in memory, all of them on every device; or of a gallery on a disk, as
            stored, on each device those of its own part of `index`.
        shared: whether each device has all of `rows`.
        codec: what decodes stored tokens, on every device; None: they are numbers.
    """

    index: Any
    rows: Any
    shared: bool
    codec: Any = None


def resident_blocks(
    descriptors: Any, blocks: Int[np.ndarray, "p b k"], mesh: Mesh | None
) -> Iterator[CandidateBlock]:
    """Yields blocks of descriptors in memory, all of which are on every device once.

    On the host they are padded first, so that galleries of similar size share a compiled program.

    Args:
        descriptors: arrays with a leading axis of rows, as a pytree with a length.
        blocks: the candidates of b queries in each block, rows of the descriptors; -1 = padding.
        mesh: spreads the queries of a block; None = one device.
    """
    rows, count = descriptors, len(descriptors)
    if all(isinstance(x, np.ndarray) for x in jax.tree.leaves(rows)):
        rows = sharding.pad_rows(rows, max(64, 1 << max(count.bit_length() - 4, 0)))
    rows = jax.device_put(rows) if mesh is None else sharding.replicate(rows, mesh)
    for block in blocks:
        yield CandidateBlock(_spread(block, mesh), rows, shared=True)


def read_blocks(
    read: Callable[[Int[np.ndarray, " n"]], Callable[[], Any]],
    blocks: Int[np.ndarray, "p b k"],
    mesh: Mesh | None,
    codec: Any = None,
) -> Iterator[CandidateBlock]:
    """Reads the rows of the next block while the caller works on this one; each row of a block once.

    Args:
        read: starts to read some rows, and returns what waits for them.
        blocks: as for `resident_blocks`.
        mesh: each process reads for its own devices; None = one device.
        codec: passed on.
    """
    devices = 1 if mesh is None else mesh.size
    shares = blocks.reshape(len(blocks), devices, -1, blocks.shape[2])
    mine = [0] if mesh is None else sharding.own_devices(mesh)
    size = shares.shape[2] * shares.shape[3]

    def start(part: np.ndarray) -> tuple[np.ndarray, dict[int, Callable[[], Any]]]:
        rows = [np.unique(np.maximum(share, 0)) for share in part]
        where = [np.where(x < 0, -1, np.searchsorted(row, x)) for row, x in zip(rows, part, strict=True)]
        return np.concatenate(where).astype(np.int32), {i: read(rows[i]) for i in mine}

    codec = jax.device_put(codec) if mesh is None else sharding.replicate(codec, mesh)
    reading = start(shares[0])
    for i in range(len(blocks)):
        where, waiting = reading
        here = {place: sharding.pad_rows(wait(), size) for place, wait in waiting.items()}
        if i + 1 < len(blocks):
            reading = start(shares[i + 1])
        rows = jax.device_put(here[0]) if mesh is None else sharding.join_shares(here, mesh)
        yield CandidateBlock(_spread(where, mesh), rows, shared=False, codec=codec)


def _spread(x: np.ndarray, mesh: Mesh | None) -> jax.Array:
    return jax.device_put(x) if mesh is None else sharding.spread_rows(x, mesh)
