"""Exact nearest neighbours in more rows than fit into memory, read in chunks while the device computes.

The kernels are those of `exact`; here is only how rows come to the devices. Each device goes through its own,
contiguous share of the rows, so each process reads its share of the disk and no more, and the devices'
lists meet once, at the end.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.first_stage import exact
from vitjax.retrieval.first_stage.exact import GalleryRows, Nearest, Queries

CHUNK_BYTES = 2**25  # of pooled vectors, on each device
LIST_BYTES = 2**28  # of queries and their lists, on each device; more queries go through the rows again
_BLOCK = 16384  # rows scored at a time
_LEAST = 64  # rows of a chunk, padded where there are fewer


class RowReader(NamedTuple):
    """Rows that can be read.

    Attributes:
        read: starts to read a slice, and returns what waits for its vectors and which may be found.
        rows: how many there are.
        length: of a vector.
        dtype: of its numbers.
    """

    read: Callable[[slice], Callable[[], tuple[np.ndarray, np.ndarray]]]
    rows: int
    length: int
    dtype: np.dtype


def search_stream(
    queries: Descriptors | Float[Array | np.ndarray, "q d"],
    gallery: RowReader,
    k: int,
    *,
    exclude: Int[Array | np.ndarray, "q ..."] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The result of `exact.search`, over rows that are read as they are needed.

    Chunks, blocks of queries and lists have one of a few sizes each, so that the number of compiled programs
    does not grow with the gallery.

    Memory on each device: two chunks of 32 MiB, `256 * (16384 + k)` scores, and at most 256 MiB of queries
    and lists; on the host two chunks for each of its devices. None of it grows with the number of rows.

    Args:
        queries: as for `search`.
        gallery: what to search.
        k: neighbours wanted.
        exclude: as for `search`.
        mesh: each device takes a share of the rows; None: one device takes all.

    Raises:
        ValueError: as `search` does; more than 2^31 rows.
    """
    asked = exact.checked(queries, exclude, gallery.rows, gallery.length, k)
    if gallery.rows >= 2**31:
        raise UserError(f"search: {gallery.rows} rows are more than 32 bits count; search parts of them")
    mesh = mesh or jax.make_mesh((1,), ("data",), devices=jax.local_devices()[:1])
    wanted = min(k, max(_LEAST, exact.power_of_four(gallery.rows)))  # not the rows: the gallery may grow
    most = LIST_BYTES // (8 * wanted + 4 * gallery.length)
    most = max(most // exact.QUERY_BLOCK, 1) * exact.QUERY_BLOCK
    parts = [
        _one_pass(Queries(*(x[i : i + most] for x in asked)), gallery, wanted, mesh)
        for i in range(0, len(asked.points), most)
    ]
    scores, index = (np.concatenate(x) for x in zip(*parts, strict=True))
    return exact.padded(scores, index, k)


def _one_pass(queries: Queries, gallery: RowReader, k: int, mesh: Mesh) -> Nearest:
    """Goes through all rows once, with as many queries as the devices' memory takes."""
    q = len(queries.points)
    size = exact.query_block(q)
    blocks = [
        sharding.replicate(sharding.pad_rows(Queries(*(x[i : i + size] for x in queries)), size), mesh)
        for i in range(0, q, size)
    ]
    shape = mesh.size * size, k  # each device has lists of its own
    empty = Nearest(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32))
    lists = [sharding.spread_rows(empty, mesh)] * len(blocks)
    for chunk in _chunks(gallery, mesh):
        before = lists
        lists = [_update(block, chunk, own, mesh=mesh) for block, own in zip(blocks, lists, strict=True)]
        # The next chunk is on its way. Before it is sent, the one before this must be done with.
        jax.block_until_ready(before)
    found = [sharding.fetch(_join(own, mesh=mesh)) for own in lists]
    return Nearest(*(np.concatenate(x)[:q] for x in zip(*found, strict=True)))


def _chunks(gallery: RowReader, mesh: Mesh) -> Iterator[GalleryRows]:
    """Yields a chunk for each device; `first` has one number for each.

    While the caller works on one, the next is being read.
    """
    share = -(-gallery.rows // mesh.size)
    sizes = _sizes(share, gallery)
    mine = sharding.own_devices(mesh)

    def start(offset: int, size: int) -> dict[int, Callable[[], tuple[np.ndarray, np.ndarray]]]:
        end = min(offset + size, share)
        spans = {i: slice(i * share + offset, min(i * share + end, gallery.rows)) for i in mine}
        return {i: gallery.read(span) for i, span in spans.items() if span.start < span.stop}

    def wait(reading: dict, i: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        found, real = reading[i]() if i in reading else (np.zeros((0, gallery.length)), np.zeros(0, bool))
        if len(found) < size:
            found, real = sharding.pad_rows((found.astype(gallery.dtype), real), size)
        return found, real

    reading, offset = start(0, sizes[0]), 0
    for size, after in itertools.zip_longest(sizes, sizes[1:], fillvalue=0):
        here = {
            i: GalleryRows(*wait(reading, i, size), np.array([i * share + offset], np.int32)) for i in mine
        }
        offset += size
        reading = start(offset, after)
        yield sharding.join_shares(here, mesh)


def _sizes(share: int, gallery: RowReader) -> list[int]:
    """Rows of each chunk of a device's share: the most that memory allows, or powers of four.

    What is padded is less than what is there, or one smallest chunk.
    """
    most = max(CHUNK_BYTES // (gallery.dtype.itemsize * gallery.length), 1)
    most, sizes = 1 << most.bit_length() - 1, []
    while share > 0:
        size = max(_LEAST, exact.power_of_four(share))
        sizes.append(min(most, size if size < 2 * share or size == _LEAST else size // 4))
        share -= sizes[-1]
    return sizes


@functools.partial(jax.jit, static_argnames=("mesh",))
def _update(queries: Queries, chunk: GalleryRows, nearest: Nearest, *, mesh: Mesh) -> Nearest:
    def local(queries: Queries, chunk: GalleryRows, nearest: Nearest) -> Nearest:
        return exact.search_rows(queries, chunk._replace(first=chunk.first[0]), nearest, block=_BLOCK)

    whole, rows = PartitionSpec(), sharding.ROWS
    return jax.shard_map(local, mesh=mesh, in_specs=(whole, rows, rows), out_specs=rows, check_vma=False)(
        queries, chunk, nearest
    )


@functools.partial(jax.jit, static_argnames=("mesh",))
def _join(nearest: Nearest, *, mesh: Mesh) -> Nearest:
    rows, whole = sharding.ROWS, PartitionSpec()
    return jax.shard_map(exact.gathered_best, mesh=mesh, in_specs=(rows,), out_specs=whole, check_vma=False)(
        nearest
    )
