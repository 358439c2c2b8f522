"""Exact nearest neighbours by inner product, streamed over the gallery in blocks."""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from vitjax import sharding
from vitjax.errors import UserError

QUERY_BLOCK = 256  # queries scored at a time


@runtime_checkable
class Described(Protocol):
    """What a search reads of descriptors."""

    @property
    def pooled(self) -> Any:
        """(n, d), one vector per image."""
        ...

    @property
    def valid(self) -> Any:
        """(n, t), False for tokens that only pad."""
        ...


class Queries(NamedTuple):
    """Queries, and what each of them must not find.

    Attributes:
        points: (q, d) float32.
        exclude: (q, e) int32, rows to leave out; -1 for none.
    """

    points: Any
    exclude: Any


class GalleryRows(NamedTuple):
    """Consecutive rows of a gallery.

    Attributes:
        points: (n, d).
        valid: (n,), False for rows to leave out.
        first: number of the first of them.
    """

    points: Any
    valid: Any
    first: Any


class Nearest(NamedTuple):
    """The nearest rows of each query so far, best first.

    Attributes:
        scores: (q, k) float32; -inf where there is none yet.
        index: (q, k) int32, row numbers; -1 where there is none yet.
    """

    scores: Any
    index: Any


def search(
    queries: Described | Float[Array | np.ndarray, "q d"],
    gallery: Described | Float[Array | np.ndarray, "n d"],
    k: int,
    *,
    exclude: Int[Array | np.ndarray, "q ..."] | None = None,
    valid: Bool[Array | np.ndarray, " n"] | None = None,
    block: int = 16384,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k gallery rows with the largest inner product with each query, best first.

    Exact: float32 at the highest matrix precision, ordered by (-score, row), so equal scores come in row
    order as NumPy's stable argsort of the negated scores has them. A NaN score is never returned.
    On a device this takes the gallery itself plus about `256 * (block + k)` scores, whatever the number of
    queries; queries go through in blocks of 256 (fewer queries: the next power of four), each compiled once.

    Args:
        queries: rows of length d, or descriptors, whose `pooled` is used.
        gallery: rows of length d, or descriptors; all-padding rows of descriptors are never returned.
            On the host or on a device; put it there once (`jax.device_put`) when searching many times.
        k: neighbours wanted; where fewer are left the rest is padded.
        exclude: gallery rows to leave out, one or several per query (the query itself, for instance);
            -1 stands for none.
        valid: False for gallery rows to leave out for every query.
        block: gallery rows scored at a time.
        mesh: spreads the gallery's rows over its devices; None: one device.

    Returns:
        scores (-inf where padded), largest first, and rows of the gallery (-1 where padded), on the host.

    Raises:
        ValueError: an empty gallery, no queries, lengths that differ, k or block below 1.
    """
    base, keep = _rows(gallery), _valid(gallery, valid)
    n, d = base.shape
    asked = checked(queries, exclude, n, d, k)
    if block < 1:
        raise UserError(f"search: block is {block}; it must be at least 1")
    q = len(asked.points)
    wanted, size = min(k, n), query_block(q)
    if mesh is not None:
        base, keep = (_spread(x, n, mesh) for x in (base, keep))
    else:
        base, keep = jax.device_put((base, keep))  # once, not for every block of queries
    run = functools.partial(_search, k=wanted, block=block, mesh=mesh)
    found, pending = [], None
    for start in range(0, q, size):
        part = sharding.pad_rows(Queries(*(x[start : start + size] for x in asked)), size)
        if mesh is not None:
            part = sharding.replicate(part, mesh)
        # One block computes while the one before it is fetched: bounded memory, no idle device.
        pending, before = run(part, base, keep), pending
        if before is not None:
            found.append(sharding.fetch(before))
    found.append(sharding.fetch(pending))
    scores, index = (np.concatenate(parts)[:q] for parts in zip(*found, strict=True))
    return padded(scores, index, k)


def checked(
    queries: Described | Array | np.ndarray, exclude: Array | np.ndarray | None, n: int, d: int, k: int
) -> Queries:
    """The queries on the host; raises ValueError for impossible searches."""
    points = np.asarray(_rows(queries), np.float32)
    if points.ndim != 2:
        raise UserError(f"search: queries have shape {points.shape}; expected (queries, d)")
    q = len(points)
    if not q or not n:
        raise UserError(f"search: {q} queries and {n} gallery rows; there must be at least one of each")
    if points.shape[1] != d:
        raise UserError(f"search: queries have length {points.shape[1]}, gallery rows {d}")
    if not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"search: k is {k}; it must be a whole number of at least 1")
    out = np.full((q, 1), -1) if exclude is None else np.asarray(exclude)
    if len(out) != q or not np.issubdtype(out.dtype, np.integer) or out.min(initial=0) < -1:
        raise UserError(
            f"search: exclude is {out.dtype} {out.shape} for {q} queries; give rows of the gallery, one or "
            "several for each, -1 = none"
        )
    return Queries(points, np.where(out < n, out, -1).reshape(q, -1).astype(np.int32))


def query_block(q: int) -> int:
    """Queries that go through a compiled program at a time, of q: powers of four, to have few programs."""
    return min(QUERY_BLOCK, power_of_four(q))


def power_of_four(n: int) -> int:
    """The smallest power of four that is not below n."""
    return 1 << 2 * -(-(n - 1).bit_length() // 2)


def padded(scores: np.ndarray, index: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists of length k, where fewer rows are left than were asked for."""
    pad = ((0, 0), (0, k - scores.shape[1]))
    return np.pad(scores, pad, constant_values=-np.inf), np.pad(index, pad, constant_values=-1)


def _rows(x: Described | Array | np.ndarray) -> Array | np.ndarray:
    return x.pooled if isinstance(x, Described) else x


def _valid(gallery: Described | Array | np.ndarray, valid: Array | np.ndarray | None) -> Array | np.ndarray:
    n = len(_rows(gallery))
    if valid is not None and np.shape(valid) != (n,):
        raise UserError(f"search: valid has shape {np.shape(valid)}; expected ({n},)")
    if not isinstance(gallery, Described):
        return np.ones(n, bool) if valid is None else valid
    real = gallery.valid.any(axis=1)
    return real if valid is None else real & valid


def _spread(x: Array | np.ndarray, n: int, mesh: Mesh) -> Array:
    """Cuts rows over the mesh; padding is False, so it is never found."""
    if n % mesh.size or not isinstance(x, jax.Array):
        x = sharding.pad_rows(sharding.fetch(x), mesh.size)
    return sharding.spread_rows(x, mesh)


@functools.partial(jax.jit, static_argnames=("k", "block", "mesh"))
def _search(
    queries: Queries,
    gallery: Float[Array, "n d"],
    valid: Bool[Array, " n"],
    *,
    k: int,
    block: int,
    mesh: Mesh | None,
) -> Nearest:
    shape = len(queries.points), k
    empty = Nearest(jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32))
    if mesh is None:
        return search_rows(queries, GalleryRows(gallery, valid, 0), empty, block=block)

    def local(queries: Queries, gallery: Array, valid: Array) -> Nearest:
        first = jax.lax.axis_index("data") * gallery.shape[0]
        return gathered_best(search_rows(queries, GalleryRows(gallery, valid, first), empty, block=block))

    replicated, rows = PartitionSpec(), sharding.ROWS
    specs = (replicated, rows, rows)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=replicated, check_vma=False)(
        queries, gallery, valid
    )


def search_rows(queries: Queries, gallery: GalleryRows, nearest: Nearest, *, block: int) -> Nearest:
    """Updates the nearest rows so far with rows that come behind all of those.

    Args:
        queries: b of them.
        gallery: the rows that are searched.
        nearest: of the rows before.
        block: rows scored at a time.
    """
    n, k = gallery.points.shape[0], nearest.index.shape[1]
    block = min(block, n)

    def step(i: Array, nearest: Nearest) -> Nearest:
        # The last block is moved back to end with the gallery; rows seen before are masked out.
        start = jnp.minimum(i * block, n - block)
        here = start + jnp.arange(block, dtype=jnp.int32)
        part = jax.lax.dynamic_slice_in_dim(gallery.points, start, block).astype(jnp.float32)
        scores = jnp.einsum(
            "bd,nd->bn", queries.points, part, precision="highest", preferred_element_type=jnp.float32
        )
        keep = jax.lax.dynamic_slice_in_dim(gallery.valid, start, block) & (here >= i * block)
        keep = keep[None, :] & ~jnp.isnan(scores)
        scores = jnp.where(keep, jnp.where(scores == 0, 0.0, scores), -jnp.inf)  # -0.0 would lose to 0.0
        rows = gallery.first + here
        for column in range(queries.exclude.shape[1]):
            scores = jnp.where(rows[None, :] == queries.exclude[:, column, None], -jnp.inf, scores)
        top, where = jax.lax.top_k(scores, min(k, block))
        new = jnp.where(jnp.isneginf(top), -1, rows[where])
        # Equal scores keep their order: rows found before come before those of this block.
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), nearest, Nearest(top, new))
        return _best(both, k)

    return jax.lax.fori_loop(0, -(-n // block), step, nearest)


def gathered_best(nearest: Nearest) -> Nearest:
    """The best k of the lists of all devices, on each of them; to be called inside of `shard_map`.

    Devices must hold rising rows: their lists are joined in order, so equal scores stay in row order.
    """
    everywhere = jax.tree.map(lambda x: jax.lax.all_gather(x, "data", axis=1, tiled=True), nearest)
    return _best(everywhere, nearest.index.shape[1])


def _best(found: Nearest, k: int) -> Nearest:
    top, where = jax.lax.top_k(found.scores, k)
    return Nearest(top, jnp.take_along_axis(found.index, where, axis=1))
