"""Two cities with one street each; a model that reads where a photo was taken from its colour."""

import functools
import types

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from vitjax import sharding
from vitjax.config.train_config import MetricConfig
from vitjax.data.eval_loader import batches
from vitjax.data.images import ImageError
from vitjax.data.sources.geo import Places
from vitjax.training import evaluation
from vitjax.training.evaluation import PlaceSearch, make_embed


class Street:
    """Photos so many metres apart in each of two cities; those in `bad` cannot be read."""

    def __init__(self, count: int, apart: float, colour: int, bad: tuple[int, ...] = ()) -> None:
        self.names = [f"{colour}-{i}" for i in range(2 * count)]
        self.labels = np.repeat(np.arange(2, dtype=np.int32), count)
        self.class_names = ["here", "there"]
        self.places = np.stack([np.tile(np.arange(count) * apart, 2), np.zeros(2 * count)], axis=1)
        self.colour, self.bad = colour, bad

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        if i in self.bad:
            raise ImageError(f"{self.names[i]!r} cannot be decoded; replace it.")
        return Image.new("RGB", (2, 2), (int(self.places[i, 0] / 5), self.colour, 0))


class Model:
    """Embeds a photo by its place, a query by the place so many metres further on."""

    def apply(self, metres, images):
        place = 5 * images[:, 0, 0, 0] + metres * (images[:, 0, 0, 1] > 0)
        turn = place / 400
        return types.SimpleNamespace(logits=None, pooled=jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1))


@functools.cache
def embed():
    mesh = sharding.make_mesh()
    return make_embed(Model(), mesh, NamedSharding(mesh, PartitionSpec()))


def recall(metres: float, bad: tuple[int, ...] = (), stopped=lambda: False):
    photos, mesh = Places(Street(4, 40.0, 255), Street(40, 5.0, 0, bad)), sharding.make_mesh()
    loader = batches(photos, lambda image: np.asarray(image, np.float32), 16)
    return PlaceSearch(loader, photos, mesh, embed())(jnp.float32(metres), stopped)


@pytest.mark.parametrize(("metres", "first", "fifth"), [(0, 1, 1), (25, 1, 1), (30, 0, 1), (60, 0, 0)])
def test_recall_counts_photos_of_the_same_city_at_most_25_metres_away(metres, first, fifth):
    found = recall(metres)
    assert list(found) == ["recall_at_1", "recall_at_5", "recall_at_10"]
    assert (found["recall_at_1"], found["recall_at_5"]) == (first, fifth)


def test_photos_that_cannot_be_read_are_not_found():
    assert recall(0, bad=(0,))["recall_at_1"] == 1  # the next, 5 m on, is as good
    assert recall(26, bad=(5,))["recall_at_1"] == 7 / 8  # the next is 30 m away


def test_embeddings_that_are_searched_are_the_classifiers_where_there_is_one(monkeypatch):
    monkeypatch.setattr(evaluation, "make_describe", lambda forward, mesh: forward)

    class Output(types.SimpleNamespace):
        def replace(self, **fields):
            return Output(**vars(self) | fields)

    loader = batches(Street(1, 1.0, 0), lambda image: np.asarray(image, np.float32), 2)
    for logits, expected in (("logits", "logits"), (None, "pooled")):
        model = types.SimpleNamespace(apply=lambda *_, logits=logits: Output(logits=logits, pooled="pooled"))
        made = evaluation.Retrieval.make(
            model, loader, np.zeros(2), sharding.make_mesh(), MetricConfig(rerank=7, epsilon=0.2)
        )
        assert made.describe({}, jnp.zeros(1)).pooled == expected
        assert (made.rule.top_k, made.rule.epsilon) == (7, 0.2)


def test_only_photos_that_can_be_read_are_embedded():
    photos, mesh = Street(10, 5.0, 0, bad=(3, 17)), sharding.make_mesh()
    loader = batches(photos, lambda image: np.asarray(image, np.float32), 16)
    vectors, rows = evaluation.embed_images(embed(), jnp.float32(0), loader, mesh, lambda: False)
    assert rows.tolist() == [i for i in range(20) if i not in (3, 17)]
    turn = photos.places[rows, 0] / 400
    np.testing.assert_allclose(vectors, np.stack([np.cos(turn), np.sin(turn)], axis=1), atol=1e-5)


def test_a_run_told_to_stop_measures_nothing():
    assert recall(0, stopped=lambda: True) is None


class Reader:
    """Reads the class of a photo from its colour."""

    def apply(self, variables, images):
        return types.SimpleNamespace(logits=-jnp.abs(images[:, 0, 0, :1] - jnp.arange(3.0)[None]))


class Colours:
    """Photos of classes 0, 1 and 3, none of 2; their colour says which class a model takes them for."""

    labels = np.array([0] * 5 + [1] * 2 + [3], np.int32)
    colours = (0, 0, 0, 0, 1, 1, 0, 2)
    class_names = ("a", "b", "c", "d")
    names = tuple(map(str, range(8)))

    def __len__(self) -> int:
        return 8

    def read(self, i: int) -> Image.Image:
        return Image.new("RGB", (2, 2), (self.colours[i], 0, 0))


def test_accuracy_counts_images_and_mean_class_accuracy_the_classes_that_occur():
    photos, mesh = Colours(), sharding.make_mesh()
    loader = batches(photos, lambda image: np.asarray(image, np.float32), 6)
    placed = {"params": NamedSharding(mesh, PartitionSpec())}
    judge = evaluation.Classification.make(Reader(), loader, photos.labels, placed)
    found = judge({"params": jnp.float32(0)}, lambda: False)
    assert found == {
        "accuracy": pytest.approx(5 / 8),
        "mean_class_accuracy": pytest.approx((4 / 5 + 1 / 2 + 0) / 3),
    }
