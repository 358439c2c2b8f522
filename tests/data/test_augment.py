import dataclasses

import numpy as np
import pytest
from PIL import Image

from vitjax.config.train_config import AugmentConfig
from vitjax.data import augment
from vitjax.data.augment import _KINDS, Augment, crop_box, erase, jitter, rand_augment
from vitjax.data.transforms import Preprocess
from vitjax.pretrained import HALF

RECIPE = Preprocess(24, 1.0, "bicubic", *HALF)
ALL = AugmentConfig(crop=0.3, flip=True, rand_augment=2, erase=0.5, shift=2)


def image(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


def test_equal_numbers_give_equal_pixels_and_others_differ():
    change = Augment(RECIPE, ALL)
    first, again, other = (change(image(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (24, 24, 3)
    assert first.dtype == np.uint8


def test_without_any_change_it_is_the_evaluations_view():
    found = Augment(RECIPE, AugmentConfig())(image(), np.random.default_rng(0))
    np.testing.assert_array_equal(found, RECIPE.view(image()))


def test_half_of_the_images_are_mirrored():
    change = Augment(RECIPE, AugmentConfig(flip=True))
    view = RECIPE.view(image())
    found = [change(image(), np.random.default_rng(seed)) for seed in range(60)]
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


def test_a_crop_sees_no_pixel_outside_its_box(monkeypatch):
    monkeypatch.setattr(augment, "crop_box", lambda *_: (5, 4, 36, 25))
    rng = np.random.default_rng(0)
    inside = rng.integers(0, 256, (21, 31, 3), dtype=np.uint8)
    found = []
    for colour in (0, 255):
        pixels = np.full((30, 40, 3), colour, np.uint8)
        pixels[4:25, 5:36] = inside
        found.append(Augment(RECIPE, AugmentConfig(crop=0.3))(Image.fromarray(pixels), rng))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(
        found[0], Image.fromarray(inside).resize((24, 24), Image.Resampling.BICUBIC)
    )


def test_a_image_no_crop_fits_into_gives_its_centre():
    assert crop_box((1000, 10), 1.0, np.random.default_rng(0)) == (493, 0, 506, 10)


@pytest.mark.parametrize("kind", range(len(_KINDS)))
@pytest.mark.parametrize("strength", [0.0, 0.9, 1.0])
def test_every_change_keeps_size_and_mode(kind, strength):
    for sign in (1, -1):
        found = _KINDS[kind](image(), strength, sign)
        assert (found.size, found.mode) == ((40, 30), "RGB")


def test_geometric_and_colour_changes_of_strength_0_change_nothing():
    for kind in (3, 7, 8, 9, 10, 11, 12, 13, 14):
        np.testing.assert_array_equal(np.asarray(_KINDS[kind](image(), 0.0, 1)), np.asarray(image()))


def test_about_a_quarter_of_images_stay_as_they_are_with_two_changes():
    rng = np.random.default_rng(0)
    same = sum(rand_augment(image(), 2, 9.0, rng).tobytes() == image().tobytes() for _ in range(200))
    assert 30 < same < 85


def test_jitter_of_strength_0_changes_nothing_and_more_changes_something():
    rng = np.random.default_rng(0)
    assert jitter(image(), 0.0, rng).tobytes() == image().tobytes()
    assert jitter(image(), 0.4, rng).tobytes() != image().tobytes()


def test_jitter_changes_brightness_by_up_to_its_strength_and_in_any_order(monkeypatch):
    seen = []

    class Enhance:
        def __init__(self, image: Image.Image, kind: int) -> None:
            self.image, self.kind = image, kind

        def enhance(self, factor: float) -> Image.Image:
            seen.append((self.kind, factor))
            return self.image

    monkeypatch.setattr(
        augment, "_JITTERED", [lambda image, kind=kind: Enhance(image, kind) for kind in range(3)]
    )
    rng = np.random.default_rng(0)
    for _ in range(200):
        jitter(image(), 0.4, rng)
    factors = np.array([factor for _, factor in seen])
    assert 0.6 <= factors.min() < 0.62 and 1.38 < factors.max() <= 1.4
    orders = {tuple(kind for kind, _ in seen[i : i + 3]) for i in range(0, 600, 3)}
    assert len(orders) == 6


def test_a_shifted_window_lies_up_to_the_border_on_every_side():
    change = Augment(RECIPE, AugmentConfig(shift=2))
    view = np.pad(RECIPE.view(image()) | 1, ((2, 2), (2, 2), (0, 0)))
    windows = {(top, left): view[top : top + 24, left : left + 24] for top in range(5) for left in range(5)}
    rng, seen = np.random.default_rng(0), set()
    for _ in range(250):
        found = change(image(), rng)
        black = (found == 0).all(axis=2)
        seen |= {
            place
            for place, window in windows.items()
            if np.array_equal(found | 1, window | 1) and black.any() == (window == 0).any()
        }
    assert seen == set(windows)


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
    plain = Augment(RECIPE, AugmentConfig())(image(), np.random.default_rng(0))
    for field, value in {"crop": 0.2, "shift": 3, "jitter": 0.5, "erase": 1.0}.items():
        change = Augment(RECIPE, dataclasses.replace(AugmentConfig(), **{field: value}))
        assert not np.array_equal(change(image(), np.random.default_rng(3)), plain), field
