import itertools

import numpy as np
import pytest
from PIL import Image

from vitjax.config.train_config import AugmentConfig
from vitjax.data.augment import Augment, composite
from vitjax.data.sources.base import FolderSource
from vitjax.data.sources.views import Views
from vitjax.data.transforms import Preprocess

RECIPE = Preprocess(32, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    root, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(chance.integers(0, 256, (40, 32, 3)).astype(np.uint8)).save(root / f"{name}.png")
    return Views(FolderSource(root), 3, Augment(RECIPE, AugmentConfig(crop=0.5)), seed=4)


def test_each_image_is_a_class_of_its_views_and_comes_first(views):
    assert views.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert views.class_names == ["a.png", "b.png", "c.png"] and len(set(views.names)) == len(views) == 9
    assert views.read(3).size == (32, 40) and views.read(4).size == (32, 32)


def test_views_differ_from_each_other_and_come_again_the_same(views):
    pixels = [np.asarray(views.read(i)) for i in (4, 5, 7)]
    assert all((x != y).mean() > 0.5 for x, y in itertools.pairwise(pixels))
    for i, there in zip((4, 5, 7), pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(views.read(i)), there)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_composite_holds_the_share_of_the_image_that_it_says(share):
    image, other = np.full((32, 32, 3), 250, np.uint8), np.zeros((32, 32, 3), np.uint8)
    found = composite(image, other, share, np.random.default_rng(0))
    assert (found.mean(axis=2) > 120).mean() == pytest.approx(share, abs=0.04)
