"""Mean average precisions of landmark benchmarks, held by values worked out from the papers' definitions."""

from fractions import Fraction

import numpy as np
import pytest

from vitjax.retrieval.metrics.average_precision import AveragePrecision, average_precisions


def curve(row, positives, junk, area, depth=0) -> Fraction:
    """Area under the precision-recall curve, walked rank by rank in exact fractions."""
    kept = [x for x in row if x >= 0 and x not in junk]
    kept = kept[:depth] if depth else kept
    total = min(len(positives), depth) if depth else len(positives)
    hits, area_under, before = 0, Fraction(0), Fraction(1)
    for seen, image in enumerate(kept, start=1):
        if image in positives:
            hits += 1
            after = Fraction(hits, seen)
            height = (before + after) / 2 if area == "trapezoid" else after
            area_under += height * Fraction(1, total)
        before = Fraction(hits, seen)
    return area_under


def precision(row, positives, junk, k) -> Fraction:
    kept = [x for x in row if x >= 0 and x not in junk]
    where = [i for i, x in enumerate(kept, start=1) if x in positives]
    if not where:
        return Fraction(0)
    last = min(where[-1], k)
    return Fraction(sum(i <= last for i in where), last)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("area", "depth"), [("trapezoid", 0), ("rectangle", 0), ("rectangle", 7)])
def test_the_area_is_that_of_the_curve_without_junk(seed, area, depth):
    rng = np.random.default_rng(seed)
    n, index, positives, junk = 23, [], [], []
    for q in range(6):
        row = rng.permutation(n)[: n - 4 * (q % 2)]  # of some queries not all images are ranked
        index.append(np.pad(row, (0, n - len(row)), constant_values=-1))
        mixed = rng.permutation(n)
        positives.append(mixed[: (1, 2, 5, 9, 0, 12)[q]])
        junk.append(mixed[12 : 12 + rng.integers(0, 6)])
    rule = AveragePrecision(positives, junk, "hard", area, depth, (1, 5, 10))
    found = rule.per_query(np.stack(index))
    name = "map_at_7_hard" if depth else "map_hard"
    assert list(found) == [name, "mp_at_1_hard", "mp_at_5_hard", "mp_at_10_hard"]
    for q, row in enumerate(index):
        args = row.tolist(), set(positives[q].tolist()), set(junk[q].tolist())
        if not len(positives[q]):
            assert all(np.isnan(values[q]) for values in found.values())
            continue
        assert found[name][q] == pytest.approx(float(curve(*args, area, depth)), abs=1e-12)
        for k in (1, 5, 10):
            assert found[f"mp_at_{k}_hard"][q] == pytest.approx(float(precision(*args, k)), abs=1e-12)
    means = average_precisions(np.stack(index), [rule])
    assert means[name] == pytest.approx(np.nanmean(found[name]))


def test_values_worked_out_by_hand():
    # Ranks of the positives 4, 7, 1 are 0, 2 and 4; with image 9 as junk 0, 1 and 3.
    index = np.array([[4, 9, 7, 0, 1]])
    plain = AveragePrecision([np.array([1, 4, 7])], None, "", "trapezoid", 0, (1, 5))
    found = plain.per_query(index)
    assert found["map"][0] == pytest.approx(((1 + 1) + (1 / 2 + 2 / 3) + (2 / 4 + 3 / 5)) / 6)
    assert (found["mp_at_1"][0], found["mp_at_5"][0]) == (1.0, 3 / 5)
    junk = AveragePrecision([np.array([1, 4, 7])], [np.array([9, 8])], "medium", "trapezoid")
    assert junk.per_query(index)["map_medium"][0] == pytest.approx(((1 + 1) + (1 + 1) + (2 / 3 + 3 / 4)) / 6)
    short = AveragePrecision([np.array([1, 4, 7])], None, "", "rectangle", 2)
    assert short.per_query(index)["map_at_2"][0] == pytest.approx(1 / 2)
    lost = AveragePrecision([np.array([8])], None, "", "trapezoid", 0, (5,))
    assert lost.per_query(index) == {"map": [0.0], "mp_at_5": [0.0]}


def test_some_of_the_queries_are_judged_as_in_the_whole():
    index = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])
    rule = AveragePrecision([np.array([1]), np.array([0, 2]), np.array([2])], [np.array([0])] * 3)
    whole, some = rule.per_query(index), rule.take(np.array([2, 0])).per_query(index[[2, 0]])
    np.testing.assert_array_equal(some["map"], whole["map"][[2, 0]])
