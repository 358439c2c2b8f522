import numpy as np
import pytest

from vitjax.retrieval import metrics
from vitjax.retrieval.metrics import definitions, retrieval_metrics


def test_a_ranking_counted_by_hand():
    # Class sizes a: 3, b: 2, c: 1. Query 0 (a) ranks b a a b c; query 5 (c) has no other c.
    labels = np.array(list("aaabbc"))
    ranking = np.array([[3, 1, 2, 4, 5], [0, 1, 2, 3, 4]])
    found = retrieval_metrics(
        ranking, np.array(["a", "c"]), labels, ref_includes_query=True, ks=(1, 2), definition="musgrave"
    )
    assert (found["queries"], found["queries_counted"]) == (2, 1)
    assert found["precision_at_1"] == 0 and found["recall_at_1"] == 0 and found["recall_at_2"] == 1
    np.testing.assert_allclose(found["r_precision"], 1 / 2)
    np.testing.assert_allclose(found["mean_average_precision_at_r"], (1 / 2) / 2)
    np.testing.assert_allclose(found["mean_average_precision"], (1 / 2 + 2 / 3) / 2)
    np.testing.assert_allclose(found["mean_reciprocal_rank"], 1 / 2)
    diml = retrieval_metrics(
        ranking, np.array(["a", "c"]), labels, ref_includes_query=True, ks=(1,), definition="diml"
    )
    assert diml["queries_counted"] == 2
    np.testing.assert_allclose(diml["r_precision"], (2 / 3 + 0) / 2)
    np.testing.assert_allclose(diml["mean_average_precision_at_r"], ((1 / 2 + 2 / 3) / 3 + 0) / 2)


def test_perfect_ranking_is_one_and_diml_falls_short_by_the_query():
    labels = np.repeat(np.arange(3), 4)
    ranking = np.array(
        [[j for j in np.argsort(labels != labels[i], kind="stable") if j != i] for i in range(12)]
    )
    best = retrieval_metrics(ranking, labels, labels, ref_includes_query=True)
    assert {value for name, value in best.items() if not name.startswith("queries")} == {1.0}
    diml = retrieval_metrics(ranking, labels, labels, ref_includes_query=True, definition="diml")
    np.testing.assert_allclose(diml["r_precision"], 3 / 4)


def test_padding_is_a_miss():
    labels = np.array([0, 0, 1])
    found = retrieval_metrics(
        np.array([[-1, 1, -1]]), np.array([0]), labels, ref_includes_query=False, ks=(1, 2), per_query=True
    )
    assert found["recall_at_1"].tolist() == [0] and found["recall_at_2"].tolist() == [1]
    assert found["r_precision"].tolist() == [0.5]
    blank = retrieval_metrics(np.full((1, 3), -1), np.array([1]), labels, ref_includes_query=False, ks=(1,))
    assert blank["mean_reciprocal_rank"] == 0 and blank["mean_average_precision"] == 0


def test_a_ranking_too_short_for_r_is_refused_or_left_out():
    labels = np.zeros(20, int)
    ranking = np.tile(np.arange(5), (20, 1))
    with pytest.raises(ValueError, match=r"5 columns, but a class has 19 relevant.*larger k"):
        retrieval_metrics(ranking, labels, labels, ref_includes_query=True, ks=(1, 5))
    found = retrieval_metrics(ranking, labels, labels, ref_includes_query=True, ks=(1, 5), on_short="omit")
    assert "r_precision" not in found and "mean_average_precision" not in found
    assert found["recall_at_5"] == 1
    with pytest.raises(ValueError, match="recall at 10 needs as many columns"):
        retrieval_metrics(ranking, labels, labels, ref_includes_query=True, on_short="omit")


def test_only_lone_queries_give_nan_not_a_warning():
    labels = np.arange(3)
    found = retrieval_metrics(np.array([[1, 2]]), labels[:1], labels, ref_includes_query=True, ks=(1,))
    assert np.isnan(found["precision_at_1"]) and found["queries_counted"] == 0


def test_classes_weigh_alike_when_asked():
    labels = np.array([0, 0, 0, 0, 1, 1])
    queries = np.array([0, 0, 0, 1])
    ranking = np.array([[0], [1], [2], [3]])  # right, right, right, wrong
    options = {"ref_includes_query": False, "ks": (1,), "on_short": "omit"}
    assert retrieval_metrics(ranking, queries, labels, **options)["precision_at_1"] == 0.75
    assert retrieval_metrics(ranking, queries, labels, avg_of_avgs=True, **options)["precision_at_1"] == 0.5


def test_many_queries_are_judged_in_blocks_alike(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 30)
    ranking = np.stack([rng.permutation(30) for _ in range(30)])
    whole = retrieval_metrics(ranking, labels, labels, ref_includes_query=False)
    monkeypatch.setattr(definitions, "_ROWS", 7)
    assert retrieval_metrics(ranking, labels, labels, ref_includes_query=False) == whole


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"index": np.array([[3]])}, "the gallery has 3 rows"),
        ({"query_labels": np.array([1, 2])}, "for 2 queries"),
        ({"definition": "pml"}, "definition is 'pml'"),
        ({"query_labels": np.array([9]), "ref_includes_query": True}, "no gallery image has query 0's label"),
        ({"gallery_labels": np.zeros(0), "index": np.array([[-1]])}, "the gallery is empty"),
    ],
)
def test_what_cannot_be_measured_says_why(change, text):
    given = {
        "index": np.array([[0]]),
        "query_labels": np.array([1]),
        "gallery_labels": np.array([1, 1, 2]),
        "ref_includes_query": False,
        "ks": (1,),
    }
    with pytest.raises(ValueError, match=text):
        retrieval_metrics(**(given | change))


def test_places_counted_by_hand():
    ranking = np.array([[4, 1, 0, -1], [2, 3, 0, 1], [0, 1, 2, 3]])
    positives = [np.array([1, 3]), [], np.array([0, 1, 2, 3])]
    found = metrics.relevance_metrics(ranking, positives, ks=(1, 3))
    assert (found["queries"], found["queries_counted"]) == (3, 2)
    assert found["recall_at_1"] == 0.5 and found["recall_at_3"] == 1
    np.testing.assert_allclose(found["recall_at_3_over_all_queries"], 2 / 3)
    np.testing.assert_allclose(found["map_at_3"], ((1 / 2) / 2 + 1) / 2)
    assert metrics.first_hit(ranking, positives).tolist() == [1, -1, 0]
    each = metrics.relevance_metrics(ranking, positives, ks=(1,), per_query=True)
    np.testing.assert_array_equal(each["recall_at_1"], [0, np.nan, 1])


def test_no_place_known_gives_nan():
    found = metrics.relevance_metrics(np.array([[0]]), [[]], ks=(1,))
    assert np.isnan(found["recall_at_1"]) and found["recall_at_1_over_all_queries"] == 0


def test_recall_beyond_the_ranking_is_refused():
    with pytest.raises(ValueError, match="k is 10, but the ranking has 2 columns"):
        metrics.relevance_metrics(np.array([[0, 1]]), [[0]])


@pytest.mark.parametrize(
    ("ranking", "told"),
    [
        ([[0, 1, 2, 3], [1, 0, 2, 3]], "a ranking holds the whole gallery, the query included"),
        ([[1, -1, -1], [0, 2, 0]], "the ranking of query 1 holds a row of the gallery twice"),
    ],
)
def test_rankings_that_would_count_an_image_wrongly_are_refused(ranking, told):
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match=told):
        retrieval_metrics(np.array(ranking), labels[:2], labels, ref_includes_query=True, ks=(1,))


def test_recall_at_nothing_is_refused():
    with pytest.raises(ValueError, match="ks holds -1; each must be at least 1"):
        metrics.relevance_metrics(np.array([[0, 1]]), [[0]], ks=(1, -1))


def test_the_radius_itself_is_near():
    gallery = np.array([[500000.0, 4e6], [500025.0, 4e6], [500025.001, 4e6], [np.nan, 4e6]])
    assert [each.tolist() for each in metrics.positives_within(gallery[:1], gallery)] == [[0, 1]]


def test_same_label_leaves_the_query_out():
    right = metrics.same_label(np.array(["a", "b"]), np.array(["a", "b", "a"]), np.array([2, -1]))
    assert [each.tolist() for each in right] == [[0], [1]]


def test_the_query_is_left_out_of_each_ranking_that_has_it():
    labels = np.array(["a", "a", "a", "b", "b", "c"])
    ranking = np.array([[1, 3, 2, 4, 5, -1], [0, 3, 1, 2, 4, 5], [3, 5, 0, 1, 2, -1]])
    options = {"ref_includes_query": np.array([True, False, True]), "ks": (1, 2), "per_query": True}
    found = retrieval_metrics(ranking, np.array(["a", "a", "b"]), labels, **options)
    np.testing.assert_allclose(found["r_precision"], [1 / 2, 2 / 3, 1])
    np.testing.assert_allclose(found["mean_average_precision_at_r"], [1 / 2, (1 + 2 / 3) / 3, 1])
    np.testing.assert_allclose(found["mean_average_precision"], [(1 + 2 / 3) / 2, (1 + 2 / 3 + 3 / 4) / 3, 1])
    released = retrieval_metrics(ranking, np.array(["a", "a", "b"]), labels, **options, definition="diml")
    np.testing.assert_allclose(released["r_precision"], [2 / 3, 2 / 3, 1 / 2])


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        (np.array([True]), r"bool of shape \(1,\); expected one bool, or 2, one for each query"),
        (np.array([True, False]), "no gallery image has query 0's label"),
    ],
)
def test_flags_that_do_not_fit_the_queries_are_refused(inside, told):
    with pytest.raises(ValueError, match=told):
        retrieval_metrics(
            np.array([[0, -1], [1, 0]]),
            np.array([9, 1]),
            np.array([1, 2]),
            ref_includes_query=inside,
            ks=(1,),
        )


def test_a_ranking_is_whole_only_if_it_is_for_every_query():
    labels, queries = np.array([0, 0, 1, 1]), np.array([0, 1])
    ranking = np.array([[1, 2, 3], [0, 1, 2]])  # the first query lies in the gallery, the second does not
    found = retrieval_metrics(ranking, queries, labels, ref_includes_query=np.array([True, False]), ks=(1,))
    assert "mean_average_precision" not in found and "mean_reciprocal_rank" not in found
    found = retrieval_metrics(ranking, labels[[0, 2]], labels, ref_includes_query=True, ks=(1,))
    assert found["mean_reciprocal_rank"] == (1 + 1 / 3) / 2
