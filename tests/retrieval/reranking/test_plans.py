import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery, random_descriptors
from vitjax.config import RerankConfig
from vitjax.retrieval import match_pairs, pair_plans, rerank
from vitjax.retrieval.reranking import plans

PAIRS = np.arange(40) % 3, np.arange(40) % 7  # more than a block


def test_whole_plans_add_up_to_the_reranked_scores_and_hold_the_strongest_matches():
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(7, tokens=6, seed=2)
    config = RerankConfig(method="chamfer")
    found = list(pair_plans(queries, gallery, *PAIRS, config=config))
    ranked = rerank(queries, gallery, np.tile(np.arange(7), (3, 1)), config=config)
    best = match_pairs(queries, gallery, *PAIRS, config=config, top=3)
    assert len(found) == 40
    for i, (plan, q, g) in enumerate(zip(found, *PAIRS, strict=True)):
        assert plan.mass.shape == (9, 6)
        score = ranked.structural[q][ranked.index[q] == g][0]
        np.testing.assert_allclose(plan.contribution.sum() + plan.unmatched, score, atol=2e-6)
        np.testing.assert_allclose(
            plan.mass[best.query_patch[i], best.candidate_patch[i]], best.mass[i], atol=1e-7
        )
        np.testing.assert_allclose(plan.mass.sum(), 1, atol=1e-6)
        np.testing.assert_allclose(plan.query_weights, 1 / 9, rtol=1e-6)


def test_plans_are_made_with_one_compilation(tmp_path):
    plans._match_whole.clear_cache()
    queries, gallery = random_descriptors(3, seed=1), filled_gallery(tmp_path / "g")
    assert len(list(pair_plans(queries, gallery, *PAIRS))) == 40
    assert len(list(pair_plans(queries, gallery, PAIRS[0][:1], PAIRS[1][:1]))) == 1
    assert list(pair_plans(queries, gallery, PAIRS[0][:0], PAIRS[1][:0])) == []
    assert plans._match_whole._cache_size() == 1


def test_rows_that_do_not_exist_are_refused():
    x = random_descriptors(2)
    with pytest.raises(ValueError, match=r"pair_plans: rows must be in 0\.\.1"):
        list(pair_plans(x, x, np.array([2]), np.array([0])))
