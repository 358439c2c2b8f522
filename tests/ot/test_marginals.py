import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ot.problems import changed, tokens
from vitjax.ot import marginals

_X = jnp.asarray([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])  # cosines 1, .6, 0, -1 with the next
_OTHER = jnp.asarray([1.0, 0.0])
_VALID = jnp.asarray([True, True, False, True])


@pytest.mark.parametrize(
    ("function", "raw"),
    [
        (marginals.cross_correlation, [1.0, 0.6, 0.0, 0.0]),
        (marginals.inverse, np.exp([-10.0, -6.0, 0.0, 0.0])),
        (marginals.complement, [0.0, 0.4, 1.0, 1.0]),
        (marginals.softmax, np.exp([1.0, 0.6, 0.0, -1.0])),
    ],
)
def test_weights_are_those_worked_out_by_hand(function, raw):
    np.testing.assert_allclose(function(_X, _OTHER), raw / np.sum(raw), atol=1e-6)
    masked = np.where(_VALID, raw, 0.0)
    np.testing.assert_allclose(function(_X, _OTHER, valid=_VALID), masked / masked.sum(), atol=1e-6)


def test_temperature_of_inverse_weights():
    raw = np.exp([-2.0, -1.2, 0.0, 0.0])
    ours = marginals.inverse(_X, _OTHER, temperature=0.5)
    np.testing.assert_allclose(ours, raw / raw.sum(), atol=1e-6)


def test_uniform_weights_leave_padding_out():
    np.testing.assert_allclose(marginals.uniform(_VALID), [1 / 3, 1 / 3, 0, 1 / 3], atol=1e-7)


def test_given_weights_lose_their_negative_part():
    np.testing.assert_allclose(marginals.from_rollout(jnp.asarray([3.0, -2.0, 1.0])), [0.75, 0, 0.25])


def test_keep_scores_weigh_by_the_probability_of_staying():
    log_probabilities = jnp.log(jnp.asarray([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]]))
    np.testing.assert_allclose(marginals.from_keep_scores(log_probabilities), [0.5, 1 / 6, 1 / 3], atol=1e-6)


def _pair(kind, x, y, x_pooled, y_pooled, **changes):
    settings = {"query_weights": np.ones(x.shape[:-1], "f"), "candidate_weights": np.ones(y.shape[:-1], "f")}
    return marginals.pair_marginals(kind, x, y, x_pooled, y_pooled, **{**settings, **changes})


def test_without_masks_no_token_is_padding_and_given_weights_are_needed():
    x, y = tokens(0, 2, 4, 3), tokens(1, 2, 5, 3)
    found = marginals.pair_marginals("complement", x, y, x[:, 0], y[:, 0])
    for given, wanted in zip(found, _pair("complement", x, y, x[:, 0], y[:, 0]), strict=True):
        np.testing.assert_array_equal(given, wanted)
    with pytest.raises(ValueError, match="'keep' needs query_weights and candidate_weights"):
        marginals.pair_marginals("keep", x, y, x[:, 0], y[:, 0], query_weights=jnp.ones((2, 4)))


@pytest.mark.parametrize("kind", marginals.KINDS)
def test_every_kind_sums_to_one_over_valid_tokens_only(kind):
    x, y = tokens(0, 3, 7, 5), tokens(1, 3, 4, 5)
    valid = np.arange(7)[None, :] < np.array([7, 3, 1])[:, None]
    pair = _pair(kind, x, y, x[:, 0], y[:, 0], query_valid=valid)
    np.testing.assert_allclose(pair.a.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(pair.b.sum(-1), 1.0, atol=1e-6)
    assert not np.asarray(pair.a)[~np.asarray(valid)].any()
    assert not np.asarray(pair.fallback).any()


@pytest.mark.parametrize("kind", ["cross_correlation", "inverse", "complement", "softmax"])
def test_masked_tokens_equal_removed_tokens(kind):
    x, y = tokens(2, 1, 6, 5), tokens(3, 1, 4, 5)
    keep = np.array([0, 2, 5])
    valid = np.isin(np.arange(6), keep)[None]
    masked = _pair(kind, x, y, x[:, 0], y[:, 0], query_valid=valid).a[:, keep]
    removed = _pair(kind, x[:, keep], y, x[:, 0], y[:, 0]).a
    np.testing.assert_allclose(masked, removed, atol=1e-6)


@pytest.mark.parametrize("bad", ["orthogonal", "nan", "zero weights"])
def test_unusable_weights_fall_back_to_uniform_and_say_so_per_pair(bad):
    x, y = tokens(4, 2, 4, 5), tokens(5, 2, 3, 5)
    valid = np.array([[True, True, False, True]] * 2)
    changes = {"query_valid": valid}
    kind, pooled = "cross_correlation", y[:, 0]
    if bad == "orthogonal":
        pooled = changed(pooled, 1, 0.0)
    elif bad == "nan":
        pooled = changed(pooled, 1, np.nan)
    else:
        kind, changes["query_weights"] = "rollout", np.array([[1] * 4, [0] * 4], "f")
    pair = _pair(kind, x, y, x[:, 0], pooled, **changes)
    np.testing.assert_array_equal(pair.fallback, [False, True])
    np.testing.assert_allclose(pair.a[1], [1 / 3, 1 / 3, 0, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(pair.a.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("kind", marginals.KINDS)
def test_no_valid_token_gives_zero_weights_and_is_flagged(kind):
    x, y = tokens(6, 1, 4, 5), tokens(7, 1, 3, 5)
    pair = _pair(kind, x, y, x[:, 0], y[:, 0], query_valid=np.zeros((1, 4), bool))
    np.testing.assert_array_equal(pair.a, np.zeros((1, 4)))
    assert np.asarray(pair.fallback).all() and np.isfinite(pair.b).all()


def test_gradients_are_finite_where_uniform_weights_step_in():
    x = tokens(8, 2, 4, 5)
    other = np.stack([x[0].mean(0), np.zeros(5, "f")])
    weight = np.arange(4, dtype="f")
    gradient = jax.grad(lambda x: (marginals.cross_correlation(x, other) * weight).sum())(x)
    assert np.isfinite(gradient).all() and np.abs(gradient[0]).max() > 0


def test_released_weights_sum_to_a_little_less_than_one():
    x, y = tokens(9, 2, 4, 5), tokens(10, 2, 3, 5)
    pair = _pair("cross_correlation", x, y, x[:, 0], y[:, 0], compat="released")
    raw = np.maximum(np.einsum("bnd,bd->bn", x, y[:, 0]), 0.0)
    np.testing.assert_allclose(pair.a, raw / (raw.sum(-1, keepdims=True) + 1e-5), atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("rolout", {}, "kind 'rolout' is unknown; known: 'uniform'"),
        ("uniform", {"compat": "x"}, "compat 'x'"),
    ],
)
def test_unknown_names_are_errors(kind, changes, words):
    x = tokens(11, 1, 4, 5)
    with pytest.raises(ValueError, match=words):
        _pair(kind, x, x, x[:, 0], x[:, 0], **changes)
