"""Whatever keeps descriptors, search and reranking only use its protocol."""

import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery, random_descriptors, rankings
from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.retrieval import Descriptors, DescriptorSet, Gallery, match_pairs, rerank
from vitjax.retrieval.candidate_blocks import read_blocks
from vitjax.retrieval.first_stage.grouped import search_descriptors
from vitjax.retrieval.reranking import matching

CHEAP = RerankConfig(top_k=10, method="chamfer")


class Halves:
    """A set of somebody else's: two parts, read where they are needed."""

    def __init__(self, *parts):
        self.parts, self.in_memory = parts, False

    def __len__(self):
        return sum(map(len, self.parts))

    @property
    def sizes(self):
        return self.parts[0].sizes._replace(rows=len(self))

    def ids(self, rows=None):
        return [f"row {i}" if i >= 0 else None for i in (range(len(self)) if rows is None else rows)]

    def take(self, rows):
        first = len(self.parts[0])
        rows = np.arange(len(self))[rows]
        one, two = (
            part.take(np.clip(rows - i * first, 0, len(part) - 1)) for i, part in enumerate(self.parts)
        )

        def mixed(x, y):
            return np.where((rows < first).reshape(-1, *[1] * (x.ndim - 1)), x, y)

        return Descriptors(*map(mixed, *((x.pooled, x.tokens, x.weights, x.valid) for x in (one, two))))

    def read_pooled(self, rows):
        return lambda: (self.take(rows).pooled, self.take(rows).valid.any(axis=1))

    def search(self, queries, k, *, exclude=None, mesh=None):
        return self.take(slice(None)).search(queries, k, exclude=exclude, mesh=mesh)

    def on_devices(self, mesh):
        return self

    def candidate_blocks(self, blocks, mesh):
        return read_blocks(lambda rows: lambda: self.take(rows), blocks, mesh)


def test_descriptors_in_memory_stored_and_of_others_are_sets(tmp_path):
    described = random_descriptors(5)
    for kept in (described, filled_gallery(tmp_path / "g", 5), Halves(described, described)):
        assert isinstance(kept, DescriptorSet)
    assert not isinstance(described.pooled, DescriptorSet)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_set_of_somebody_else_is_searched_reranked_and_explained(monkeypatch, devices):
    monkeypatch.setattr(matching, "_CPU_PAIRS", 24)  # several blocks
    queries, whole = random_descriptors(7, seed=1), random_descriptors(40)
    kept = Halves(whole.take(slice(0, 11)), whole.take(slice(11, 40)))
    index, mesh = rankings(7, 40, 15), sharding.make_mesh() if devices == 2 else None
    index[2, 4:8], index[3] = -1, -1
    found, want = (rerank(queries, x, index, config=CHEAP, mesh=mesh) for x in (kept, whole))
    np.testing.assert_array_equal(found.index, want.index)
    np.testing.assert_allclose(found.score, want.score, rtol=0, atol=1e-6)

    groups = np.arange(7) % 2, np.arange(40) % 2
    ours, theirs = (search_descriptors(queries.pooled, x, 4, groups=groups) for x in (kept, whole))
    np.testing.assert_array_equal(ours[1], theirs[1])
    pairs = np.array([0, 6]), np.array([39, 3])
    matches = [match_pairs(queries, x, *pairs, config=CHEAP, top=3).contribution for x in (kept, whole)]
    np.testing.assert_array_equal(*matches)


def test_rows_in_memory_have_their_numbers_as_ids():
    described = random_descriptors(4)
    assert described.ids() == [0, 1, 2, 3] and described.ids(slice(3, 0, -2)) == [3, 1]
    assert described.ids(np.array([2, -1])) == [2, None]
    assert described.ids(np.array([[2, -1], [0, 3]])) == [[2, None], [0, 3]]


def test_positions_answer_to_their_old_name(tmp_path):
    plain = random_descriptors(3)
    positions = np.arange(plain.valid.size, dtype=np.int32).reshape(plain.valid.shape)
    arrays = plain.pooled, plain.tokens, plain.weights, plain.valid
    with pytest.warns(DeprecationWarning, match="places is positions now"):
        by_name = Descriptors(*arrays, places=positions)
    with pytest.warns(DeprecationWarning, match="places is positions now"):
        checked = Descriptors.from_arrays(*arrays, places=positions)
    with pytest.warns(DeprecationWarning, match="places is positions now"):
        assert by_name.places is positions
    for described in (by_name, checked, Descriptors(*arrays, positions)):
        np.testing.assert_array_equal(described.positions, positions)
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(by_name)
    assert (tmp_path / "g" / "places").is_dir()  # as galleries that were written before have it
    np.testing.assert_array_equal(Gallery.open(tmp_path / "g").take([2, 0]).positions, positions[[2, 0]])
