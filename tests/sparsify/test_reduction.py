"""Rules that published methods share; their numbers are held in tests/parity/checks_reducers.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from vitjax.sparsify.reduction import ats, diffrate, dpcknn, groups, kmedoids, mctf, pitome, tofu, tome


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, 11, 5)).astype("f")


def test_tokens_of_a_tight_crowd_share_a_cluster():
    near = np.random.default_rng(0).normal(size=(1, 8, 3)).astype("f") * 0.01
    x = np.concatenate([near, near[:, :3] + 5, [[[-9.0, 4, 1]]]], axis=1).astype("f")
    dense = compiled(dpcknn.density_peaks)(x, count=2, neighbours=3).cluster[0]  # none is dense there
    assert len(set(dense[:8])) == len(set(dense[8:11])) == 1 and dense[0] != dense[8]
    medoids, cluster = compiled(kmedoids.k_medoids)(x, count=3, first=2)
    assert sorted(np.bincount(cluster[0])) == [1, 3, 8] and set(cluster[0, medoids[0]]) == {0, 1, 2}


def test_masked_tokens_change_no_cluster_of_the_others(tokens):
    mask = np.ones((3, 11), "f")
    mask[:, 8:] = 0
    cut = compiled(dpcknn.density_peaks)(tokens[:, :8], count=3, neighbours=4)
    masked = compiled(dpcknn.density_peaks)(tokens, count=3, neighbours=4, mask=mask)
    np.testing.assert_array_equal(masked.cluster[:, :8], cut.cluster)
    assert (masked.cluster[:, 8:] == -1).all()


def test_distances_are_those_between_tokens(tokens):
    shifted = tokens + 100
    wanted = np.linalg.norm(tokens[:, :, None] - tokens[:, None], axis=-1)
    np.testing.assert_allclose(compiled(groups.distances)(shifted), wanted, rtol=1e-4, atol=1e-4)


def test_half_of_the_steps_fall_on_a_token_with_half_of_the_significance():
    share = np.array([[0.1, 0.5, 0.15, 0.15, 0.1]], "f")
    found = compiled(ats.inverse_transform)(share, ats.even_steps(3))
    assert found.index.tolist() == [[0, 1, 2, 4]] and found.valid.tolist() == [[1] * 4]
    twice = compiled(ats.inverse_transform)(np.array([[0.02, 0.95, 0.02, 0.01]], "f"), ats.even_steps(2))
    assert twice.valid.sum() < 3 or len(set(twice.index[0])) == 3


@pytest.mark.parametrize("kind", pitome.KINDS)
def test_merging_nothing_leaves_every_token_and_too_much_is_refused(kind, tokens):
    match = functools.partial(pitome.energy_match, margin=0.5, kind=kind, class_token=True)
    found = jax.jit(lambda x: match(x, 0).source)(tokens)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(11), (3, 1)))
    with pytest.raises(ValueError, match="at most 5"):
        match(jnp.asarray(tokens), 6)


def test_crowded_tokens_have_the_highest_energy():
    x = np.array([[[1.0, 0], [1, 0.1], [1, -0.1], [0, 1], [-1, 0]]], "f")
    found = compiled(pitome.energy_match)(x, r=1, margin=0.5)
    assert set(found.order[0, :3]) == {0, 1, 2} and len(set(found.source[0, 3:])) == 2


@pytest.mark.parametrize("both", [True, False])
def test_every_way_of_mctf_keeps_what_tokens_add_up_to(both, tokens):
    attention = np.random.default_rng(1).dirichlet(np.ones(11), size=(3, 2, 11)).astype("f")

    @jax.jit
    def fused(x, attention):
        heard = mctf.received(attention)
        match = mctf.multi_criteria_match(x, heard, 4, both_ways=both)
        after = mctf.pool_attention(attention, match, pooling="size")
        return mctf.pool(x, match, heard, pooling="size"), after

    found, after = fused(tokens, attention)
    assert (found.source[:, 0] == 0).all() and ((found.source == 0).sum(axis=1) == 1).all()
    total = (found.tokens * found.sizes[..., None]).sum(axis=1)
    np.testing.assert_allclose(total, tokens.sum(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.sum(axis=-1), 1, rtol=1e-5)


def test_unknown_fusions_and_impossible_steps_are_refused(tokens):
    x = jnp.asarray(tokens)
    with pytest.raises(ValueError, match="one of 'mean', 'tofu', 'prune'"):
        tofu.fuse(x, jnp.zeros((3, 11), jnp.int32), 1, fusion="sum")
    with pytest.raises(ValueError, match="from 2 to 11"):
        tome.every_kth_match(x, 1)


def test_merged_tokens_count_by_how_alike_they_are(tokens):
    attention = np.random.default_rng(1).dirichlet(np.ones(11), size=(3, 2, 11)).astype("f")
    found = compiled(diffrate.prune_and_merge)(tokens, attention[:, 0, 0, 1:], prune_kept=9, merge_kept=6)
    np.testing.assert_allclose(
        found.groups.sizes.sum(axis=1), 6 + found.similarity.sum(axis=1), rtol=1e-5, atol=1e-5
    )
    assert ((found.groups.source < 0).sum(axis=1) == 2).all()
    assert ((found.groups.source == 0).sum(axis=1) == 1).all()


def test_tokens_after_the_last_full_group_of_k_are_dropped():
    x = np.eye(8, dtype="f")[None]
    x[0, 0] = x[0, 5] + 0.1  # the first is nearly the second that stays
    source, count = compiled(tome.every_kth_match)(x, k=3)
    assert count == 2 and source[0, [0, 2, 5, 6, 7]].tolist() == [1, 0, 1, -1, -1]


@pytest.mark.parametrize("r", [1, 2, 5, 9])
def test_mctf_moves_as_many_tokens_as_asked_and_no_more_than_half(r, tokens):
    heard = np.random.default_rng(2).uniform(0.1, 1, (3, 11)).astype("f")
    match = compiled(mctf.multi_criteria_match)(tokens, heard, r=r)
    assert match.count == 11 - min(r, 5) == match.stays.sum(axis=1).max()
    for source, stays in zip(match.source, match.stays, strict=True):
        np.testing.assert_array_equal(np.sort(source[stays]), np.arange(match.count))
