import dataclasses

import numpy as np
import pytest
from PIL import Image

from vitjax.data.augment import _KINDS, Augment, crop_box, erase, jitter, rand_augment
from vitjax.data.transforms import HALF, Preprocess
from vitjax.training.config import AugmentConfig

RECIPE = Preprocess(24, 1.0, "bicubic", *HALF)
ALL = AugmentConfig(crop=0.3, flip=True, rand_augment=2, erase=0.5, shift=2)


def picture(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


def test_equal_numbers_give_equal_pixels_and_others_differ():
    change = Augment(RECIPE, ALL)
    first, again, other = (change(picture(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (24, 24, 3)
    assert first.dtype == np.uint8


def test_without_any_change_it_is_the_evaluations_view():
    found = Augment(RECIPE, AugmentConfig())(picture(), np.random.default_rng(0))
    np.testing.assert_array_equal(found, RECIPE.view(picture()))


def test_half_of_the_pictures_are_mirrored():
    change = Augment(RECIPE, AugmentConfig(flip=True))
    view = RECIPE.view(picture())
    found = [change(picture(), np.random.default_rng(seed)) for seed in range(60)]
    mirrored = sum(np.array_equal(x, view[:, ::-1]) for x in found)
    assert 15 < mirrored < 45
    assert mirrored + sum(np.array_equal(x, view) for x in found) == 60


def test_crops_lie_inside_with_areas_and_ratios_as_asked():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box((500, 375), 0.2, rng) for _ in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 500).all()
    assert (boxes[:, 3] <= 375).all()
    share, ratio = width * height / (500 * 375), width / height
    assert 0.19 < share.min() < 0.3
    assert 0.85 < share.max() <= 1
    assert 0.74 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.35


def test_a_picture_no_crop_fits_into_gives_its_centre():
    assert crop_box((1000, 10), 1.0, np.random.default_rng(0)) == (493, 0, 506, 10)


@pytest.mark.parametrize("kind", range(len(_KINDS)))
@pytest.mark.parametrize("strength", [0.0, 0.9, 1.0])
def test_every_change_keeps_size_and_mode(kind, strength):
    for sign in (1, -1):
        found = _KINDS[kind](picture(), strength, sign)
        assert (found.size, found.mode) == ((40, 30), "RGB")


def test_geometric_and_colour_changes_of_strength_0_change_nothing():
    for kind in (3, 7, 8, 9, 10, 11, 12, 13, 14):
        np.testing.assert_array_equal(np.asarray(_KINDS[kind](picture(), 0.0, 1)), np.asarray(picture()))


def test_about_a_quarter_of_pictures_stay_as_they_are_with_two_changes():
    rng = np.random.default_rng(0)
    same = sum(rand_augment(picture(), 2, 9.0, rng).tobytes() == picture().tobytes() for _ in range(200))
    assert 30 < same < 85


def test_jitter_of_strength_0_changes_nothing_and_more_changes_something():
    rng = np.random.default_rng(0)
    assert jitter(picture(), 0.0, rng).tobytes() == picture().tobytes()
    assert jitter(picture(), 0.4, rng).tobytes() != picture().tobytes()


def test_erasing_fills_one_box_with_noise_of_the_models_mean():
    black = np.zeros((60, 60, 3), np.uint8)
    rng = np.random.default_rng(0)
    found = [erase(black, (0.5,) * 3, (0.1,) * 3, rng) for _ in range(50)]
    assert not black.any()
    for pixels in found:
        rows, columns = (np.flatnonzero(pixels.any(axis=(a, 2))) for a in (1, 0))
        box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.min() > 0
        assert 0.01 < box.shape[0] * box.shape[1] / 3600 < 0.36
    assert np.mean([x[x > 0].mean() for x in found]) == pytest.approx(127.5, abs=2)


def test_each_choice_does_something():
    plain = Augment(RECIPE, AugmentConfig())(picture(), np.random.default_rng(0))
    for field, value in {"crop": 0.2, "shift": 3, "jitter": 0.5, "erase": 1.0}.items():
        change = Augment(RECIPE, dataclasses.replace(AugmentConfig(), **{field: value}))
        assert not np.array_equal(change(picture(), np.random.default_rng(3)), plain), field
