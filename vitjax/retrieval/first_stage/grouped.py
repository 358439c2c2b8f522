"""Exact search of descriptors in memory or stored, of all of them or within groups."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.first_stage.exact import search

Groups = tuple[Int[np.ndarray, " q"], Int[np.ndarray, " n"]]


def search_descriptors(
    queries: Float[np.ndarray, "q d"],
    gallery: DescriptorSet,
    k: int,
    *,
    exclude: Int[np.ndarray, " q"] | None = None,
    groups: Groups | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k nearest gallery rows of each query, as `vitjax.retrieval.search` has them.

    Args:
        queries: pooled vectors.
        gallery: in memory or on a disk.
        k: rows wanted.
        exclude: a gallery row to leave out for each query; -1 = none.
        groups: group of each query and of each gallery row: a query finds rows of its own group alone, all
            of which are in memory at once. None = every query finds all rows.
        mesh: devices that share the rows; None = one.

    Returns:
        scores (-inf where padded), largest first, and rows (-1 where padded), on the host.
    """
    if groups is None:
        return gallery.search(queries, k, exclude=exclude, mesh=mesh)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    index = np.full(scores.shape, -1)
    for group in np.unique(groups[0]):
        asked, rows = (np.flatnonzero(each == group) for each in groups)
        if not len(rows):
            continue
        vectors, valid = gallery.read_pooled(rows)()
        left_out = None
        if exclude is not None:
            position = np.append(np.full(len(gallery), -1), -1)
            position[rows] = np.arange(len(rows))
            left_out = position[exclude[asked]]  # -1, none, is the last
        scores[asked], best = search(queries[asked], vectors, k, exclude=left_out, valid=valid, mesh=mesh)
        index[asked] = np.where(best >= 0, rows[best], -1)
    return scores, index
