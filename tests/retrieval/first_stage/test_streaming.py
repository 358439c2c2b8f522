import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors
from tests.retrieval.first_stage.test_exact import whole_numbers
from vitjax import sharding
from vitjax.retrieval import Gallery, search
from vitjax.retrieval.first_stage import exact, streaming
from vitjax.retrieval.first_stage.streaming import RowReader, search_stream


class Rows:
    """Rows in memory that note what is read of them, and how many reads are under way."""

    def __init__(self, points, valid=None):
        self.points, self.valid = points, np.ones(len(points), bool) if valid is None else valid
        self.spans, self.waiting, self.most = [], 0, 0

    def read(self, rows):
        assert 0 <= rows.start < rows.stop <= len(self.points), rows
        self.spans.append((rows.start, rows.stop))
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def wait():
            self.waiting -= 1
            return self.points[rows], self.valid[rows]

        return wait

    @property
    def reader(self):
        return RowReader(self.read, *self.points.shape, self.points.dtype)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 2**9)


def meshes():
    return {"no mesh": None, "two devices": sharding.make_mesh()}


@pytest.mark.parametrize(("n", "k"), [(1, 150), (130, 1), (400, 150)])
def test_finds_what_search_finds_ties_and_excluded_rows_included(small_chunks, n, k):
    rng = np.random.default_rng(n)
    queries, points = whole_numbers(rng, 9, 6), whole_numbers(rng, n, 6)
    valid, own = rng.random(n) < 0.9, rng.integers(-1, n, size=(9, 2))
    want = search(queries, points, k, exclude=own, valid=valid)
    for name, mesh in meshes().items():
        rows = Rows(points, valid)
        found = search_stream(queries, rows.reader, k, exclude=own, mesh=mesh)
        np.testing.assert_array_equal(found[1], want[1], err_msg=name)
        np.testing.assert_array_equal(found[0], want[0], err_msg=name)


def test_every_row_is_read_once_and_the_next_chunk_while_one_is_worked_on(small_chunks):
    rng = np.random.default_rng(0)
    for mesh in meshes().values():
        rows = Rows(rng.normal(size=(500, 4)).astype(np.float32))
        search_stream(rng.normal(size=(600, 4)), rows.reader, 3, mesh=mesh)
        seen = np.concatenate([np.arange(*span) for span in rows.spans])
        np.testing.assert_array_equal(np.sort(seen), np.arange(500))
        assert max(stop - start for start, stop in rows.spans) <= 2**9 // 16
        assert rows.most == (1 if mesh is None else 2), "one chunk under way for each device"


def test_more_queries_than_memory_takes_go_through_again(small_chunks, monkeypatch):
    rng = np.random.default_rng(1)
    points, queries = (
        rng.normal(size=(90, 4)).astype(np.float32),
        rng.normal(size=(600, 4)).astype(np.float32),
    )
    want = search(queries, points, 5)
    monkeypatch.setattr(streaming, "LIST_BYTES", 2**10)
    rows = Rows(points)
    found = search_stream(queries, rows.reader, 5)
    np.testing.assert_array_equal(found[1], want[1])
    assert len(rows.spans) == 3 * -(-90 // 32)


def test_any_number_of_chunks_and_queries_compiles_once(small_chunks, monkeypatch):
    traces, original = [], exact.search_rows

    def counted(*args, **kwargs):
        traces.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(exact, "search_rows", counted)
    rng = np.random.default_rng(2)
    for n, q in ((1000, 300), (200, 900), (333, 256)):
        rows = Rows(rng.normal(size=(n, 5)).astype(np.float32))
        search_stream(rng.normal(size=(q, 5)), rows.reader, 4)
    assert len(traces) == 1


def test_a_gallery_that_grows_and_any_number_of_queries_compile_a_few_programs(monkeypatch):
    traces, original = [], exact.search_rows

    def counted(queries, gallery, *args, **kwargs):
        traces.append((len(queries.points), len(gallery.points)))
        return original(queries, gallery, *args, **kwargs)

    monkeypatch.setattr(exact, "search_rows", counted)
    rng = np.random.default_rng(3)
    points, asked = rng.normal(size=(5000, 6)).astype(np.float32), rng.normal(size=(40, 6)).astype(np.float32)
    for n in (*range(1, 5000, 311), 5000):
        for q in (1, 2, 3, 17, 40):
            found = search_stream(asked[:q], Rows(points[:n]).reader, 7)
        np.testing.assert_array_equal(found[1], search(asked, points[:n], 7)[1])
    streamed = {x for x in traces if x[1] in (64, 256, 1024, 4096, 16384)}
    assert {q for q, _ in streamed} <= {1, 4, 16, 64} and len(streamed) <= 4 * 5
    before = len(traces)
    for n in range(70, 5000, 97):
        search_stream(asked[: n % 40 + 1], Rows(points[:n]).reader, 7)
    assert len(traces) <= before + 4, "all but the largest were compiled before"


def test_what_is_padded_is_less_than_what_is_there():
    reader = Rows(np.zeros((1, 384), np.float32)).reader
    for share in (1, 64, 65, 300, 1025, 5000, 9000, 40_000, 1_000_000):
        sizes = streaming._sizes(share, reader)
        assert sum(sizes[:-1]) < share <= sum(sizes) < max(2 * share, 65)
        assert max(sizes) * 384 * 4 <= streaming.CHUNK_BYTES and len(sizes) <= 5 + share // 16384


@pytest.mark.parametrize("pooled_dtype", ["float32", "float16"])
def test_a_gallery_is_searched_as_its_descriptors_are(tmp_path, small_chunks, pooled_dtype):
    found = random_descriptors(70)
    found.valid[5] = False
    gallery = Gallery.create(tmp_path / "g", pooled_dtype=pooled_dtype)
    gallery.add(found)
    own = np.arange(4)
    for mesh in meshes().values():
        got = gallery.search(found.take(np.arange(4)), 69, exclude=own, mesh=mesh)
        want = search(found.take(np.arange(4)), gallery.take(slice(None)), 69, exclude=own)
        np.testing.assert_array_equal(got[1], want[1])
        np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-6)
    assert not (got[1] == 5).any()


@pytest.mark.parametrize(
    ("queries", "k", "text"),
    [
        (np.zeros((2, 3)), 1, "queries have length 3, gallery rows 16"),
        (np.zeros((0, 16)), 1, "0 queries"),
        (np.zeros((2, 16)), 0, "k is 0"),
    ],
)
def test_impossible_searches_say_why(tmp_path, queries, k, text):
    gallery = Gallery.create(tmp_path / "g")
    with pytest.raises(ValueError, match="0 gallery rows"):
        gallery.search(np.zeros((2, 16)), 1)
    gallery.add(random_descriptors(3))
    with pytest.raises(ValueError, match=text):
        gallery.search(queries, k)


def test_a_damaged_chunk_stops_a_search(tmp_path):
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(30))
    file = tmp_path / "g" / "pooled" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="pooled is damaged"):
        Gallery.open(tmp_path / "g").search(np.zeros((1, 16)), 1)
