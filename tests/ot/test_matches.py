import functools

import jax
import numpy as np
import pytest

from tests.compiled import compiled
from tests.ot.problems import changed, problem, programs, tokens
from vitjax import ot

EAGER = {
    "partial": functools.partial(ot.partial_match, mass=0.6, iterations=500),
    "relaxed": functools.partial(ot.relaxed_match, tau_a=0.6, tau_b=0.8, iterations=200),
    "priced": functools.partial(ot.priced_match, price=0.6, iterations=1000),
    "chamfer": ot.chamfer_match,
    "mutual": ot.mutual_match,
}
MATCHES = {name: compiled(match) for name, match in EAGER.items()}
RELAXED = MATCHES["relaxed"]
every_match = pytest.mark.parametrize("match", MATCHES.values(), ids=MATCHES)


def pair(seed: int, *batch: int, n: int = 6, m: int = 5) -> tuple:
    x, y = tokens(seed, *batch, n, 8), tokens(seed + 1, *batch, m, 8)
    return x @ np.swapaxes(y, -1, -2), *problem(seed, *batch, n, m)[1:]


@every_match
def test_an_image_and_itself_score_one_and_no_pair_leaves_the_range(match):
    x = tokens(0, 6, 32)
    x = x - x.mean(0, keepdims=True)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    even = np.full(6, 1 / 6)
    most = 0.6 if match is MATCHES["partial"] else 1.0
    solver = {} if match in (MATCHES["chamfer"], MATCHES["mutual"]) else {"epsilon": 0.01}
    np.testing.assert_allclose(match(x @ x.T, even, even, **solver).score, most, atol=1e-3)
    similarity, a, b = pair(1, 50)
    assert (np.abs(match(similarity, a, b).score) <= most + 1e-5).all()


@every_match
def test_scores_do_not_depend_on_the_order_of_tokens_or_images(match):
    similarity, a, b = pair(2, 4)
    score = match(similarity, a, b).score
    rows, cols = [3, 1, 5, 0, 2, 4], [4, 0, 2, 1, 3]
    permuted = match(similarity[:, rows][:, :, cols], a[:, rows], b[:, cols]).score
    np.testing.assert_allclose(permuted, score, atol=1e-5)
    if match is not RELAXED:  # its two sides are relaxed differently
        np.testing.assert_allclose(match(np.swapaxes(similarity, -1, -2), b, a).score, score, atol=1e-5)


@every_match
def test_tokens_of_weight_zero_equal_removed_tokens(match):
    similarity, a, b = pair(3, 3)
    a, b = changed(a, np.s_[:, 0], 0.0), changed(b, np.s_[:, -1], 0.0)
    a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    similarity[:, 0] = similarity[:, :, -1] = 1.0
    removed = match(similarity[:, 1:, :-1], a[:, 1:], b[:, :-1]).score
    np.testing.assert_allclose(match(similarity, a, b).score, removed, atol=2e-6)


@every_match
def test_plans_explain_the_score(match):
    similarity, a, b = pair(4, 3)
    found = match(similarity, a, b)
    gain = 1.0 if match is MATCHES["mutual"] else similarity
    left = 0.4 * (1 - found.transport.mass) if match is MATCHES["priced"] else 0.0
    np.testing.assert_allclose((found.transport.plan * gain).sum((-2, -1)) + left, found.score, atol=1e-6)
    np.testing.assert_allclose(found.transport.plan.sum((-2, -1)), found.transport.mass, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("match", EAGER.values(), ids=EAGER)
def test_a_pair_is_scored_for_itself_and_jit_equals_eager(match):
    similarity, a, b = pair(5, 7)
    whole, jitted = match(similarity, a, b).score, jax.jit(match)(similarity, a, b).score
    np.testing.assert_allclose(jitted, whole, atol=1e-6)
    for i in (0, 6):
        np.testing.assert_allclose(match(similarity[i], a[i], b[i]).score, whole[i], atol=1e-6)


@pytest.mark.slow
@every_match
def test_gradients_are_finite(match):
    similarity, a, b = pair(6, 2)
    a[0, 0] = 0.0
    gradients = jax.grad(lambda *x: match(*x).score.sum(), argnums=(0, 1, 2))(similarity, a, b)
    assert all(np.isfinite(g).all() for g in gradients)
    assert match is MATCHES["mutual"] or (np.abs(gradients[0]) > 0).any()


def test_a_pair_that_matches_nothing_scores_what_a_match_at_the_price_would():
    similarity, a, b = pair(12, 3)
    found = programs.priced_match(similarity - 1.0, a, b, price=0.2, epsilon=0.02, iterations=500)
    np.testing.assert_allclose(found.transport.mass, 0.0, atol=1e-4)
    np.testing.assert_allclose(found.score, 0.8, atol=1e-3)


def test_the_mass_of_mutual_neighbours_is_moved():
    similarity = (np.eye(5)[None] * 0.9 + 0.05).astype("f")
    similarity[0, 4], similarity[0, 3, 3] = 0.1, 0.5  # 0, 1, 2 match well, 3 not so well, 4 nothing
    fifth = np.full((1, 5), 0.2)
    match = jax.jit(lambda x, price: programs.mutual_mass_match(x, fifth, fifth, price=price, iterations=500))
    for price, mass in ((0.6, 0.8), (0.5, 0.8), (0.3, 0.6), (0.01, 0.1)):  # 3 costs 0.5, just the price
        found = jax.device_get(match(similarity, price))
        np.testing.assert_allclose(found.transport.mass, mass, atol=1e-4)
        explained = (found.transport.plan * similarity).sum((1, 2)) + (1 - price) * (1 - found.transport.mass)
        np.testing.assert_allclose(found.score, explained, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: match(x, 0.6).score[0]))(similarity)
    assert np.isfinite(gradient).all() and (np.abs(gradient) > 0).any()


def test_relaxed_scores_equal_the_mean_similarity_under_the_relaxed_plan():
    similarity, a, b = pair(7, 3)
    plan = programs.relaxed_sinkhorn(
        1 - similarity, a, b, tau_a=0.6, tau_b=0.8, epsilon=0.05, iterations=200
    ).plan
    wanted = (plan * similarity).sum((-2, -1)) / plan.sum((-2, -1))
    np.testing.assert_allclose(RELAXED(similarity, a, b).score, wanted, atol=1e-6)


def test_a_constant_added_to_all_similarities_is_added_to_the_relaxed_score():
    similarity, a, b = pair(8, 3)
    moved = RELAXED(similarity - 0.7, a, b)
    np.testing.assert_allclose(moved.score, RELAXED(similarity, a, b).score - 0.7, atol=2e-6)


def test_relaxed_scores_of_unlike_images_do_not_vanish_in_small_numbers():
    # Costs near 2 at this epsilon: the plan's own mass would be exp(-200).
    similarity, a, b = pair(9, 2)
    found = programs.relaxed_match(
        similarity - 1.0, a, b, tau_a=0.5, tau_b=0.5, epsilon=0.005, iterations=200
    )
    np.testing.assert_allclose(found.transport.mass, 1.0, atol=1e-5)
    assert (found.score > -1.5).all()


def test_a_token_of_weight_zero_does_not_say_what_the_largest_similarity_is():
    similarity, a, b = pair(9, 2)
    similarity, a = changed(similarity - 1.0, np.s_[:, 0], 1.0), changed(a, np.s_[:, 0], 0.0)
    found = programs.relaxed_match(similarity, a, b, tau_a=0.5, tau_b=0.5, epsilon=0.005, iterations=200)
    np.testing.assert_allclose(found.transport.mass, 1.0, atol=1e-5)
    assert (similarity[:, 1:].min((1, 2)) <= found.score).all()
    assert (found.score <= similarity[:, 1:].max((1, 2)) + 1e-5).all()


def test_tau_of_one_is_balanced_and_one_free_side_is_half_a_chamfer():
    similarity, a, b = pair(10, 3)
    balanced = programs.partial_match(similarity, a, b, iterations=500).score
    relaxed = programs.relaxed_match(similarity, a, b, tau_a=1.0, tau_b=1.0, iterations=500).score
    np.testing.assert_allclose(relaxed, balanced, atol=1e-5)
    half = programs.relaxed_match(similarity, a, b, tau_a=1.0, tau_b=0.0, epsilon=1e-3, iterations=50).score
    np.testing.assert_allclose(half, (a * similarity.max(-1)).sum(-1), atol=3e-3)


def test_a_pair_without_tokens_scores_nothing():
    similarity, a, b = pair(11, 2)
    found = RELAXED(similarity, changed(a, 0, 0.0), b)
    assert found.score[0] == 0 and found.transport.mass[0] == 0
    assert np.isfinite(found.score[1])
