import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery, random_descriptors, rankings
from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.retrieval import Gallery, GalleryError, match_pairs, rerank
from vitjax.retrieval.reranking import matching

CHEAP = RerankConfig(top_k=10, method="chamfer")
FIELDS = ("score", "structural", "pooled", "error")


def watched(gallery, monkeypatch) -> list[list[int]]:
    """Rows of every read of a gallery."""
    rows, read = [], gallery.read

    def noted(asked):
        rows.append(asked.tolist())
        return read(asked)

    monkeypatch.setattr(gallery, "read", noted)
    return rows


TRANSPORT = RerankConfig(top_k=11, mass=0.8, iterations=30, marginals="rollout")


@pytest.mark.parametrize(
    ("dtype", "devices", "config"),
    [
        ("float16", 1, CHEAP),
        ("float16", 2, CHEAP),
        ("int8", 2, CHEAP),
        pytest.param("int8", 1, TRANSPORT, marks=pytest.mark.slow),
    ],
)
def test_a_gallery_on_a_disk_is_reranked_as_its_descriptors_in_memory(
    tmp_path, monkeypatch, dtype, devices, config
):
    monkeypatch.setattr(matching, "_CPU_PAIRS", 24)  # several blocks
    queries = random_descriptors(7, tokens=6, seed=1)
    gallery = filled_gallery(tmp_path / "g", 40, dtype=dtype)
    index = rankings(7, 40, 15)
    index[2, 4:8], index[3] = -1, -1
    want = rerank(queries, gallery.take(slice(None)), index, config=config)
    mesh = sharding.make_mesh() if devices == 2 else None
    found = rerank(queries, gallery, index, config=config, mesh=mesh)
    np.testing.assert_array_equal(found.index, want.index)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=0, atol=1e-6, err_msg=name)


def test_a_row_of_several_queries_is_read_once_for_a_block(tmp_path, monkeypatch):
    gallery = filled_gallery(tmp_path / "g", 40)
    rows = watched(gallery, monkeypatch)
    index = np.tile(np.array([[5, 3, 3, 17, -1]]), (6, 1))
    found = rerank(random_descriptors(6, seed=1), gallery, index, config=CHEAP)
    assert len(rows) == 1 and set(rows[0]) <= {0, 3, 5, 17}
    assert (found.index[:, 4] == -1).all() and np.isfinite(found.score[:, :4]).all()


def test_only_the_next_block_is_read_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(matching, "_CPU_PAIRS", 10)
    gallery = filled_gallery(tmp_path / "g", 40)
    rows, under_way, most = [], 0, 0
    read = gallery.read

    def noted(asked):
        nonlocal under_way, most
        rows.append(asked)
        under_way += 1
        most = max(most, under_way)
        wait = read(asked)

        def done():
            nonlocal under_way
            under_way -= 1
            return wait()

        return done

    monkeypatch.setattr(gallery, "read", noted)
    rerank(random_descriptors(12, seed=1), gallery, rankings(12, 40, 5), config=CHEAP)
    assert len(rows) == 6 and most == 1
    assert sum(map(len, rows)) <= 60


def test_galleries_of_any_size_compile_once(monkeypatch):
    traces, original = [], matching.match_block

    def counted(*args, **kwargs):
        traces.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(matching, "match_block", counted)
    for n, q in ((40, 3), (300, 30), (1000, 1)):
        gallery = filled_gallery(f"memory://compile/{n}", n, ids=False, d=13)
        rerank(random_descriptors(q, d=13), gallery, rankings(q, n, 10), config=CHEAP)
    assert len(traces) == 1


def test_pairs_of_a_gallery_are_explained(tmp_path):
    gallery = filled_gallery(tmp_path / "g", 20)
    pairs = np.array([0, 1, 1]), np.array([19, 3, 4])
    found = match_pairs(gallery, gallery, *pairs, top=3, config=CHEAP)
    want = match_pairs(gallery.take(slice(None)), gallery.take(slice(None)), *pairs, top=3, config=CHEAP)
    np.testing.assert_allclose(found.contribution, want.contribution, rtol=0, atol=1e-6)


def test_what_does_not_fit_or_is_damaged_stops_a_rerank(tmp_path):
    gallery = filled_gallery(tmp_path / "g", 20)
    with pytest.raises(ValueError, match="describe both with the same model"):
        rerank(random_descriptors(1, d=8), gallery, np.array([[1]]))
    with pytest.raises(ValueError, match="holds rows 20 to 20, but the gallery has 20"):
        rerank(random_descriptors(1), gallery, np.array([[20]]))
    with pytest.raises(ValueError, match="the gallery is empty"):
        rerank(random_descriptors(1), Gallery.create("memory://nothing"), np.array([[0]]))
    (tmp_path / "g" / "weights" / "c" / "0" / "0").unlink()
    with pytest.raises(GalleryError, match="weights has a file missing"):
        rerank(random_descriptors(1), Gallery.open(tmp_path / "g"), np.array([[1]]))
