import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.sparsify import decisions

# Tokens after each stage that the official code keeps of 196, by its own arithmetic.
OFFICIAL = {
    0.9: [176, 158, 142],
    0.8: [156, 125, 100],
    0.7: [137, 96, 67],
    0.6: [117, 70, 42],
    0.5: [98, 49, 24],
}


def test_sampled_decisions_are_exactly_zero_or_one_and_their_gradients_finite_over_100_seeds():
    logits = jax.random.normal(jax.random.key(5), (4, 50, 2)) * 8

    @jax.jit
    def one(rng):
        def total(logits):
            keep = decisions.sample(rng, jax.nn.log_softmax(logits))
            return (keep * jnp.arange(50.0)[None]).sum(), keep

        return jax.grad(total, has_aux=True)(logits)

    grads, keep = jax.vmap(one)(jax.random.split(jax.random.key(0), 100))
    assert set(np.unique(keep)) == {0.0, 1.0}
    assert np.isfinite(grads).all()


def test_sampling_follows_the_probabilities_and_passes_the_soft_gradient():
    log_probs = jnp.log(jnp.array([[[0.8, 0.2]]])).repeat(20_000, axis=1)
    keep = decisions.sample(jax.random.key(1), log_probs)
    assert abs(float(keep.mean()) - 0.8) < 0.01
    rng, logits = jax.random.key(2), jnp.array([[[0.3, -0.4], [1.0, 2.0]]])
    noise = jax.random.gumbel(rng, logits.shape)
    by_hand = jax.nn.softmax(logits + noise, axis=-1)[..., 0]
    found = jax.grad(lambda x: decisions.sample(rng, x).sum())(logits)
    np.testing.assert_allclose(found[..., 0], by_hand * (1 - by_hand), rtol=1e-5)
    np.testing.assert_allclose(found[..., 1], -found[..., 0], rtol=1e-6)


def test_a_later_stage_cannot_bring_a_token_back_and_both_stages_get_gradient():
    raw = jnp.array([[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
    np.testing.assert_array_equal(decisions.cumulative(raw), [[[1, 0, 1], [1, 0, 0]]])
    grad = jax.grad(lambda x: decisions.cumulative(x)[:, 1].sum())(raw)
    np.testing.assert_array_equal(grad, [[[1, 1, 0], [1, 0, 1]]])


@pytest.mark.parametrize(("rho", "counts"), OFFICIAL.items())
def test_kept_counts_are_those_of_the_official_code(rho, counts):
    ratios = decisions.stage_ratios(rho, 3)
    assert [decisions.keep_count(196, r, alive=196) for r in ratios] == counts


def test_floating_point_truncates_as_in_the_official_code():
    assert decisions.keep_count(196, 0.7 - 0.2, alive=196) == 97


def test_counts_round_to_whole_tiles_with_the_prefix_and_stay_in_range():
    counts = [decisions.keep_count(196, r, alive=196, prefix=1, round_to=8) for r in (0.7, 0.49, 0.343)]
    assert [c + 1 for c in counts] == [136, 96, 72]
    assert decisions.keep_count(196, 1.0, alive=196, prefix=1, round_to=8) == 196
    assert decisions.keep_count(196, 0.001, alive=196, prefix=1, round_to=8) >= 1
    assert decisions.keep_count(196, 0.7, alive=90) == 90


@pytest.mark.parametrize("wrong", [0.0, 1.2, -0.5, (0.7, 0.5), (0.7, 0.5, 0.0)])
def test_ratios_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match="keep_ratio is"):
        decisions.stage_ratios(wrong, 3)


def test_the_best_k_come_in_raster_order_first_of_equals_and_never_a_nan():
    scores = jnp.array([[0.2, jnp.nan, 0.9, 0.2, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(decisions.top_k_index(scores, 3), [[0, 2, 4], [0, 1, 2]])


def test_positions_and_masks_agree():
    index = jnp.array([[0, 3], [1, 9]])
    np.testing.assert_array_equal(decisions.as_keep(index, 5), [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
