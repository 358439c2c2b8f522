import dataclasses

import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery, random_descriptors, rankings
from vitjax.config import RerankConfig
from vitjax.retrieval import Descriptors, match_price, rerank


def test_the_price_is_the_quantile_of_the_best_matches_of_unrelated_tokens():
    # Every image has one axis of its own and one direction that all share, of cosine 0.36.
    own = np.concatenate([np.eye(8)[:, None, :] * 0.8, np.full((8, 1, 1), 0.6)], axis=2)
    images = Descriptors.from_arrays(np.ones((8, 1)), np.repeat(own, 3, axis=1))
    assert match_price(images) == pytest.approx(0.64, abs=1e-6)


def test_a_higher_quantile_is_a_lower_price_and_fewer_unrelated_tokens_match():
    images, others = random_descriptors(30, seed=1), random_descriptors(20, seed=2)
    prices = [match_price(images, others, quantile=q) for q in (0.5, 0.9, 0.99)]
    assert prices[0] > prices[1] > prices[2] > 0
    similarity = np.einsum("qnd,gmd->qgnm", images.tokens, others.tokens)
    assert np.mean(similarity.max(3) > 1 - prices[1]) == pytest.approx(0.1, abs=0.02)


def test_invalid_tokens_and_tokens_that_are_not_finite_do_not_count():
    images = random_descriptors(6, seed=1)
    kept = Descriptors.from_arrays(images.pooled, images.tokens[:, :5])
    images.valid[:, 5:] = False
    assert match_price(images) == pytest.approx(match_price(kept), abs=1e-6)
    images.valid[:], images.tokens[:, 5:] = True, np.nan
    assert match_price(images) == pytest.approx(match_price(kept), abs=1e-6)


def test_a_gallery_on_disk_has_the_price_of_its_descriptors(tmp_path):
    gallery = filled_gallery(tmp_path / "g", dtype="float16")
    assert match_price(gallery) == pytest.approx(match_price(random_descriptors(30)), abs=1e-3)


def test_rerank_finds_the_price_it_is_not_given():
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(12, seed=2)
    index = rankings(2, 12, 12)
    for mass in ("auto", "mutual"):
        free = RerankConfig(mass=mass, epsilon=0.1)
        found = rerank(queries, gallery, index, config=free)
        told = dataclasses.replace(free, price=match_price(gallery))
        np.testing.assert_array_equal(found.score, rerank(queries, gallery, index, config=told).score)


def test_too_few_images_are_an_error_that_says_what_to_do():
    one = random_descriptors(1)
    with pytest.raises(ValueError, match=r"too few.*price"):
        match_price(one)
    one.valid[:] = False
    with pytest.raises(ValueError, match="no drawn pair has valid tokens"):
        match_price(one, random_descriptors(3))


def test_each_token_of_the_first_image_asks_for_its_best_match_in_the_second():
    axes = np.eye(3)
    image = Descriptors.from_arrays(np.ones((1, 1)), axes[None, [0, 1]])
    other = Descriptors.from_arrays(np.ones((1, 1)), np.stack([0.8 * axes[0] + 0.6 * axes[2]] * 2)[None])
    # The best matches of the two tokens are 0.8 and 0; those of the other's are both 0.8.
    assert match_price(image, other, quantile=0.25) == pytest.approx(1.0)
    assert match_price(other, image, quantile=0.25) == pytest.approx(0.2)
