"""Adds images to a gallery while they are described, with commits at intervals; a build can resume."""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.gallery import arrays
from vitjax.retrieval.gallery.gallery import Gallery

_SHARE = 20  # a commit takes at most one part in so many of the time


class Described(NamedTuple):
    """Some images of a source.

    Attributes:
        descriptors: on the host.
        ids: one for each.
        reached: how many images of the source this and all before came from.
    """

    descriptors: Descriptors
    ids: Sequence[str]
    reached: int


def fill(gallery: Gallery, described: Iterable[Described]) -> None:
    """Adds images as they come, and commits when a file is full or enough time has passed.

    Memory: about 64 MiB of descriptors, and a commit joins them in a copy; whatever their number.

    Args:
        gallery: to add to.
        described: images in the order of their source.

    Raises:
        GalleryError: see `Gallery.add`; what was committed before stays.
    """
    waiting: list[Described] = []
    size, committed, cost = 0, time.monotonic(), 0.0
    for part in described:
        waiting.append(part)
        size += sum(x.nbytes for x in jax.tree.leaves(part.descriptors))
        if size >= 2 * arrays.SHARD_BYTES or time.monotonic() - committed >= _SHARE * cost:
            begin = time.monotonic()
            _commit(gallery, waiting)
            waiting, size, committed = [], 0, time.monotonic()
            cost = committed - begin
    if waiting:
        _commit(gallery, waiting)


def _commit(gallery: Gallery, parts: Sequence[Described]) -> None:
    found = jax.tree.map(lambda *x: np.concatenate(x), *(part.descriptors for part in parts))
    ids = [name for part in parts for name in part.ids]
    gallery.add(found, ids, reached=parts[-1].reached)
