import json

import numpy as np
import pytest

from vitjax.retrieval.truth import Truth, judge, nothing_right, read_ground_truth

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
    (told,) = nothing_right(away, ["a", "b"], ["w", "x", "y", "z"])
    assert told == (
        "none of the 2 queries has a right answer in the gallery: classes a, b against w, x, y and 1 more"
    )
    single = Truth.from_labels(np.arange(2), np.arange(2), np.arange(2))
    assert nothing_right(single, ["a", "b"], ["a", "b"])[0].endswith("where no picture answers itself")
    listed = Truth([np.array([], int)] * 3, None, np.full(3, -1))
    assert nothing_right(listed, [], []) == ["none of the 3 queries has a right answer in the gallery"]
    assert nothing_right(by_class(), ["a"], ["a"]) == nothing_right(by_place(), [], []) == []
