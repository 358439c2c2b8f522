import dataclasses
import json

import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors, rankings
from vitjax.config import RerankConfig
from vitjax.retrieval import (
    Gate,
    Reranked,
    calibrate_gate,
    judge_gate,
    plan_sharpness,
    rerank,
    reweighed,
    search,
)
from vitjax.retrieval.metrics.relevance import Truth
from vitjax.retrieval.reranking.gate import ALWAYS, NEVER, SIGNALS

CONFIG = RerankConfig(top_k=5, weight=0.5)


def made(structural: np.ndarray, pooled: np.ndarray, config: RerankConfig = CONFIG):
    """A ranking by falling pooled cosine, and what reranking with these structural scores makes of it."""
    q, k = pooled.shape
    before = np.tile(np.arange(k, dtype=np.int32), (q, 1))
    blank = np.zeros((q, k), np.float32)
    start = Reranked(
        before, blank, structural.astype(np.float32), pooled.astype(np.float32), blank, blank > 0, blank + 1
    )
    return before, reweighed(start, before, config)


def harmful(seed: int, q: int = 60, k: int = 5):
    """Searches that are mostly right, and a structural score that puts some of them wrong, some right."""
    rng = np.random.default_rng(seed)
    pooled = -np.sort(-rng.uniform(0, 1, (q, k)), axis=1)
    structural = rng.normal(0, 0.3, (q, k))
    answer = np.where(rng.random(q) < 0.7, 0, rng.integers(0, k, q))
    structural[np.arange(q), answer] += rng.choice([0.0, 0.6], q)
    right = np.arange(k)[None, :] == answer[:, None]
    return (*made(structural, pooled), right)


def hits(before, found, right):
    return ((before == found.index[:, :1]) & right).any(axis=1)


@pytest.mark.parametrize("seed", range(40))
def test_on_its_own_queries_a_gate_is_never_worse_than_the_search(seed):
    before, after, right = harmful(seed, q=3 + 4 * seed)
    gate = calibrate_gate(before, after, right, CONFIG)
    result, _ = gate.open(before, after, CONFIG)
    found = judge_gate(gate, before, after, right, CONFIG)
    assert found.gated == hits(before, result, right).mean() >= found.base == right[:, 0].mean()


def test_a_signal_that_tells_harm_from_help_is_found():
    # Where the call is close the answer is second and matches better; elsewhere the first is right, and a
    # wrong one matches better.
    q = 40
    close = np.arange(q) < 20
    pooled = np.tile([0.9, 0.5, 0.1], (q, 1))
    pooled[close, 1] = 0.88
    structural = np.tile([0.0, 0.5, 0.0], (q, 1))
    right = np.arange(3)[None, :] == close.astype(int)[:, None]
    before, after = made(structural, pooled)
    gate = calibrate_gate(before, after, right, CONFIG, weights=(CONFIG.weight,))
    assert gate.signal == "margin" and -0.4 < gate.threshold < -0.02
    result, opened = gate.open(before, after, CONFIG)
    np.testing.assert_array_equal(opened, close)
    assert hits(before, result, right).all()
    found = judge_gate(gate, before, after, right, CONFIG)
    assert found == (q, 0.5, 0.5, 1.0, 0.5)


def test_what_only_harms_is_never_done_and_what_only_helps_always():
    pooled, worse = np.tile([0.9, 0.5], (30, 1)), np.tile([0.0, 0.9], (30, 1))
    first = np.tile([True, False], (30, 1))
    before, after = made(worse, pooled)
    assert calibrate_gate(before, after, first, CONFIG, weights=(0.5,)) == Gate(NEVER, 0.0, 0.5)
    assert calibrate_gate(before, after, ~first, CONFIG) == Gate(ALWAYS, 0.0, 0.5)


def test_a_better_weight_is_found_and_a_little_better_one_is_not():
    # Structure prefers the second, wrong one by 0.5; from weight 1 on the pooled cosine keeps the first.
    q = 50
    pooled, structural = np.tile([0.9, 0.3], (q, 1)), np.tile([0.0, 0.5], (q, 1))
    right = np.tile([True, False], (q, 1))
    pooled[40:], structural[40:], right[40:] = [0.9, 0.8], [0.0, 0.5], [False, True]
    before, after = made(structural, pooled)
    assert calibrate_gate(before, after, right, CONFIG) == Gate(ALWAYS, 0.0, 1.0)
    right[1:40] = [False, True]  # now one query of fifty prefers the other weight
    assert calibrate_gate(before, after, right, CONFIG) == Gate(ALWAYS, 0.0, 0.5)


def test_closed_rows_are_the_ranking_as_it_was():
    before, after, _ = harmful(1)
    for gate in (Gate(NEVER, 0.0, 1.0), Gate("gain", 0.2, 1.0)):
        result, opened = gate.open(before, after, CONFIG)
        np.testing.assert_array_equal(result.index[~opened], before[~opened])
        assert (np.diff(result.score[~opened], axis=1) <= 0).all()
        new = reweighed(after, before, dataclasses.replace(CONFIG, weight=1.0))
        np.testing.assert_array_equal(result.index[opened], new.index[opened])
        np.testing.assert_array_equal(result.score[opened], new.score[opened])
    assert 0 < opened.sum() < len(opened)


def test_queries_without_a_finite_signal_keep_their_order():
    before, after, _ = harmful(2, q=4, k=1)
    _, opened = Gate("margin", -1e9, 1.0).open(before, after, CONFIG)
    assert not opened.any()
    after.structural[:] = np.nan
    _, opened = Gate("gain", -1e9, 1.0).open(before, after, CONFIG)
    assert not opened.any()


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_another_weight_gives_the_order_that_reranking_with_it_gives(weight):
    queries, gallery = random_descriptors(7, seed=1), random_descriptors(30, seed=2)
    _, before = search(queries, gallery, 12)
    before[2, 9:] = -1
    config = RerankConfig(top_k=8, epsilon=0.1, iterations=30)
    after = rerank(queries, gallery, before, config=config)
    wanted = dataclasses.replace(config, weight=weight)
    found, want = reweighed(after, before, wanted), rerank(queries, gallery, before, config=wanted)
    for name in ("index", "structural", "pooled", "fallback", "mass"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name), err_msg=name)
    np.testing.assert_allclose(found.score, want.score, rtol=1e-6)


def test_sharpness_is_one_for_partners_and_low_for_a_spread():
    queries, gallery = random_descriptors(3, tokens=6, seed=3), random_descriptors(9, tokens=6, seed=4)
    gallery = gallery.replace(tokens=np.concatenate([queries.tokens, gallery.tokens[3:]]))
    before = np.stack([np.r_[i, 3:8] for i in range(3)])
    sharp, flat = (RerankConfig(epsilon=epsilon, iterations=300, weight=0.0) for epsilon in (0.02, 100.0))
    found = [
        plan_sharpness(queries, gallery, rerank(queries, gallery, before, config=c), c) for c in (sharp, flat)
    ]
    np.testing.assert_allclose(found[0], 1.0, atol=1e-3)
    np.testing.assert_allclose(found[1], 1 / 6, rtol=0.02)


def test_every_signal_can_be_learned_from_and_opened():
    queries, gallery = random_descriptors(12, seed=5), random_descriptors(20, seed=6)
    before = rankings(12, 20, 6, seed=7)
    config = RerankConfig(top_k=6, epsilon=0.1, iterations=30)
    after = rerank(queries, gallery, before, config=config)

    def sharpness(found):
        return plan_sharpness(queries, gallery, found, config)

    truth = Truth([np.array([row[i % 3]]) for i, row in enumerate(before)], None, np.full(12, -1))
    gate = calibrate_gate(before, after, truth.hits(before), config, sharpness=sharpness)
    found = judge_gate(gate, before, after, truth.hits(before), config, sharpness=sharpness)
    assert found.gated >= found.base
    opened = {name: Gate(name, -1e9).open(before, after, config, sharpness=sharpness)[1] for name in SIGNALS}
    assert all(x.all() for x in opened.values())


def test_a_gate_is_read_from_results_and_nothing_else(tmp_path):
    gate = Gate("gain", 0.02, 0.25)
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"metrics": {}, "gate": dataclasses.asdict(gate) | {"reranked": 0.5}}))
    assert Gate.read(file) == gate
    for text in ("[]", "{}", '{"signal": "luck", "threshold": 0, "weight": 1}', "not json"):
        file.write_text(text)
        with pytest.raises(ValueError, match="expected JSON like"):
            Gate.read(file)
    with pytest.raises(ValueError, match="nowhere"):
        Gate.read(tmp_path / "nowhere.json")


def test_nothing_to_learn_from_is_refused():
    before, after, right = harmful(0)
    with pytest.raises(ValueError, match="at least one"):
        calibrate_gate(before[:0], after, right[:0], CONFIG)


@pytest.mark.parametrize(
    "text",
    [
        '{"signal": "gain", "threshold": 0, "weight": 1' + "0" * 400 + "}",
        '{"signal": "gain", "threshold": -1' + "0" * 400 + ', "weight": 1}',
        '{"signal": "gain", "threshold": 0, "weight": 1' + "0" * 5000 + "}",
        '{"signal": "gain", "threshold": 0, "weight": Infinity}',
        '{"signal": "gain", "threshold": NaN, "weight": 1}',
        '{"signal": "gain", "threshold": 0, "weight": true}',
        '{"signal": "gain", "threshold": 0, "weight": 1e39}',
        '{"signal": ["gain"], "threshold": 0, "weight": 1}',
        '{"gate": null, "threshold": 0, "weight": 1}',
    ],
)
def test_a_gate_of_numbers_that_no_score_holds_is_one_line(tmp_path, text):
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(ValueError, match=r"^gate .*gate\.json: expected JSON like"):
        Gate.read(tmp_path / "gate.json")


def test_a_gate_in_another_encoding_says_so_and_one_with_a_mark_is_read(tmp_path):
    text = '{"signal": "gain", "threshold": 0.5, "weight": 1.0, "note": "caf\u00e9"}'
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "gate.json").write_bytes(text.encode(encoding))
        assert Gate.read(tmp_path / "gate.json") == Gate("gain", 0.5, 1.0)
    (tmp_path / "gate.json").write_bytes(text.encode("cp1252"))
    with pytest.raises(ValueError, match=r"gate\.json is not UTF-8 text .*; save it as UTF-8"):
        Gate.read(tmp_path / "gate.json")


def test_a_signal_at_the_threshold_opens():
    pooled = np.array([[0.75, 0.5, 0.0], [0.75, 0.25, 0.0], [1.0, 0.875, 0.0]])
    before, after = made(np.zeros((3, 3)), pooled)
    assert Gate("margin", -0.25, 0.5).open(before, after, CONFIG)[1].tolist() == [True, False, True]


def test_the_surer_a_plan_the_sooner_accuracy_opens():
    before, after = made(np.zeros((3, 2)), np.tile([0.9, 0.5], (3, 1)))
    after.error[:, 0] = [0.5, 0.0, 0.125]
    assert Gate("accuracy", -0.25, 0.5).open(before, after, CONFIG)[1].tolist() == [False, True, True]


def test_the_old_name_of_a_signal_is_read_as_the_new_one_with_a_warning(tmp_path):
    with pytest.warns(DeprecationWarning, match="'doubt' is 'margin' now"):
        assert Gate("doubt", -0.25, 0.5) == Gate("margin", -0.25, 0.5)
    (tmp_path / "gate.json").write_text('{"signal": "doubt", "threshold": -0.25, "weight": 0.5}')
    with pytest.warns(DeprecationWarning, match="'doubt' is 'margin' now"):
        assert Gate.read(tmp_path / "gate.json") == Gate("margin", -0.25, 0.5)
