import json

import numpy as np
import pytest

from vitjax.retrieval.metrics.relevance import Truth, judge, not_counted, nothing_relevant, read_ground_truth
from vitjax.retrieval.metrics.runs import write_qrels, write_run

LABELS = np.array([0, 0, 0, 1, 1, 1, 2])


def orders() -> tuple[np.ndarray, np.ndarray]:
    """Two rankings of seven images, each searched for among the others."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2):
        found.append(np.array([[*draw.permutation([j for j in range(7) if j != i])] for i in range(7)]))
    return found[0], found[1]


def by_class(**options) -> Truth:
    truth = Truth.from_labels(LABELS, LABELS, np.arange(7))
    return Truth(truth.positives, truth.labels, truth.own, **options)


def by_place(**options) -> Truth:
    positives = [np.array([1]), np.array([0, 2]), np.array([], int), *[np.array([4])] * 4]
    return Truth(positives, None, np.full(7, -1), ks=(1, 2), **options)


@pytest.mark.parametrize("truth", [by_class(released=True), by_class(ks=(1, 2)), by_place()])
def test_metrics_are_the_means_of_what_each_query_got(truth):
    index = orders()[0]
    means, each = truth.metrics(index), truth.per_query(index)
    assert {name for name in means if "over_all" not in name and "queries" not in name} == each.keys()
    for name, values in each.items():
        assert means[name] == pytest.approx(np.nanmean(values))


def test_released_metrics_count_the_query_among_the_right_answers():
    own_class_first = np.array([[1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6], [0, 1, 3, 4, 5, 6]])
    truth = by_class(released=True).take(np.arange(3))
    found = truth.metrics(own_class_first)
    assert found["r_precision"] == found["mean_average_precision_at_r"] == 1
    assert found["r_precision_released"] == pytest.approx(2 / 3)


def test_intervals_hold_the_metrics_and_pair_the_difference():
    before, after = orders()
    found = judge(by_class(ks=(1, 2)), before, after, seed=4)
    for order in ("pooled", "reranked"):
        assert found["metrics"][order]["queries_counted"] == 6
        for name, (low, high) in found["intervals"][order].items():
            assert low <= found["metrics"][order][name] <= high
    best = np.array([np.argsort(LABELS[row] != LABELS[i], kind="stable") for i, row in enumerate(before)])
    gain = judge(by_class(), before, np.take_along_axis(before, best, axis=1))["intervals"]["difference"]
    assert all(low > 0 for low, _ in (gain["r_precision"], gain["mean_average_precision"]))
    same = judge(by_class(), before, before)["intervals"]["difference"]
    assert all(ends == [0.0, 0.0] for ends in same.values())
    assert (found["intervals"]["level"], found["intervals"]["seed"]) == (0.95, 4)


def test_nothing_known_gives_nothing():
    found = judge(Truth(None, None, np.full(7, -1)), *orders())
    assert found["metrics"] == {"pooled": {}, "reranked": {}}
    assert found["intervals"]["difference"] == {}


def test_groups_part_the_queries_and_survive_taking_some():
    groups = np.array([0, 0, 2, 2, 2, 0, 2]), np.zeros(7, int)
    truth = by_place(groups=groups, group_names=("oslo", "rome", "bern"))
    parts = truth.by_group()
    assert {name: rows.tolist() for name, rows in parts.items()} == {"oslo": [0, 1, 5], "bern": [2, 3, 4, 6]}
    part = truth.take(np.array([1, 2]))
    assert (part.ks, part.groups[0].tolist(), len(part.groups[1])) == ((1, 2), [0, 2], 7)
    assert by_class().by_group() == {}


def test_ground_truth_is_an_object_or_a_list(tmp_path):
    path = tmp_path / "truth.json"
    for data in ({"0": [3, 4], "1": []}, [[3, 4], []]):
        path.write_text(json.dumps(data))
        assert read_ground_truth(path, 2, 5) == {0: [3, 4], 1: []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"1": [3.7]}', "query 1: 3.7 is none of the 5 gallery images; give positions in file-name order"),
        ('{"1": [true]}', "query 1: True is none"),
        ('[[1], ["4"]]', "query 1: '4' is none"),
        ("[[-1]]", "query 0: -1 is none"),
        ('{"0": [0], "1": [5]}', "query 1: 5 is none of the 5 gallery images; .* to 4"),
        ('{"-1": [0]}', "query '-1' is none of the 2 queries"),
        ("[[0], [0], [0]]", "query 2 is none of the 2 queries"),
        ('{"one": [0]}', "query 'one' is none"),
        ('{"0": 3}', "query 0: 3 is no list"),
        ("3", "expected JSON like"),
        ("{", "expected JSON like"),
    ],
)
def test_a_mistake_in_the_ground_truth_is_one_line_that_names_the_query(tmp_path, text, words):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_ground_truth(path, 2, 5)
    assert "\n" not in str(caught.value) and "truth.json" in str(caught.value)


def test_queries_without_any_right_answer_are_told_why():
    away = Truth.from_labels(np.array([0, 1]), np.array([2, 3]), np.full(2, -1))
    (told,) = nothing_relevant(away, ["a", "b"], ["w", "x", "y", "z"])
    assert told == (
        "none of the 2 queries has a relevant image in the gallery: classes a, b against w, x, y and 1 more"
    )
    single = Truth.from_labels(np.arange(2), np.arange(2), np.arange(2))
    assert nothing_relevant(single, ["a", "b"], ["a", "b"])[0].endswith(
        "where no image is relevant to itself"
    )
    listed = Truth([np.array([], int)] * 3, None, np.full(3, -1))
    assert nothing_relevant(listed, [], []) == ["none of the 3 queries has a relevant image in the gallery"]
    assert nothing_relevant(by_class(), ["a"], ["a"]) == nothing_relevant(by_place(), [], []) == []


def from_files(folder, ks) -> dict[str, float]:
    """Metrics from a run's TREC files alone, by their definitions."""
    relevant, ranked = {}, {}
    for line in (folder / "qrels.trec").read_text().splitlines():
        query, _, name, _ = line.split()
        relevant.setdefault(query, set()).add(name)
    for line in (folder / "run.trec").read_text().splitlines():
        query, _, name, *_ = line.split()
        ranked.setdefault(query, []).append(name)
    found: dict[str, list[float]] = {}
    for query, right in relevant.items():
        hits = np.array([name in right for name in ranked[query]])
        precision, count = np.cumsum(hits) / np.arange(1, len(hits) + 1), len(right)
        values = {"precision_at_1": hits[0], "r_precision": hits[:count].sum() / count}
        values |= {f"recall_at_{k}": hits[:k].any() for k in ks}
        values["mean_average_precision_at_r"] = (precision * hits)[:count].sum() / count
        values["mean_average_precision"] = (precision * hits).sum() / count
        values["mean_reciprocal_rank"] = 1 / (hits.argmax() + 1)
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in found.items()}


def without_own(draw, own: np.ndarray, gallery: int) -> np.ndarray:
    """A random ranking of the whole gallery for each query, its own image left out."""
    rows = [[j for j in draw.permutation(gallery) if j != out] for out in own]
    return np.array([row + [-1] * (gallery - len(row)) for row in rows])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("source", ["labels", "lists"])
def test_metrics_are_those_of_the_trec_files_whatever_queries_lie_in_the_gallery(tmp_path, source, seed):
    draw = np.random.default_rng(seed)
    gallery = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4])
    own = np.array([0, -1, 5, -1, 7, -1, 9, 4, -1])  # row 4, of class 1, is asked for under class 0
    queries = np.array([0, 0, 1, 2, 2, 1, 3, 0, 9])  # class 3 has its own image alone, class 9 is not there
    index = without_own(draw, own, len(gallery))
    if source == "labels":
        truth = Truth.from_labels(queries, gallery, own)
    else:
        listed = [np.flatnonzero(gallery == label) for label in queries]
        truth = Truth.from_rows(listed, own)
    names = [f"q{i}" for i in range(len(own))], [f"g{i}" for i in range(len(gallery))]
    write_run(tmp_path / "run.trec", *names, index, np.zeros(index.shape, np.float32))
    write_qrels(tmp_path / "qrels.trec", *names, truth.positives)
    wanted, found = from_files(tmp_path, truth.ks), truth.metrics(index)
    shared = wanted.keys() & found.keys()
    assert shared >= {f"recall_at_{k}" for k in truth.ks}
    assert source == "lists" or shared == wanted.keys()
    for name in shared:
        assert found[name] == pytest.approx(wanted[name], rel=1e-12), name
    assert found["queries_counted"] == 7
    part = truth.take(np.array([1, 2, 3]))
    assert part.metrics(index[1:4])["queries_counted"] == 3


def test_how_many_queries_count_and_why_is_one_line():
    own = np.array([0, 1, 2, -1, -1, 5])
    truth = Truth.from_labels(np.array([0, 0, 1, 7, 8, 9]), np.array([0, 0, 1, 2, 3, 9]), own)
    classes = ["pair", "pair", "lone", "yak", "zebra", "."], ["pair", "pair", "lone", "x", "y", "."]
    assert not_counted(truth, *classes) == [
        "4 of 6 queries have no relevant item in the gallery and are not counted: 1 alone in their class "
        "(lone); 2 of classes that the gallery lacks (yak, zebra); 1 without a class"
    ]
    one = not_counted(truth.take(np.array([0, 2])), ["pair", "lone"], classes[1])
    assert one == [
        "1 of 2 queries has no relevant item in the gallery and is not counted: 1 alone in their class (lone)"
    ]
    assert not_counted(truth.take(np.array([0, 1])), ["pair", "pair"], classes[1]) == []
    (none,) = not_counted(truth.take(np.array([2, 3])), ["lone", "yak"], classes[1])
    assert none.startswith("none of the 2 queries") and none.endswith("where no image is relevant to itself")
    assert not_counted(by_place(), [], []) == [
        "1 of 7 queries has no relevant item in the gallery: figures are of the other 6, except those over "
        "all queries"
    ]
    assert not_counted(Truth(None, None, np.full(7, -1)), [], []) == []


def test_a_listed_query_is_no_answer_to_itself():
    truth = Truth.from_rows([[3, 1, 3], [2], []], np.array([1, 2, -1]))
    assert [rows.tolist() for rows in truth.positives] == [[3], [], []]
    assert truth.relevant(0, 1) is False


def test_a_query_outside_the_gallery_has_its_whole_class_to_find():
    gallery = np.array([0, 1, 1])  # the last row's class: -1, for no row, must not be read as that one
    truth = Truth.from_labels(np.array([1, 1]), gallery, np.array([-1, 2]))
    found = truth.per_query(np.array([[1, 0, 2], [1, 0, -1]]))
    np.testing.assert_array_equal(found["r_precision"], [1 / 2, 1])
    np.testing.assert_array_equal(found["mean_average_precision"], [(1 + 2 / 3) / 2, 1])
