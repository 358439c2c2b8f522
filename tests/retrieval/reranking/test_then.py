"""Stages after the reranking: each query for itself, matched candidates only, and what each looks at."""

import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from tests.retrieval.cases import random_descriptors
from vitjax.config import RerankConfig, validate_rerank
from vitjax.retrieval import Descriptors, Reranked, Shortlist, refine, rerank, search
from vitjax.retrieval.reranking.then import STAGES, AlphaQueryExpansion, GeometricCheck, KReciprocal

RULE = RerankConfig(method="chamfer", top_k=8, weight=0.5)
QUERIES, GALLERY = random_descriptors(4), random_descriptors(20, seed=1)
INDEX = search(QUERIES, GALLERY, 12)[1]
INDEX[2, 5:] = -1
FOUND = rerank(QUERIES, GALLERY, INDEX, config=RULE)
LIST = Shortlist(QUERIES, GALLERY, RULE, (3, 3))


def row(found: Reranked, q: int) -> list[np.ndarray]:
    return [np.asarray(x)[q] for x in (found.index, found.score, found.structural, found.pooled)]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_moves_matched_candidates_only(name):
    after = STAGES[name](LIST, FOUND)
    for q in range(4):
        matched = int(np.isfinite(FOUND.structural[q]).sum())
        assert set(after.index[q, :matched]) == set(FOUND.index[q, :matched])
        np.testing.assert_array_equal(after.index[q, matched:], FOUND.index[q, matched:])
        parts = dict(zip(FOUND.index[q, :matched], FOUND.structural[q, :matched], strict=True))
        assert [parts[i] for i in after.index[q, :matched]] == after.structural[q, :matched].tolist()
        assert (np.diff(after.score[q][after.index[q] >= 0]) <= 0).all()
    assert not np.array_equal(after.index, FOUND.index)


@pytest.mark.parametrize("name", STAGES)
def test_a_query_does_not_depend_on_the_others(name):
    some = [2, 0]
    alone = Shortlist(QUERIES.take(some), GALLERY, RULE, (3, 3))
    found = Reranked(*(np.asarray(x)[some] for x in vars(FOUND).values()))
    for q, wanted in enumerate(some):
        for one, two in zip(
            row(STAGES[name](alone, found), q), row(STAGES[name](LIST, FOUND), wanted), strict=True
        ):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_stages_follow_each_other_and_are_an_open_set(monkeypatch):
    rule = RerankConfig(method="chamfer", top_k=8, weight=0.5, then="alpha_qe, geometry")
    wanted = STAGES["geometry"](LIST, STAGES["alpha_qe"](LIST, FOUND))
    np.testing.assert_array_equal(refine(LIST._replace(config=rule), FOUND).index, wanted.index)
    with pytest.raises(ValueError, match=r"config\.rerank\.then: 'reverse' is unknown; known: kreciprocal"):
        validate_rerank(RerankConfig(then="reverse"))
    monkeypatch.setitem(STAGES, "reverse", lambda shortlist, found: found.replace(score=-found.score))
    validate_rerank(RerankConfig(then="reverse"))


def test_mutual_neighbours_of_the_query_come_before_a_stray():
    # Four images of the query's thing, a stray that is nearer to it, and four of the stray's kind.
    angles = np.deg2rad([0, 10, 11, 12, 13, -9, -30, -31, -32, -33])
    pooled = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = Descriptors.from_arrays(pooled, np.ones((10, 1, 2)))
    rule = RerankConfig(method="pooled")
    before = rerank(found.take([0]), found, np.array([[5, 1, 2, 3, 4, 6, 7, 8, 9]]), config=rule)
    assert before.index[0, 0] == 5
    after = KReciprocal(k1=4, k2=1, share=0.1)(Shortlist(found.take([0]), found, rule), before)
    assert after.index[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (np.diff(after.score[0]) < 0).all()


def test_the_expanded_query_is_the_mean_of_its_first_candidates():
    after = AlphaQueryExpansion(k=2, alpha=1.0)(LIST, FOUND)
    first = GALLERY.pooled[FOUND.index[0, :2]]
    mean = QUERIES.pooled[0] + (np.maximum(first @ QUERIES.pooled[0], 0)[:, None] * first).sum(0)
    cosine = GALLERY.pooled[after.index[0, :8]] @ (mean / np.linalg.norm(mean))
    np.testing.assert_allclose(after.pooled[0, :8], cosine, atol=1e-6)
    np.testing.assert_allclose(after.score[0, :8], after.structural[0, :8] + 0.5 * cosine, atol=1e-6)


def test_the_inlier_share_is_that_of_the_patches_a_transform_explains():
    rng = np.random.default_rng(0)
    here = rng.uniform(0, 8, (24, 2))
    there = SimilarityTransform(scale=0.8, rotation=0.3, translation=(1, 2))(here)
    there[18:] = rng.uniform(20, 60, (6, 2))
    for transform in ("similarity", "homography"):
        check = GeometricCheck(transform)  # pyright: ignore[reportArgumentType]
        assert check.inlier_share(here, there) == pytest.approx(18 / 24)
        assert check.inlier_share(here[:2], there[:2]) == 0


def test_a_moved_image_is_told_from_a_shuffled_one():
    rng = np.random.default_rng(3)
    tokens = rng.normal(size=(36, 32))
    moved = np.roll(tokens.reshape(6, 6, 32), 1, axis=1).reshape(36, 32)
    found = Descriptors.from_arrays(np.ones((3, 4)), np.stack([tokens, tokens[rng.permutation(36)], moved]))
    rule = RerankConfig(method="mutual")
    shares = GeometricCheck().shares(Shortlist(found, found, rule, (6, 6)), np.zeros(3, int), np.arange(3))
    assert shares[0] == 1 and shares[2] > 0.8 and shares[1] < 0.4
