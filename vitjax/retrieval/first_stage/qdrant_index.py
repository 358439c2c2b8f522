"""First stage on a distributed engine, for galleries beyond one machine: Qdrant. Extra `qdrant`.

Sharding, replication and storage are the server's business, set where the client and the collection are
made; here are only the rows that go in and those that are found.
"""

from typing import Any

import numpy as np

from vitjax.retrieval.first_stage import exact
from vitjax.retrieval.gallery.gallery import Gallery
from vitjax.retrieval.gallery.storage import GalleryError

BATCH = 1024  # rows or queries of one request
_CONTENT = "gallery_content"  # payload of the point of row 0: which gallery the rows are of


class QdrantIndex:
    """Rows of a gallery in a Qdrant collection whose point ids are the row numbers.

    Args:
        client: a `qdrant_client.QdrantClient`: of a server, of a folder, or of this process (":memory:").
        collection: its name.
        gallery: the gallery whose rows it holds.

    Attributes:
        recipe: what made the descriptors, see `Gallery.create`.
        content: hash of the gallery's rows, see `Gallery.content`.

    Raises:
        GalleryError: no such collection, or one of another gallery, recipe or commit.
    """

    def __init__(self, client: Any, collection: str, gallery: Gallery) -> None:
        if not client.collection_exists(collection):
            raise GalleryError(f"qdrant collection {collection!r}: not there; make it with QdrantIndex.build")
        count = client.count(collection, exact=True).count
        if count != len(gallery):
            raise GalleryError(
                f"qdrant collection {collection!r}: {count} rows, but the gallery has {len(gallery)}; "
                "delete it and build it again"
            )
        about = client.retrieve(collection, [0], with_payload=[_CONTENT]) if count else []
        if not about or (about[0].payload or {}).get(_CONTENT) != gallery.content:
            raise GalleryError(
                f"qdrant collection {collection!r}: made of another gallery, or of another commit than "
                f"{gallery.path} is at; delete it and build it again"
            )
        self._client, self._collection = client, collection
        self.recipe: dict[str, Any] = gallery.recipe
        self.content: str = gallery.content
        self._rows, self._length = len(gallery), gallery.sizes.pooled

    @classmethod
    def build(
        cls, client: Any, collection: str, gallery: Gallery, options: dict[str, Any] | None = None
    ) -> "QdrantIndex":
        """Makes a collection and sends it all rows; images without a valid token as zeros.

        Args:
            client: as above.
            collection: a new name.
            gallery: what to send.
            options: of the client's `create_collection`: `shard_number`, `replication_factor`, ...

        Raises:
            GalleryError: an empty gallery, or a collection of that name is there.
        """
        models = _qdrant().models
        if not len(gallery) or client.collection_exists(collection):
            what = "is there already; choose another name" if len(gallery) else "the gallery is empty"
            raise GalleryError(f"qdrant collection {collection!r}: {what}")
        space = models.VectorParams(size=gallery.sizes.pooled, distance=models.Distance.DOT, on_disk=True)
        client.create_collection(collection, vectors_config=space, **(options or {}))
        said = {_CONTENT: gallery.content}
        for start in range(0, len(gallery), BATCH):
            pooled, real = gallery.read_pooled(slice(start, start + BATCH))()
            vectors = np.where(real[:, None], pooled.astype(np.float32), 0).tolist()
            rows = list(range(start, start + len(vectors)))
            points = models.Batch(ids=rows, vectors=vectors, payloads=[{} if row else said for row in rows])
            client.upsert(collection, points)
        return cls(client, collection, gallery)

    def search(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows the engine finds, see `Searcher`."""
        models = _qdrant().models
        points, _ = exact.checked(queries, None, self._rows, self._length, k)
        scores = np.full((len(points), k), -np.inf, np.float32)
        index = np.full((len(points), k), -1, np.int32)
        for start in range(0, len(points), BATCH):
            asked = [
                models.QueryRequest(query=point.tolist(), limit=k) for point in points[start : start + BATCH]
            ]
            for line, answer in enumerate(self._client.query_batch_points(self._collection, asked), start):
                for rank, hit in enumerate(answer.points):
                    scores[line, rank], index[line, rank] = hit.score, hit.id
        return scores, index


def _qdrant() -> Any:
    try:
        import qdrant_client
    except ImportError as error:
        raise GalleryError(
            "QdrantIndex needs the package qdrant_client; run: pip install qdrant-client "
            "(in a checkout: pip install -e '.[qdrant]')"
        ) from error
    return qdrant_client
