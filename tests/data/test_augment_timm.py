"""Augmentation against timm's (tests/fixtures_scripts/make_timm_augment.py), the same numbers being drawn."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from vitjax.data import augment
from vitjax.data.augment import _KINDS, crop_box, erase, rand_augment

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "augment_timm.npz")
CASES = [key for key in GOLDEN.files if key.startswith("operations/")]
NAMES = list(dict.fromkeys(key.split("/")[1] for key in CASES))


class Drawn(np.random.Generator):
    """Gives the values of (value, least, most), and checks the bounds it is asked for."""

    def __init__(self, *rows) -> None:
        super().__init__(np.random.PCG64(0))
        self.rows = list(rows)

    def uniform(self, low: float, high: float) -> float:
        value, *bounds = self.rows.pop(0)
        np.testing.assert_allclose((low, high), bounds, rtol=1e-12)
        return value

    def integers(self, low: int, high: int) -> int:
        value, *bounds = self.rows.pop(0)
        assert [low, high - 1] == bounds
        return int(value)

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, 0.1)


@pytest.mark.parametrize("kind", range(len(NAMES)), ids=NAMES)
def test_every_change_of_rand_augment_gives_timms_pixels_at_every_strength(kind):
    image = Image.fromarray(GOLDEN["inputs/picture"])
    cases = [key for key in CASES if key.split("/")[1] == NAMES[kind]]
    assert len(NAMES) == len(_KINDS) and len(cases) >= 6
    for key in cases:
        magnitude, sign = (float(x) for x in key.split("/")[2:])
        found = np.asarray(_KINDS[kind](image, magnitude / 10, int(sign)), np.int16)
        gap = np.abs(found - GOLDEN[key])
        assert gap.max() <= 1 and (gap > 0).mean() < 0.01, key  # another Pillow may round otherwise


def test_a_change_has_one_strength_about_the_magnitude_and_a_fair_sign(monkeypatch):
    seen = []
    monkeypatch.setattr(
        augment, "_KINDS", (lambda image, strength, sign: seen.append((strength, sign)) or image,)
    )
    rng, source = np.random.default_rng(0), Image.new("RGB", (2, 2))
    for _ in range(600):
        rand_augment(source, 2, 9.0, rng)
    strengths, signs = np.array(seen).T
    assert 540 < len(seen) < 660
    assert strengths.mean() == pytest.approx(0.9, abs=0.01)
    assert strengths.max() <= 1 and strengths[strengths < 1].std() == pytest.approx(0.05, abs=0.01)
    assert abs(signs.mean()) < 0.1


def test_boxes_of_random_erasing_are_timms():
    white = np.full((31, 23, 3), 255, np.uint8)
    assert len(GOLDEN["inputs/erase"]) > 30
    for draws, (top, left, bottom, right) in zip(GOLDEN["inputs/erase"], GOLDEN["erase/boxes"], strict=True):
        found = erase(white, (0.5, 0.2, 0.4), (0.1, 0.3, 0.2), Drawn(*draws))
        expected = white.copy()
        expected[top:bottom, left:right] = np.rint(255 * np.array([0.51, 0.23, 0.42]))
        np.testing.assert_array_equal(found, expected)


def test_boxes_of_random_crops_are_timms():
    assert len(GOLDEN["inputs/crop"]) > 30
    for draws, box in zip(GOLDEN["inputs/crop"], GOLDEN["crop/boxes"], strict=True):
        area, ratio, top, left = draws
        assert crop_box((40, 33), 0.08, Drawn(area, ratio, left, top)) == tuple(box)
