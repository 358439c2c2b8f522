"""Exact nearest neighbours by inner product, streamed over the gallery in blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from vitjax import parallel
from vitjax.retrieval.descriptors import Descriptors

QUERY_BLOCK = 256  # queries scored at a time


def search(
    queries: Descriptors | Float[Array | np.ndarray, "q d"],
    gallery: Descriptors | Float[Array | np.ndarray, "n d"],
    k: int,
    *,
    exclude: Int[Array | np.ndarray, "q ..."] | None = None,
    valid: Bool[Array | np.ndarray, " n"] | None = None,
    block: int = 16384,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k gallery rows with the largest inner product with each query, best first.

    Exact: float32 at the highest matrix precision, ordered by (-score, row), so equal scores come in row
    order as NumPy's stable argsort of the negated scores has them. A score that is not a number never wins.
    On a device this takes the gallery itself plus about `256 * (block + k)` scores, whatever the number of
    queries; queries go through in blocks of 256 (fewer queries: the next power of two), each compiled once.

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
    points, base, keep = _rows(queries), _rows(gallery), _valid(gallery, valid)
    q, n = points.shape[0], base.shape[0]
    if not q or not n:
        raise ValueError(f"search: {q} queries and {n} gallery rows; there must be at least one of each")
    if points.shape[1] != base.shape[1]:
        raise ValueError(f"search: queries have length {points.shape[1]}, gallery rows {base.shape[1]}")
    if k < 1 or block < 1:
        raise ValueError(f"search: k is {k}, block is {block}; both must be at least 1")
    out = np.full((q, 1), -1) if exclude is None else np.asarray(exclude).reshape(q, -1)
    wanted, size = min(k, n), min(QUERY_BLOCK, 1 << (q - 1).bit_length())
    if mesh is not None:
        base, keep = (_spread(x, n, mesh) for x in (base, keep))
    points, out = np.asarray(points, np.float32), out.astype(np.int32)
    run = functools.partial(_search, k=wanted, block=block, mesh=mesh)
    found, pending = [], None
    for start in range(0, q, size):
        part = parallel.pad_rows((points[start : start + size], out[start : start + size]), size)
        if mesh is not None:
            part = parallel.replicate(part, mesh)
        # One block computes while the one before it is fetched: bounded memory, no idle device.
        pending, before = run(*part, base, keep), pending
        if before is not None:
            found.append(parallel.fetch(before))
    found.append(parallel.fetch(pending))
    scores, index = (np.concatenate(parts)[:q] for parts in zip(*found, strict=True))
    if k > wanted:
        pad = ((0, 0), (0, k - wanted))
        scores, index = np.pad(scores, pad, constant_values=-np.inf), np.pad(index, pad, constant_values=-1)
    return scores, index


def _rows(x: Descriptors | Array | np.ndarray) -> Array | np.ndarray:
    return x.pooled if isinstance(x, Descriptors) else x


def _valid(gallery: Descriptors | Array | np.ndarray, valid: Array | np.ndarray | None) -> Array | np.ndarray:
    if not isinstance(gallery, Descriptors):
        return np.ones(gallery.shape[0], bool) if valid is None else valid
    real = gallery.valid.any(axis=1)
    return real if valid is None else real & valid


def _spread(x: Array | np.ndarray, n: int, mesh: Mesh) -> Array:
    """Cuts rows over the mesh; padding is False, so it is never found."""
    if n % mesh.size or not isinstance(x, jax.Array):
        x = parallel.pad_rows(parallel.fetch(x), mesh.size)
    return parallel.spread_rows(x, mesh)


@functools.partial(jax.jit, static_argnames=("k", "block", "mesh"))
def _search(
    queries: Float[Array, "b d"],
    exclude: Int[Array, "b e"],
    gallery: Float[Array, "n d"],
    valid: Bool[Array, " n"],
    *,
    k: int,
    block: int,
    mesh: Mesh | None,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    if mesh is None:
        return _search_rows(queries, exclude, gallery, valid, k=k, block=block)

    def local(queries: Array, exclude: Array, gallery: Array, valid: Array) -> tuple[Array, Array]:
        first = jax.lax.axis_index("data") * gallery.shape[0]
        scores, index = _search_rows(queries, exclude - first, gallery, valid, k=k, block=block)
        index = jnp.where(index < 0, -1, index + first)
        # Devices hold rising rows, so a stable top-k over their lists in order keeps ties in row order.
        scores, index = (jax.lax.all_gather(x, "data", axis=1, tiled=True) for x in (scores, index))
        return _best(scores, index, k)

    replicated, rows = PartitionSpec(), parallel.ROWS
    specs = (replicated, replicated, rows, rows)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=replicated, check_vma=False)(
        queries, exclude, gallery, valid
    )


def _search_rows(
    queries: Float[Array, "b d"],
    exclude: Int[Array, "b e"],
    gallery: Float[Array, "n d"],
    valid: Bool[Array, " n"],
    *,
    k: int,
    block: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    b, n = queries.shape[0], gallery.shape[0]
    block = min(block, n)

    def step(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last block is moved back to end with the gallery; rows seen before are masked out.
        start = jnp.minimum(i * block, n - block)
        rows = start + jnp.arange(block, dtype=jnp.int32)
        part = jax.lax.dynamic_slice_in_dim(gallery, start, block).astype(jnp.float32)
        scores = jnp.einsum(
            "bd,nd->bn", queries, part, precision="highest", preferred_element_type=jnp.float32
        )
        keep = jax.lax.dynamic_slice_in_dim(valid, start, block) & (rows >= i * block)
        keep = keep[None, :] & ~jnp.isnan(scores)
        scores = jnp.where(keep, jnp.where(scores == 0, 0.0, scores), -jnp.inf)  # -0.0 would lose to 0.0
        for column in range(exclude.shape[1]):
            scores = jnp.where(rows[None, :] == exclude[:, column, None], -jnp.inf, scores)
        top, where = jax.lax.top_k(scores, min(k, block))
        new = jnp.where(jnp.isneginf(top), -1, rows[where])
        return _best(jnp.concatenate([best[0], top], axis=1), jnp.concatenate([best[1], new], axis=1), k)

    empty = jnp.full((b, k), -jnp.inf, jnp.float32), jnp.full((b, k), -1, jnp.int32)
    return jax.lax.fori_loop(0, -(-n // block), step, empty)


def _best(scores: Float[Array, "b c"], index: Int[Array, "b c"], k: int) -> tuple[Array, Array]:
    top, where = jax.lax.top_k(scores, k)
    return top, jnp.take_along_axis(index, where, axis=1)
