import numpy as np

from benchmarks.accept import Split, line, splits


def test_thresholds_keep_their_promise_and_accept_what_it_allows():
    rng = np.random.default_rng(0)
    right = rng.random(1200) < 0.7
    value = np.where(right, rng.normal(1.5, 1, 1200), rng.normal(-1, 1, 1200))
    found = splits(value, ~right, alpha=0.1, delta=0.1, count=40)
    assert np.mean([split.wrong_of_all <= 0.1 for split in found]) >= 0.9
    assert np.mean([split.true_acceptance for split in found]) >= 0.75
    assert not any(split.nothing for split in found)
    shuffled = splits(value, rng.permutation(~right), alpha=0.1, delta=0.1, count=40)
    assert np.mean([split.nothing for split in shuffled]) >= 0.9  # scores that say nothing prove nothing


def test_a_row_counts_splits_of_all_queries_and_of_the_rest_apart():
    found = [Split(0.2, 0.05, 0.5, False), Split(0.0, 0.0, 0.0, True)]
    shown = line("run", "score", np.array([True, False, False, False]), found, 0.1)
    want = "| run | score | 4 | 25.0 | 100.0 | 50.0 | 10.0 | 25.0 | 0.0 | 1 of 2 |"
    assert shown == want
