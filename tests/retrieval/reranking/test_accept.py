"""Accepted hits: the promised share of wrong ones, over many draws, and the file that keeps a threshold."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from tests.retrieval.cases import random_descriptors, rankings
from vitjax.config import RerankConfig
from vitjax.evaluation import threshold
from vitjax.retrieval import Acceptance, Gate, Shortlist, plan_sharpness, rerank
from vitjax.retrieval.metrics import runs
from vitjax.retrieval.reranking.accept import NOTHING, SIGNALS, candidate_spread, conformal_quantile

RULE = RerankConfig(method="mutual", top_k=6)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of first hits and whether each is wrong: less often the higher the score."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=count)
    return score, rng.random(count) < stats.norm.cdf(-1.2 * score - 0.9)


def test_the_promise_is_kept_over_random_splits():
    score, wrong = drawn(40_000, 0)
    broken, taken = [], []
    for seed in range(200):
        rows = np.random.default_rng(seed).permutation(len(score))[:300]
        found = Acceptance.learn(score[rows], wrong[rows], alpha=0.1, delta=0.1)
        accepted = score >= found.threshold
        taken.append(accepted[~wrong].mean())
        broken.append(accepted.any() and wrong[accepted].mean() > 0.1)
    assert np.mean(broken) <= 0.1
    assert np.mean(taken) > 0.6, "and it accepts something"


def test_what_cannot_be_proven_is_not_accepted():
    score, wrong = drawn(20, 1)
    assert Acceptance.learn(score, np.zeros_like(wrong), alpha=0.1, delta=0.1).threshold == NOTHING
    assert Acceptance.learn(score, np.ones_like(wrong), alpha=0.5, delta=0.1).threshold == NOTHING
    many = np.linspace(0, 1, 30)
    assert Acceptance.learn(many, np.zeros(30, bool), alpha=0.1, delta=0.1).threshold == 0
    nothing_seen = np.full(30, np.nan)
    assert Acceptance.learn(nothing_seen, np.zeros(30, bool), alpha=0.1, delta=0.1).threshold == NOTHING


def test_a_candidate_set_holds_a_relevant_one_as_often_as_promised():
    rng = np.random.default_rng(3)

    def candidates(count: int) -> tuple[np.ndarray, np.ndarray]:
        score = -np.sort(-rng.normal(size=(count, 8)), axis=1)
        relevant = np.zeros((count, 8), bool)
        relevant[np.arange(count), np.minimum(rng.geometric(0.5, count) - 1, 7)] = True
        return score, relevant

    held = []
    for _ in range(50):
        spread = candidate_spread(*candidates(100), 0.2)
        score, relevant = candidates(500)
        held.append((relevant & (score >= score[:, :1] - spread)).any(axis=1).mean())
    assert np.mean(held) >= 0.79
    assert conformal_quantile(np.arange(9.0), 0.1) == 8
    assert math.isinf(conformal_quantile(np.arange(8.0), 0.1))


def test_signals_are_of_the_first_candidate():
    queries, gallery = random_descriptors(3), random_descriptors(9, seed=1)
    found = rerank(queries, gallery, rankings(3, 9, 6), config=RULE)
    shortlist = Shortlist(queries, gallery, RULE)
    signals = {name: signal(shortlist, found) for name, signal in SIGNALS.items()}
    np.testing.assert_array_equal(signals["score"], found.score[:, 0])
    np.testing.assert_allclose(signals["margin"], found.score[:, 0] - found.score[:, 1])
    np.testing.assert_allclose(signals["mutual"], found.structural[:, 0], atol=1e-6)
    np.testing.assert_allclose(signals["sharpness"], plan_sharpness(queries, gallery, found, RULE))
    middle = float(np.median(found.score[:, 0]))
    assert (
        Acceptance("score", middle).accepted(shortlist, found).tolist()
        == (found.score[:, 0] >= middle).tolist()
    )
    assert not Acceptance("score", NOTHING).accepted(shortlist, found).any()


def test_a_file_keeps_the_threshold_and_the_gate(tmp_path):
    path = tmp_path / "accept.json"
    for found in (Acceptance("margin", 0.25, 0.05, 0.2, 0.5), Acceptance("score", NOTHING)):
        found.write(path)
        assert Acceptance.read(path) == found
    assert Gate.read_beside(path) is None
    both = json.loads(path.read_text()) | {"gate": {"signal": "gain", "threshold": 0.02, "weight": 0.5}}
    path.write_text(json.dumps(both))
    assert Gate.read_beside(path) == Gate("gain", 0.02, 0.5)
    path.write_text('{"accept": {"signal": "luck"}}')
    with pytest.raises(ValueError, match="give the file that `vitjax threshold RUN` wrote"):
        Acceptance.read(path)
    with pytest.raises(ValueError, match="signal 'luck'"):
        Acceptance("luck")


def finished_run(path, score, wrong):
    """The files of a run whose first hits have these scores."""
    q = len(score)
    names, images = [f"q {i}" for i in range(q)], [f"g{i}" for i in range(2 * q)]
    index = np.stack([2 * np.arange(q), 2 * np.arange(q) + 1], axis=1)
    runs.write_run(path / "run.trec", names, images, index, np.stack([score, score - 1], axis=1))
    runs.write_qrels(path / "qrels.trec", names, images, [index[i, int(wrong[i]) :][:1] for i in range(q)])


def test_the_command_learns_from_a_finished_run(tmp_path, capsys):
    score, wrong = drawn(300, 5)
    finished_run(tmp_path, score, wrong)
    (tmp_path / "results.json").write_text('{"gate": {"signal": "always", "threshold": 0.0, "weight": 1.0}}')
    assert threshold.main([str(tmp_path), "--alpha", "0.2"]) == 0
    found = Acceptance.read(tmp_path / "accept.json")
    wanted = Acceptance.learn(score.astype(np.float32), wrong, alpha=0.2, delta=0.1)
    assert found.threshold == pytest.approx(wanted.threshold) and found.alpha == 0.2
    assert found.spread == pytest.approx(1.0, abs=1e-5), "the second candidate is the relevant one otherwise"
    assert Gate.read_beside(tmp_path / "accept.json") == Gate()
    assert (tmp_path / "accept.svg").read_text().count("<rect") == 2 * threshold.BINS
    assert "of 300 queries are accepted" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        threshold.main([str(tmp_path / "missing")])
    assert end.value.code == 1 and "give the workdir of a run" in capsys.readouterr().err
