"""The losses of tasks, each with stand-ins for models whose outputs are given."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.compiled import compiled
from vitjax.config.train_config import DistillConfig, MetricConfig
from vitjax.ot import structural_similarity
from vitjax.training import losses
from vitjax.training.batch import Batch, Pixels, Renormalise
from vitjax.training.losses import make_distill_loss, make_metric_loss
from vitjax.training.metric_losses import groups_loss, triplet_loss

CLASSES = np.array([0, 0, 1, 1, 2, 2])
SAME = Renormalise(*[Pixels((0.5,) * 3, (0.5,) * 3)] * 2)


def drawn(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def unit(x: jax.Array) -> np.ndarray:
    return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)


class Given:
    """A model whose output is what it was made with, once in training and once not."""

    def __init__(self, **output) -> None:
        self.output = types.SimpleNamespace(**{"logits": None, "pooled": None, "tokens": None} | output)

    def apply(self, variables, images, train=False, rngs=None, mutable=None):
        return (self.output, {}) if train else self.output


def rows(index: list[int]) -> Batch:
    return Batch(jnp.zeros((6, 2, 2, 3)), jnp.asarray(np.eye(3, dtype="f")[CLASSES]), jnp.array(index))


@pytest.mark.parametrize("negatives", [0, 1])
def test_distillation_weighs_its_parts_and_finds_each_images_vector(negatives):
    config = DistillConfig(weight=7.0, triplet=0.3, margin=0.4, negatives=negatives)
    loss = make_distill_loss(Given(pooled=drawn(0, 6, 4)), None, SAME, config)
    vectors, index = drawn(1, 9, 4), [8, 0, 3, 5, 1, 7]
    total, (_, metrics) = jax.jit(loss)({}, vectors, rows(index), jax.random.key(0))
    mine, theirs = (unit(x) for x in (drawn(0, 6, 4), np.asarray(vectors)[index]))
    gap = compiled(optax.losses.huber_loss)(mine, theirs).mean()
    if negatives:
        triplet = compiled(groups_loss)(mine, group=3, margin=0.4)
    else:
        triplet = compiled(triplet_loss)(mine, CLASSES, margin=0.4)
    assert float(metrics["distill"]) == pytest.approx(float(gap), rel=1e-5)
    assert float(metrics["triplet"]) == pytest.approx(float(triplet), rel=1e-5)
    assert float(total) == pytest.approx(7 * float(gap) + 0.3 * float(triplet), rel=1e-5)


def test_embeddings_are_the_classifiers_where_there_is_one():
    pooled, logits = drawn(0, 6, 4), drawn(1, 6, 3)
    for output, expected in ((Given(pooled=pooled), pooled), (Given(pooled=pooled, logits=logits), logits)):
        np.testing.assert_allclose(losses.embedding_of(output.output), unit(expected), rtol=1e-6)


def test_the_structural_term_pulls_the_farthest_of_a_class_and_pushes_the_nearest_of_another():
    config = MetricConfig(loss="multi_similarity", structural=0.5, margin=0.3, epsilon=0.2, iterations=20)
    pooled, tokens = drawn(2, 6, 4), drawn(3, 6, 5, 7)
    loss = make_metric_loss(Given(pooled=pooled, tokens=tokens), config)
    total, (_, metrics) = jax.jit(loss)({"params": {}}, None, rows([0] * 6), jax.random.key(0))
    cosine, classes = unit(pooled) @ unit(pooled).T, CLASSES
    local, even = unit(tokens), np.full((1, 5), 0.2, "f")
    score, gaps = compiled(structural_similarity), []
    for i in range(6):
        same = [j for j in range(6) if classes[j] == classes[i] and j != i]
        other = [j for j in range(6) if classes[j] != classes[i]]
        positive, negative = min(same, key=lambda j: cosine[i, j]), max(other, key=lambda j: cosine[i, j])
        near, far = (
            score(local[i : i + 1], local[j : j + 1], even, even, epsilon=0.2, iterations=20)[0]
            for j in (positive, negative)
        )
        gaps.append(max(0.0, 0.3 - near + far))
    assert sum(gap > 0 for gap in gaps) > 0
    assert float(metrics["structural"]) == pytest.approx(np.mean(gaps), rel=1e-4)
    assert float(total) == pytest.approx(float(metrics["metric"]) + 0.5 * np.mean(gaps), rel=1e-4)
