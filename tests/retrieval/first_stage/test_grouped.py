"""A search within groups finds what a search of each group's rows alone would find."""

import numpy as np
import pytest

from vitjax.retrieval import Descriptors, DescriptorSet, Gallery
from vitjax.retrieval.first_stage.grouped import search_descriptors

QUERY_GROUPS, GALLERY_GROUPS = np.array([1, 0, 1, 2, 3]), np.array([0, 1, 0, 1, 1, 0, 1, 2])


def described(count: int, seed: int) -> Descriptors:
    rng = np.random.default_rng(seed)
    pooled, tokens = rng.standard_normal((count, 4)), rng.standard_normal((count, 3, 4))
    return Descriptors(
        (pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)).astype(np.float32),
        (tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)).astype(np.float32),
        np.full((count, 3), 1 / 3, np.float32),
        np.ones((count, 3), bool),
    )


@pytest.mark.parametrize("stored", [False, True])
def test_each_query_finds_rows_of_its_own_group_without_itself(tmp_path, stored):
    queries, gallery = described(5, 0).pooled, described(8, 1)
    exclude = np.array([3, -1, 0, -1, -1])  # row 0 is of another group than query 2: nothing is left out
    scores = queries @ gallery.pooled.T
    scores[QUERY_GROUPS[:, None] != GALLERY_GROUPS[None, :]] = -np.inf
    scores[0, 3] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    best = np.take_along_axis(scores, order, axis=1)
    searched: DescriptorSet = gallery
    if stored:
        with Gallery.create(tmp_path / "g") as writer:
            writer.add(gallery, list(range(8)))
        searched = Gallery.open(tmp_path / "g")
    found, index = search_descriptors(
        queries, searched, 3, exclude=exclude, groups=(QUERY_GROUPS, GALLERY_GROUPS)
    )
    np.testing.assert_array_equal(index, np.where(np.isinf(best), -1, order))
    np.testing.assert_allclose(found, best, atol=1e-3 if stored else 1e-6)
    assert (index[4] == -1).all()  # nobody is of its group


def test_without_groups_every_query_finds_all_rows():
    queries, gallery = described(3, 0).pooled, described(8, 1)
    scores = queries @ gallery.pooled.T
    _, index = search_descriptors(queries, gallery, 8, exclude=np.array([2, -1, 7]))
    assert index[0, -1] == index[2, -1] == -1 and 2 not in index[0] and 7 not in index[2]
    np.testing.assert_array_equal(index[1], np.argsort(-scores[1], kind="stable"))
