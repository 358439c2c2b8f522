"""Aggregated tokens: the groups of scikit-learn, averages that keep mass and place, alone or in a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering, KMeans

from vitjax.models import BackboneOutput
from vitjax.retrieval import make_describe
from vitjax.retrieval.aggregate import AGGREGATORS, aggregate, find_grouping, lloyd

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(3, 30, 6)).astype(np.float32)
TOKENS /= np.linalg.norm(TOKENS, axis=-1, keepdims=True)
ONES, THERE = np.ones((3, 30), np.float32), np.ones((3, 30), bool)
WORTH = RNG.random((3, 30)).astype(np.float32)


def aggregated(name: str, rows=slice(None), weights=ONES, there=THERE, count=8):
    given = TOKENS[rows], weights[rows], there[rows]
    return jax.tree.map(np.asarray, aggregate(*given, count=count, name=name, importance=WORTH[rows]))


def same_groups(one, two) -> bool:
    return len(set(zip(one, two, strict=True))) == len(set(one)) == len(set(two))


def test_ward_joins_what_scikit_learn_joins():
    for owner, tokens in zip(aggregated("ward").owner, TOKENS, strict=True):
        wanted = AgglomerativeClustering(8, linkage="ward").fit_predict(tokens.astype(np.float64))
        assert same_groups(owner, wanted)


def test_lloyd_iterates_as_scikit_learn_does():
    for tokens in TOKENS:
        start = tokens[[3, 11, 19, 28, 5]]
        ours = lloyd(jnp.asarray(tokens), jnp.asarray(start), jnp.ones(30, bool), iterations=50)
        wanted = KMeans(5, init=start.astype(np.float64), n_init=1, max_iter=50, tol=0, algorithm="lloyd")  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(ours, wanted.fit(tokens.astype(np.float64)).labels_)


def test_seeds_are_far_apart_or_have_the_largest_attention():
    tokens, mean = TOKENS[0].astype(np.float64), TOKENS[0].mean(0)
    seeds = [int(np.argmin(((tokens - mean) ** 2).sum(1)))]
    while len(seeds) < 8:
        seeds.append(int(np.argmax(((tokens[:, None] - tokens[seeds]) ** 2).sum(-1).min(1))))
    wanted = ((tokens[:, None] - tokens[seeds]) ** 2).sum(-1).argmin(1)
    assert same_groups(aggregated("farthest").owner[0], wanted)
    strongest = np.argsort(-WORTH[0])[:8]
    assert same_groups(aggregated("attention").owner[0], (tokens @ tokens[strongest].T).argmax(1))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_a_token_is_the_average_of_its_patches_and_weighs_as_much(name):
    there = THERE.copy()
    there[1, 4:] = there[2, ::3] = False  # the second image has fewer patches than are wanted
    weights = RNG.random((3, 30)).astype(np.float32)
    found = aggregated(name, weights=weights, there=there)
    for i in range(3):
        groups = [np.flatnonzero(found.owner[i] == group) for group in range(8)]
        real = found.valid[i]
        assert [len(group) > 0 for group in groups] == real.tolist()
        assert (found.owner[i] >= 0).tolist() == there[i].tolist()
        first = [group[0] for group in groups if len(group)]
        assert first == sorted(first), "raster order"
        for group, token, place in zip(groups, found.tokens[i], found.positions[i], strict=True):
            if len(group):
                mean = (WORTH[i, group, None] * TOKENS[i, group]).sum(0)
                np.testing.assert_allclose(token, mean / np.linalg.norm(mean), atol=1e-5)
                assert place == group[np.argmax(TOKENS[i, group] @ token)]
            else:
                assert place == -1 and not token.any()
        np.testing.assert_allclose(found.weights[i].sum(), weights[i][there[i]].sum(), rtol=1e-5)
    assert found.valid[1].sum() == 4


@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_image_does_not_depend_on_its_batch(name):
    for one, two in zip(aggregated(name), aggregated(name, slice(1, 2)), strict=True):
        np.testing.assert_allclose(one[1:2], two, atol=1e-6)


def forward(variables, images):
    tokens = images.reshape(len(images), 16, 3)
    return BackboneOutput(tokens, tokens.mean(1), tokens[:, :0], grid=(4, 4))


def test_described_images_have_the_tokens_that_were_asked_for_in_one_program():
    images = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    describe = make_describe(forward, count=5, aggregate="ward")
    found = describe({}, images, np.array([True, False]))
    assert found.sizes.tokens == 5 and found.owner.shape == (2, 16)
    unit = images[0].reshape(16, 3) / np.linalg.norm(images[0].reshape(16, 3), axis=1, keepdims=True)
    wanted = aggregate(unit[None], jnp.ones((1, 16)), jnp.ones((1, 16), bool), count=5, name="ward")
    np.testing.assert_allclose(found.tokens[0], wanted.tokens[0], atol=1e-6)
    np.testing.assert_allclose(found.weights[0], wanted.weights[0] / 16, rtol=1e-6)
    np.testing.assert_array_equal(found.positions[0], wanted.positions[0])
    assert not found.valid[1].any() and not found.weights[1].any()
    coarse = make_describe(forward, grid=3, count=5)({}, images, np.ones(2, bool))
    assert coarse.sizes.tokens == 5 and coarse.owner.shape == (2, 9)


def test_a_grouping_of_your_own_is_one_entry(monkeypatch):
    monkeypatch.setitem(AGGREGATORS, "halves", lambda tokens, importance, there, count: jnp.arange(30) // 15)
    assert aggregated("halves", count=2).owner[0].tolist() == [0] * 15 + [1] * 15
    with pytest.raises(ValueError, match="'thirds' is unknown; known: 'kmeans', 'ward'"):
        find_grouping("thirds")
