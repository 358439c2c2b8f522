import json

import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors, rankings
from vitjax.config import RerankConfig
from vitjax.retrieval import Descriptors, explain_pair, match_pairs, rerank
from vitjax.retrieval.explanation.matches import patch_box


def test_a_plan_given_by_hand_is_taken_apart_by_contribution():
    plan = np.array([[0.4, 0.1], [0.1, 0.4]])
    similarity = np.array([[0.5, -1.0], [0.2, 1.0]])
    found = explain_pair(plan, similarity, query_grid=(1, 2), top=2)
    strongest, second = found.matches
    assert (strongest.query_patch, strongest.candidate_patch) == (1, 1)
    assert (second.query_patch, second.candidate_patch) == (0, 0)
    np.testing.assert_allclose([strongest.contribution, second.contribution], [0.4, 0.2], rtol=1e-6)
    assert strongest.query_box == (0.5, 0.0, 1.0, 1.0)
    np.testing.assert_allclose([found.remainder, found.structural], [-0.1 + 0.02, 0.52], rtol=1e-5)


def test_patches_that_moved_are_matched_with_where_they_went():
    rng = np.random.default_rng(0)
    tokens, moved = rng.normal(size=(1, 9, 32)), rng.permutation(9)
    pooled = rng.normal(size=(1, 32))
    query, candidate = (
        Descriptors.from_arrays(pooled, tokens),
        Descriptors.from_arrays(pooled, tokens[:, moved]),
    )
    found = match_pairs(query, candidate, np.array([0]), np.array([0]), top=9)
    np.testing.assert_array_equal(moved[found.candidate_patch[0]], found.query_patch[0])
    assert found.contribution.sum() > 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mass": 0.6},
        {"mass": "auto", "price": 0.8},
        {"mass": "mutual"},
        {"tau": 0.6},
        {"method": "chamfer"},
        {"method": "mutual"},
    ],
)
def test_contributions_and_remainder_add_up_to_the_reranked_score(changes):
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(50, tokens=6, seed=2)
    config = RerankConfig(epsilon=0.1, marginals="rollout", **changes)
    ranked = rerank(queries, gallery, rankings(3, 50, 40), config=config)
    rows = np.repeat(np.arange(3), 40)
    found = match_pairs(queries, gallery, rows, ranked.index.ravel(), config=config, top=5)
    np.testing.assert_allclose(found.structural, ranked.structural.ravel(), rtol=0, atol=1e-6)
    for pair in (0, 57, 119):
        parts = found.explanation(pair, (3, 3), (2, 3))
        whole = sum(match.contribution for match in parts.matches) + parts.remainder
        assert abs(whole - parts.structural) <= 1e-6 and parts.additivity_error <= 1e-6
        assert len(parts.matches) == 5 or changes == {"method": "mutual"}
        assert np.all(np.diff([match.contribution for match in parts.matches]) <= 0)
        assert json.loads(json.dumps(parts.to_dict()))["matches"][0]["mass"] == parts.matches[0].mass


def test_only_what_moved_is_a_match():
    x, y = random_descriptors(1, seed=1), random_descriptors(1, seed=2)
    first = np.array([0])
    for method, most in (("pooled", 0), ("mutual", 9), ("chamfer", 18)):
        config = RerankConfig(method=method)
        found = match_pairs(x, y, first, first, config=config, top=81).explanation(0, (3, 3))
        assert len(found.matches) <= most
        assert found.remainder == 0
        assert all(match.mass > 0 for match in found.matches)
        mass = sum(match.mass for match in found.matches)
        np.testing.assert_allclose(mass, rerank(x, y, first[:, None], config=config).mass[0, 0], atol=1e-6)


def test_more_matches_than_patch_pairs_leave_no_remainder():
    x = random_descriptors(1, tokens=2)
    found = match_pairs(x, x, np.array([0]), np.array([0]), top=50)
    assert found.contribution.shape == (1, 4) and found.remainder[0] == 0


def test_no_pairs_give_no_matches():
    x = random_descriptors(1)
    assert match_pairs(x, x, np.zeros(0, int), np.zeros(0, int), top=3).mass.shape == (0, 3)


def test_pairs_out_of_range_are_refused():
    x = random_descriptors(2)
    with pytest.raises(ValueError, match=r"rows must be in 0\.\.1"):
        match_pairs(x, x, np.array([0]), np.array([2]))


def test_boxes_tile_the_image():
    boxes = np.array([patch_box(i, (3, 4)) for i in range(12)])
    np.testing.assert_allclose((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1 / 12)
    assert boxes[5].tolist() == [1 / 4, 1 / 3, 2 / 4, 2 / 3]
    with pytest.raises(ValueError, match="patch 12 is not on a 3x4 grid"):
        patch_box(12, (3, 4))


def test_each_side_of_a_match_has_the_patches_of_its_own_tokens():
    x = random_descriptors(1, tokens=3)
    placed = {"query": [[7, 2, 5]], "candidate": [[1, 8, 0]]}
    for given in ({"query"}, {"candidate"}, {"query", "candidate"}):
        query, candidate = (
            x.replace(positions=np.array(placed[side], np.int32)) if side in given else x
            for side in ("query", "candidate")
        )
        found = match_pairs(query, candidate, np.array([0]), np.array([0]), top=3)
        own = placed["query"][0] if "query" in given else [0, 1, 2]
        theirs = placed["candidate"][0] if "candidate" in given else [0, 1, 2]
        pairs = zip(found.query_patch[0].tolist(), found.candidate_patch[0].tolist(), strict=True)
        assert set(pairs) == set(zip(own, theirs, strict=True))
