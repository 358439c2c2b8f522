import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from vitjax.errors import UserError
from vitjax.training import metric_losses
from vitjax.training.metric_losses import normalise

groups_loss = compiled(metric_losses.groups_loss)
margin_loss = compiled(metric_losses.margin_loss)
multi_similarity_loss = compiled(metric_losses.multi_similarity_loss)
proxy_anchor_loss = compiled(metric_losses.proxy_anchor_loss)
triplet_loss = compiled(metric_losses.triplet_loss)

LABELS = jnp.array([0, 0, 1, 1, 2, 2])


@functools.cache
def points(seed: int = 0, count: int = 6) -> np.ndarray:
    drawn = jax.jit(lambda key: normalise(jax.random.normal(key, (count, 5))))
    return np.asarray(drawn(jax.random.key(seed)))


def test_margin_loss_of_two_classes_of_two_by_hand(rng):
    angles = np.array([0.0, 0.6, 1.4, 2.0], "f")
    x = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    labels, beta = np.array([0, 0, 1, 1]), np.array([0.5, 0.7], "f")
    distance = np.sqrt(np.maximum(2 - 2 * np.asarray(x @ x.T, np.float64), 0))
    found = [float(margin_loss(key, x, labels, beta)) for key in jax.random.split(rng, 40)]
    possible = set()
    for choice in np.ndindex(2, 2, 2, 2):
        terms = []
        for anchor, pick in enumerate(choice):
            other = [2, 3] if anchor < 2 else [0, 1]
            bound = 0.5 if anchor < 2 else 0.7
            partner = anchor ^ 1
            terms += [0.2 + distance[anchor, partner] - bound, 0.2 - distance[anchor, other[pick]] + bound]
        positive = [t for t in terms if t > 0]
        possible.add(float(sum(positive) / max(len(positive), 1)))
    assert all(min(abs(value - one) for one in possible) < 1e-5 for value in found)
    assert len(set(found)) > 1


def test_margin_loss_measures_every_anchor_against_the_boundary_of_its_own_class(rng, monkeypatch):
    x, labels = np.asarray(points(3, 7), np.float64), np.array([0, 0, 0, 1, 1, 2, 2])
    beta = np.array([0.4, 0.9, 1.3])
    negative = np.array(
        [[4, 5, 6, 3, 4, 5, 6]] * 3 + [[0, 1, 2, 5, 6, 0, 5]] * 2 + [[3, 0, 4, 1, 2, 4, 3]] * 2
    )
    monkeypatch.setattr(metric_losses, "_draw_negatives", lambda *_: jnp.asarray(negative))
    terms = []
    for anchor in range(7):
        for other in range(7):
            if labels[anchor] == labels[other] and anchor != other:
                bound = beta[labels[anchor]]
                near = np.linalg.norm(x[anchor] - x[other])
                far = np.linalg.norm(x[anchor] - x[negative[anchor, other]])
                terms += [0.2 + near - bound, 0.2 - far + bound]
    positive = [term for term in terms if term > 0]
    assert 0 < len(positive) < len(terms)
    found = jax.jit(metric_losses.margin_loss)(rng, x.astype("f"), labels, beta.astype("f"))
    assert float(found) == pytest.approx(np.mean(positive), rel=1e-5)


def test_negatives_are_drawn_by_the_inverse_of_their_density():
    from vitjax.training.metric_losses import _draw_negatives

    distance = jnp.array([[0.0, 0.3, 0.8, 1.2, 1.5]] + [[0.0] * 5] * 4)
    other = jnp.array([[False, True, True, True, True]] + [[False] + [True] * 4] * 4)
    keys = jax.random.split(jax.random.key(0), 800)
    draw = jax.jit(jax.vmap(lambda key: _draw_negatives(key, distance, other, 4, 0.5, 1.4)))
    drawn = np.asarray(draw(keys))[:, 0].ravel()
    share = np.bincount(drawn, minlength=5) / drawn.size
    near = np.array([0.5, 0.8, 1.2])
    weight = 1 / (near**2 * np.sqrt(1 - near**2 / 4))
    np.testing.assert_allclose(share[1:4], weight / weight.sum(), atol=0.03)
    assert share[0] == share[4] == 0


@pytest.mark.parametrize("classes", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1], [2, 0, 0, 0, 2, 0]])
def test_multi_similarity_by_hand(classes):
    x = np.asarray(points(4))
    s, labels = x @ x.T, np.array(classes)
    total, easy = 0.0, 0
    for i in range(6):
        same = [j for j in range(6) if labels[j] == labels[i] and j != i]
        other = [j for j in range(6) if labels[j] != labels[i]]
        near = [j for j in same if s[i, j] - 0.1 < max(s[i, k] for k in other)]
        far = [j for j in other if s[i, j] + 0.1 > min(s[i, k] for k in same)]
        easy += len(same) - len(near) if near and far else 0
        if near and far:
            total += np.log(1 + sum(np.exp(-2 * (s[i, j] - 0.5)) for j in near)) / 2
            total += np.log(1 + sum(np.exp(50 * (s[i, j] - 0.5)) for j in far)) / 50
    found = multi_similarity_loss(points(4), labels)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)
    assert easy > 0 or max(np.bincount(classes)) == 2, "no positive is easy enough to be left out"


@pytest.mark.parametrize("classes", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1], [2, 0, 0, 0, 2, 0]])
def test_triplet_by_hand(classes):
    x, labels = np.asarray(points(), np.float64), np.array(classes)
    distance = np.sqrt(np.maximum(2 - 2 * x @ x.T, 0))
    far = [distance[i, labels == labels[i]].max() for i in range(6)]
    near = [distance[i, labels != labels[i]].min() for i in range(6)]
    gaps = 0.3 + np.array(far) - np.array(near)
    expected = np.maximum(gaps, 0).mean()
    assert float(triplet_loss(points(), labels, margin=0.3)) == pytest.approx(expected, rel=1e-5)


def test_groups_of_a_query_its_positive_and_negatives_by_hand():
    x = np.asarray(points(0, 8), np.float64).reshape(2, 4, -1)
    near = np.linalg.norm(x[:, :1] - x[:, 1:2], axis=-1)
    far = np.linalg.norm(x[:, :1] - x[:, 2:], axis=-1)
    expected = np.maximum(0.3 + near - far, 0).mean()
    assert expected > 0
    assert float(groups_loss(points(0, 8), group=4, margin=0.3)) == pytest.approx(expected, rel=1e-5)
    gradient = jax.jit(jax.grad(lambda x: groups_loss(x, group=4, margin=0.3)))
    assert np.isfinite(gradient(np.ones((8, 5), "f"))).all()


def test_proxy_anchor_by_hand():
    x, proxies = np.asarray(points()), np.asarray(points(1, 4)) * 3
    s, labels = x @ (proxies / 3).T, np.asarray(LABELS)
    pull = sum(np.log(1 + np.exp(-32 * (s[labels == c, c] - 0.1)).sum()) for c in range(3)) / 3
    push = sum(np.log(1 + np.exp(32 * (s[labels != c, c] + 0.1)).sum()) for c in range(4)) / 4
    found = float(proxy_anchor_loss(points(), LABELS, proxies))
    assert found == pytest.approx(pull + push, rel=1e-5)


@pytest.mark.parametrize("name", ["margin", "multi", "proxy"])
def test_descent_brings_classes_together_and_gradients_are_finite_also_for_equal_points(name, rng):
    beta, proxies = jnp.full(3, 0.9), jnp.asarray(points(1, 3))

    def loss(x):
        x = normalise(x)
        if name == "margin":
            return margin_loss(rng, x, LABELS, beta)
        return multi_similarity_loss(x, LABELS) if name == "multi" else proxy_anchor_loss(x, LABELS, proxies)

    gradient = jax.jit(jax.grad(loss))
    assert np.isfinite(gradient(np.ones((6, 5), "f"))).all()
    x = points()
    for _ in range(150):
        x = x - 0.1 * np.asarray(gradient(x))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = x @ x.T
    together = np.asarray(LABELS)[:, None] == np.asarray(LABELS)
    assert near[together].min() > near[~together].max()


def test_a_batch_of_one_class_costs_nothing_in_pairs(rng):
    labels = np.zeros(6, int)
    assert float(margin_loss(rng, points(), labels, jnp.ones(1))) == 0
    assert float(multi_similarity_loss(points(), labels)) == 0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "loss",
    [
        lambda x, value: margin_loss(jax.random.key(0), x, LABELS, np.ones(3, "f"), margin=value),
        lambda x, value: margin_loss(jax.random.key(0), x, LABELS, np.ones(3, "f"), cutoff=value),
        lambda x, value: margin_loss(jax.random.key(0), x, LABELS, np.ones(3, "f"), largest=value),
        lambda x, value: multi_similarity_loss(x, LABELS, alpha=value),
        lambda x, value: multi_similarity_loss(x, LABELS, beta=value),
        lambda x, value: proxy_anchor_loss(x, LABELS, points(1, 3), alpha=value),
        lambda x, value: proxy_anchor_loss(x, LABELS, points(1, 3), margin=value),
        lambda x, value: triplet_loss(x, LABELS, margin=value),
        lambda x, value: groups_loss(x, group=3, margin=value),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(loss, value):
    with pytest.raises(UserError, match=r"(margin|cutoff|largest|alpha|beta) is .*; it must be"):
        loss(points(), value)


def test_scales_of_zero_and_groups_that_do_not_fit_are_refused():
    for loss in (
        lambda: multi_similarity_loss(points(), LABELS, beta=0.0),
        lambda: multi_similarity_loss(points(), LABELS, base=1.5),
        lambda: proxy_anchor_loss(points(), LABELS, points(1, 3), alpha=0.0),
        lambda: margin_loss(jax.random.key(0), points(), LABELS, np.ones(3, "f"), cutoff=0.0),
        lambda: groups_loss(points(), group=2, margin=0.1),
        lambda: groups_loss(points(), group=4, margin=0.1),
    ):
        with pytest.raises(UserError, match=r"(is .*; it must be|no groups of 4)"):
            loss()


@pytest.mark.parametrize("name", ["margin", "multi", "proxy", "triplet", "groups"])
def test_second_derivatives_are_finite_also_for_equal_points_and_right_for_others(name, rng):
    def loss(x):
        x = normalise(x)
        return {
            "margin": lambda: margin_loss(rng, x, LABELS, jnp.full(3, 0.9)),
            "multi": lambda: multi_similarity_loss(x, LABELS),
            "proxy": lambda: proxy_anchor_loss(x, LABELS, jnp.asarray(points(1, 3))),
            "triplet": lambda: triplet_loss(x, LABELS, margin=0.3),
            "groups": lambda: groups_loss(x, group=3, margin=0.3),
        }[name]()

    along = np.random.default_rng(7).normal(size=(6, 5)).astype("f")
    curved = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (along,))[1])
    assert np.isfinite(curved(np.ones((6, 5), "f"))).all()
    assert np.isfinite(curved(np.zeros((6, 5), "f"))).all()
    x, step = points(3), 1e-3
    gradient = jax.jit(jax.grad(loss))
    ahead, behind = jax.device_get((gradient(x + step * along), gradient(x - step * along)))
    measured = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(curved(x), measured, atol=0.02 * np.abs(measured).max())
