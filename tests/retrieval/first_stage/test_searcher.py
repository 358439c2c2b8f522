"""First stages that are exchanged for one another: exact, faiss, Qdrant."""

import os
import sys

import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery, random_descriptors
from vitjax.retrieval import ExactSearcher, FaissIndex, Gallery, GalleryError, QdrantIndex, Searcher, search
from vitjax.retrieval.first_stage import faiss_index


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="needs faiss: pip install '.[ann]'")


@pytest.fixture
def client():
    module = pytest.importorskip("qdrant_client", reason="needs qdrant_client: pip install '.[qdrant]'")
    return module.QdrantClient(":memory:")


def recall(found, want) -> float:
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, want, strict=True)])


def test_a_gallery_and_its_descriptors_find_the_same():
    gallery = filled_gallery("memory://searcher/exact", 90)
    exact = ExactSearcher(gallery.take(slice(None)))
    assert isinstance(exact, Searcher) and isinstance(gallery, Searcher)
    queries = random_descriptors(4, seed=1)
    (scores, rows), (streamed, same) = exact.search(queries, 7), gallery.search(queries, 7)
    np.testing.assert_array_equal(rows, same)
    np.testing.assert_allclose(scores, streamed, rtol=5e-7)  # sums of 16 numbers in blocks of other sizes


def test_faiss_finds_nearly_what_exact_search_finds(faiss, tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_index, "PART_BYTES", 16 * 700)  # several files
    monkeypatch.setattr(faiss_index, "_READ_BYTES", 4 * 16 * 300)
    found = random_descriptors(3000)
    found.valid[17] = False
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(found)
    index = FaissIndex.build(gallery, tmp_path / "ann", lists=20, probes=20)
    assert isinstance(index, Searcher) and sorted(os.listdir(tmp_path)) == ["ann", "g"]
    assert sorted(os.listdir(tmp_path / "ann")) == ["0.faiss", "1.faiss", "2.faiss", "3.faiss", "about.json"]
    queries = random_descriptors(25, seed=1)
    want = gallery.search(queries, 10)
    for opened in (index, FaissIndex.open(tmp_path / "ann", gallery, probes=20)):
        scores, rows = opened.search(queries, 10)
        assert recall(rows, want[1]) > 0.95 and not (rows == 17).any()
        assert (np.diff(scores, axis=1) <= 0).all()
        np.testing.assert_allclose(scores[:, 0], want[0][:, 0], atol=0.02)
    own = FaissIndex.open(tmp_path / "ann", gallery, probes=1).search(found.take(np.arange(5)), 1)[1]
    np.testing.assert_array_equal(own[:, 0], np.arange(5))


def test_a_faiss_index_may_be_moved_and_small_galleries_have_one(faiss, tmp_path):
    gallery = filled_gallery(tmp_path / "g", 5)
    FaissIndex.build(gallery, tmp_path / "ann")
    (tmp_path / "ann").rename(tmp_path / "moved")
    scores, rows = FaissIndex.open(tmp_path / "moved", gallery).search(random_descriptors(2), 7)
    assert (np.sort(rows[:, :5], axis=1) == np.arange(5)).all() and (rows[:, 5:] == -1).all()
    assert np.isneginf(scores[:, 5:]).all() and rows.dtype == np.int32


def test_a_faiss_index_that_does_not_belong_is_refused(faiss, tmp_path):
    gallery = filled_gallery(tmp_path / "g", 50, ids=False)
    FaissIndex.build(gallery, tmp_path / "ann")
    with pytest.raises(GalleryError, match="something already"):
        FaissIndex.build(gallery, tmp_path / "ann")
    gallery.add(random_descriptors(2))
    with pytest.raises(
        GalleryError, match="made of another gallery: rows is 50 there, 52 here; build it again"
    ):
        FaissIndex.open(tmp_path / "ann", gallery)
    other = Gallery.create(tmp_path / "other")  # of equal shape
    other.add(random_descriptors(50, seed=1))
    with pytest.raises(GalleryError, match="made of another gallery: its rows are others"):
        FaissIndex.open(tmp_path / "ann", other)
    (tmp_path / "ann" / "0.faiss").write_bytes(b"x")
    for name in ("ann", "nowhere"):
        with pytest.raises(GalleryError, match="missing or damaged; delete it and build it again"):
            FaissIndex.open(tmp_path / name, gallery)
    with pytest.raises(GalleryError, match="the gallery is empty"):
        FaissIndex.build(Gallery.create("memory://searcher/nothing"), tmp_path / "more")


def test_qdrant_finds_what_exact_search_finds(client, monkeypatch):
    monkeypatch.setattr("vitjax.retrieval.first_stage.qdrant_index.BATCH", 40)
    gallery = filled_gallery("memory://searcher/qdrant", 130)
    index = QdrantIndex.build(client, "shop", gallery)
    assert isinstance(index, Searcher)
    queries = random_descriptors(45, seed=1)
    want = search(queries, gallery.take(slice(None)), 6)
    for opened in (index, QdrantIndex(client, "shop", gallery)):
        scores, rows = opened.search(queries, 6)
        np.testing.assert_array_equal(rows, want[1])
        np.testing.assert_allclose(scores, want[0], rtol=0, atol=1e-6)
    assert (index.search(queries, 131)[1][:, 130] == -1).all()


def test_a_qdrant_collection_that_does_not_belong_is_refused(client):
    gallery = filled_gallery("memory://searcher/refused", 3)
    with pytest.raises(GalleryError, match=r"not there; make it with QdrantIndex\.build"):
        QdrantIndex(client, "shop", gallery)

    QdrantIndex.build(client, "shop", gallery)
    with pytest.raises(GalleryError, match="is there already"):
        QdrantIndex.build(client, "shop", gallery)
    with pytest.raises(GalleryError, match="3 rows, but the gallery has 4; delete it and build it again"):
        QdrantIndex(client, "shop", filled_gallery("memory://searcher/four", 4))
    other = Gallery.create("memory://searcher/equal")
    other.add(random_descriptors(3, seed=1), ["a", "b", "c"])
    with pytest.raises(GalleryError, match=r"made of another gallery, or of another commit than memory://"):
        QdrantIndex(client, "shop", other)


@pytest.mark.parametrize("package", ["faiss", "qdrant_client"])
def test_a_missing_package_is_named_with_the_command(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    gallery = filled_gallery(tmp_path / "g", 3)
    build = {
        "faiss": lambda: FaissIndex.build(gallery, tmp_path / "ann"),
        "qdrant_client": lambda: QdrantIndex.build(None, "shop", gallery),
    }[package]
    with pytest.raises(GalleryError, match=r"pip install (faiss-cpu|qdrant-client) \(in a checkout"):
        build()
