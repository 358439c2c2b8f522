import time

import numpy as np
import pytest
from scipy.stats import bootstrap

from vitjax.retrieval.metrics.bootstrap import bootstrap_intervals


def answers(q: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(q)


def test_intervals_agree_with_scipy():
    values = answers(300) ** 3
    ours = bootstrap_intervals(values[:, None], resamples=20_000)[0]
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    width = theirs.high - theirs.low
    # Two draws of 20,000: the ends differ by their own sampling error, about one percent of the width.
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.03 * width)


def test_the_interval_of_a_difference_is_paired():
    before = answers(400)
    after = before + 0.01 + 0.001 * answers(400, 1)
    ends = bootstrap_intervals(np.stack([before, after, after - before], axis=1))
    widths = ends[:, 1] - ends[:, 0]
    assert widths[2] < 0.01 * widths[0]
    assert 0.01 < ends[2, 0] < (after - before).mean() < ends[2, 1] < 0.011


def test_intervals_cover_the_truth_as_often_as_they_say():
    draws = (np.random.default_rng(3).random((400, 100)) < 0.3).astype(np.float64)
    ends = np.array(
        [bootstrap_intervals(row[:, None], resamples=500, seed=i)[0] for i, row in enumerate(draws)]
    )
    covered = np.mean((ends[:, 0] <= 0.3) & (ends[:, 1] >= 0.3))
    assert 0.91 < covered < 0.98  # 400 draws of .95 have a standard error of .011; the method errs by -.01


def test_the_seed_decides_the_interval():
    values = answers(50)[:, None]
    whole = bootstrap_intervals(values, seed=5)
    np.testing.assert_array_equal(whole, bootstrap_intervals(values, seed=5))
    assert (whole != bootstrap_intervals(values, seed=6)).any()


def test_queries_that_do_not_count_change_nothing():
    values = answers(60)
    padded = np.concatenate([values, np.full(40, np.nan)])
    np.testing.assert_array_equal(bootstrap_intervals(values[:, None]), bootstrap_intervals(padded[:, None]))
    assert np.isnan(bootstrap_intervals(np.full((3, 2), np.nan))).all()
    np.testing.assert_array_equal(bootstrap_intervals(np.ones((7, 1))), [[1.0, 1.0]])


def test_columns_may_count_different_queries():
    values = np.stack([answers(40), answers(40, 1)], axis=1)
    values[30:, 1] = np.nan
    low, high = bootstrap_intervals(values)[1]
    np.testing.assert_array_equal(bootstrap_intervals(values)[0], bootstrap_intervals(values[:, :1])[0])
    assert low < values[:30, 1].mean() < high


@pytest.mark.slow
def test_ten_thousand_queries_take_less_than_a_second():
    started = time.process_time()
    bootstrap_intervals(np.repeat(answers(10_000)[:, None], 27, axis=1))
    assert time.process_time() - started < 1.0
