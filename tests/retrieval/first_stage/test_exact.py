import jax
import numpy as np
import pytest

from tests.conftest import GOLDEN
from tests.retrieval.cases import random_descriptors
from vitjax import sharding
from vitjax.retrieval import search
from vitjax.retrieval.first_stage import exact


def sorted_whole(queries, gallery, k):
    scores = (queries.astype(np.float64) @ gallery.T.astype(np.float64)).astype(np.float32)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, index, axis=1), index


def whole_numbers(rng, *shape):
    """Small whole numbers: every inner product is exact, and many are equal."""
    return rng.integers(-2, 3, size=shape).astype(np.float32)


@pytest.mark.parametrize("block", [7, 16, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_equals_a_stable_sort_of_all_scores_ties_and_duplicates_included(block, k):
    rng = np.random.default_rng(k)
    queries, gallery = whole_numbers(rng, 11, 6), whole_numbers(rng, 50, 6)
    gallery[30:40] = gallery[3]
    scores, index = search(queries, gallery, k, block=block)
    want_scores, want = sorted_whole(queries, gallery, k)
    np.testing.assert_array_equal(index, want)
    np.testing.assert_array_equal(scores, want_scores)


def test_finds_the_ranking_of_the_metric_learning_fixture():
    with np.load(GOLDEN / "e1_metric_learning.npz") as file:
        given = {key.removeprefix("inputs/"): file[key] for key in file.files if key.startswith("inputs/")}
    x, queries = (given[name] for name in ("embeddings", "queries"))
    own = np.arange(len(x))
    np.testing.assert_array_equal(search(x, x, len(x) - 1, exclude=own)[1], given["ranking"])
    np.testing.assert_array_equal(search(queries, x, len(x))[1], given["query_ranking"])


def test_two_devices_find_what_one_finds():
    rng = np.random.default_rng(1)
    queries, gallery = whole_numbers(rng, 5, 6), whole_numbers(rng, 37, 6)
    own = np.arange(5)
    one = search(queries, gallery, 12, exclude=own, block=8)
    for given in (gallery, jax.numpy.asarray(gallery)):
        two = search(queries, given, 12, exclude=own, block=8, mesh=sharding.make_mesh())
        np.testing.assert_array_equal(two[1], one[1])
        np.testing.assert_array_equal(two[0], one[0])


def test_excluded_rows_are_left_out_and_the_rest_moves_up():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(9, 4)).astype(np.float32)
    whole = search(x, x, 9)[1]
    alone = search(x, x, 8, exclude=np.arange(9))[1]
    np.testing.assert_array_equal(alone, [[i for i in row if i != own] for own, row in enumerate(whole)])
    several = search(x, x, 9, exclude=np.stack([np.arange(9), np.full(9, -1), np.full(9, 4)], axis=1))[1]
    assert not (several == 4).any() and not (several == np.arange(9)[:, None]).any()
    assert (several[:4, 7:] == -1).all() and (several[4, 8:] == -1).all()


def test_more_neighbours_than_rows_are_padded():
    x = np.eye(3, dtype=np.float32)
    scores, index = search(x, x, 5)
    assert (index[:, 3:] == -1).all() and np.isneginf(scores[:, 3:]).all()
    assert sorted(index[0, :3]) == [0, 1, 2] and index[0, 0] == 0


def test_a_row_that_is_not_a_number_is_never_found():
    x = np.eye(4, dtype=np.float32)
    x[2] = np.nan
    scores, index = search(x, x, 4)
    assert not (index == 2).any() and not np.isnan(scores).any()
    assert (index[2] == -1).all()


def test_minus_zero_ties_with_zero():
    gallery = np.array([[0.0], [1.0], [-0.0]], np.float32) * np.float32(-1)
    assert search(np.zeros((1, 1), np.float32), gallery, 3)[1].tolist() == [[0, 1, 2]]


def test_padding_of_descriptors_is_never_found():
    gallery = random_descriptors(6)
    gallery.valid[4] = False
    assert search(gallery, gallery, 6)[1].max() == 5
    assert not (search(gallery, gallery, 6)[1] == 4).any()
    assert not np.isin(search(gallery, gallery, 6, valid=np.arange(6) != 1)[1], [1, 4]).any()


def test_queries_in_many_blocks_compile_once(monkeypatch):
    traces, original = [], exact.search_rows

    def counted(*args, **kwargs):
        traces.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(exact, "search_rows", counted)
    rng = np.random.default_rng(3)
    gallery = rng.normal(size=(53, 7)).astype(np.float32)
    queries = rng.normal(size=(600, 7)).astype(np.float32)
    found = search(queries, gallery, 3)[1]
    assert len(traces) == 1
    np.testing.assert_array_equal(search(queries[:300], gallery, 3)[1], found[:300])
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "text"),
    [
        (np.zeros((2, 3)), np.zeros((0, 3)), 1, "0 gallery rows"),
        (np.zeros((0, 3)), np.zeros((4, 3)), 1, "0 queries"),
        (random_descriptors(2, d=3), random_descriptors(4, d=5), 1, "queries have length 3, gallery rows 5"),
        (np.zeros((2, 3)), np.zeros((4, 3)), 0, "k is 0"),
    ],
)
def test_impossible_searches_say_why(queries, gallery, k, text):
    with pytest.raises(ValueError, match=text):
        search(queries, gallery, k)


@pytest.mark.parametrize(
    ("queries", "exclude", "told"),
    [
        (np.zeros((2, 3)), np.array([0.0, np.nan]), "exclude is float64"),
        (np.zeros((2, 3)), np.array([0]), r"exclude is int64 \(1,\) for 2 queries"),
        (np.zeros((2, 3)), np.array([-2, 0]), "rows of the gallery"),
        (np.zeros(3), None, r"queries have shape \(3,\); expected \(queries, d\)"),
    ],
)
def test_arrays_that_say_nothing_sensible_are_refused(queries, exclude, told):
    with pytest.raises(ValueError, match=told):
        exact.checked(queries, exclude, 4, 3, 1)


def test_a_row_that_no_gallery_has_is_no_other_row():
    found = search(np.ones((1, 3)), np.ones((2, 3)), 2, exclude=np.array([2**32]))[1]
    assert found.tolist() == [[0, 1]]


def test_images_with_some_padded_tokens_are_found():
    gallery = random_descriptors(6)
    gallery.valid[2, 4:] = False
    assert np.sort(search(gallery, gallery, 6)[1], axis=1).tolist() == [list(range(6))] * 6
