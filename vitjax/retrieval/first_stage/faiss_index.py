"""Approximate first stage for galleries beyond memory: faiss IVF-SQ8, its lists read from the disk.

One byte for each number of a pooled vector, in lists around centroids; a search reads the lists next to the
query only. Extra `ann`.

Rows are cut into files that each were built within memory, with the same centroids, and are searched one
after the other. faiss could merge them into one, but it prints to stdout while it does, which is ours.
"""

import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vitjax.retrieval.first_stage import exact
from vitjax.retrieval.gallery.gallery import Gallery
from vitjax.retrieval.gallery.manifest import differences
from vitjax.retrieval.gallery.storage import GalleryError
from vitjax.system.files import expanded, parse_json, replacing

PART_BYTES = 2**30  # of codes in one file, in memory while it is built
_READ_BYTES = 2**25
_ABOUT = "about.json"
_TRAINING = 64  # vectors per list to place the centroids by; faiss asks for 39 at least


class FaissIndex:
    """Rows of a gallery, found approximately: some true neighbours are missed, scores are of rounded vectors.

    `rerank` computes both parts of its score anew from the gallery, so there the rounding leaves no trace.

    Attributes:
        recipe: what made the descriptors, see `Gallery.create`.
        content: hash of the gallery's rows, see `Gallery.content`.
    """

    def __init__(self, parts: Sequence[Any], gallery: Gallery) -> None:
        self._parts, self._length = list(parts), gallery.sizes.pooled
        self.recipe: dict[str, Any] = gallery.recipe
        self.content: str = gallery.content

    @classmethod
    def build(
        cls,
        gallery: Gallery,
        path: str | os.PathLike[str],
        *,
        lists: int | None = None,
        probes: int = 32,
    ) -> "FaissIndex":
        """Indexes all rows of a gallery; memory does not grow with them, apart from the centroids.

        Args:
            gallery: what to index; images without a valid token are left out.
            path: a new folder on the local disk. It appears when the index is whole.
            lists: parts the vectors are sorted into; None: four times the root of their number.
            probes: as for `open`.

        Raises:
            GalleryError: an empty gallery, or something lies at `path`.
        """
        faiss = _faiss()
        target, rows, d = pathlib.Path(expanded(path)), len(gallery), gallery.sizes.pooled
        if target.exists() or not rows:
            what = "there is something already; choose another" if rows else "the gallery is empty"
            raise GalleryError(f"faiss index {os.fspath(path)}: {what}")
        lists = lists or max(1, min(round(4 * math.sqrt(rows)), rows // 39))
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            step = max(1, rows // (_TRAINING * lists))
            sample = np.concatenate([x[(-first) % step :: step] for first, x, _ in _pieces(gallery)])
            part = faiss.index_factory(d, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
            part.cp.min_points_per_centroid = 1  # no warning on stderr for small galleries
            part.train(sample)
            written = 0
            for first, x, real in _pieces(gallery):
                part.add_with_ids(x[real], first + np.flatnonzero(real))
                if part.ntotal * d >= PART_BYTES or first + len(x) == rows:
                    faiss.write_index(part, str(folder / _name(written)))
                    part.reset()
                    written += 1
            with replacing(folder / _ABOUT) as file:
                json.dump(_about(gallery) | {"content": gallery.content, "files": written}, file)
            os.chmod(folder, 0o755)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls.open(path, gallery, probes=probes)

    @classmethod
    def open(cls, path: str | os.PathLike[str], gallery: Gallery, *, probes: int = 32) -> "FaissIndex":
        """Opens an index without reading its lists.

        Args:
            path: as given to `build`.
            gallery: the one it was built of.
            probes: lists that a search looks through; more find more and take longer.

        Raises:
            GalleryError: no index there, or one of another gallery, recipe or commit.
        """
        faiss, folder, name = _faiss(), pathlib.Path(expanded(path)), os.fspath(path)
        try:
            about = parse_json((folder / _ABOUT).read_text("utf-8"))
            files, content = about.pop("files"), about.pop("content", "")
            wrong = differences(about, _about(gallery))
            if not wrong and content != gallery.content:
                wrong = ["its rows are others"]
            parts = [
                faiss.read_index(str(folder / _name(i)), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
                for i in range(files)
            ]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise GalleryError(
                f"faiss index {name}: missing or damaged; delete it and build it again ({error})"
            ) from None
        if wrong:
            raise GalleryError(
                f"faiss index {name}: made of another gallery: {'; '.join(wrong[:5])}; build it again"
            )
        for part in parts:
            part.nprobe = probes
        return cls(parts, gallery)

    def search(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearly the nearest rows, see `Searcher`; equal scores come in row order."""
        rows = sum(part.ntotal for part in self._parts)
        points, _ = exact.checked(queries, None, rows, self._length, k)
        found = [part.search(points, k) for part in self._parts]
        scores, index = (np.concatenate(x, axis=1) for x in zip(*found, strict=True))
        scores = np.where(index < 0, -np.inf, scores).astype(np.float32)
        order = np.lexsort((index, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(index, order, 1).astype(np.int32)


def _pieces(gallery: Gallery) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, float32 vectors and which are real, of some rows at a time; the next are being read."""
    size = max(1, _READ_BYTES // (4 * gallery.sizes.pooled))
    waiting = gallery.read_pooled(slice(0, size))
    for first in range(0, len(gallery), size):
        x, real = waiting()
        if first + size < len(gallery):
            waiting = gallery.read_pooled(slice(first + size, first + 2 * size))
        yield first, x.astype(np.float32), real


def _name(i: int) -> str:
    return f"{i}.faiss"


def _about(gallery: Gallery) -> dict[str, Any]:
    return {"rows": len(gallery), "length": gallery.sizes.pooled, "recipe": gallery.recipe}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise GalleryError(
            "FaissIndex needs the package faiss; run: pip install faiss-cpu "
            "(in a checkout: pip install -e '.[ann]')"
        ) from error
    return faiss
