import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from vitjax.training.mixup import blend, box, draw, mix, soft_labels

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "augment_timm.npz")


def test_smoothed_labels_are_shares_of_classes():
    found = soft_labels(jnp.array([2]), 4, 0.2)
    np.testing.assert_allclose(found, [[0.05, 0.05, 0.85, 0.05]], rtol=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_hold_the_share_of_pixels_that_each_image_has(mixup, cutmix):
    images = jnp.asarray(np.stack([np.zeros((12, 10, 3), "f"), np.ones((12, 10, 3), "f")]))
    labels = jnp.eye(2)
    shares = []
    change = jax.jit(lambda key: mix(key, images, labels, mixup=mixup, cutmix=cutmix))
    for key in jax.random.split(jax.random.key(0), 12):
        mixed, soft = jax.device_get(change(key))
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), soft[:, 1], atol=1e-5)
        np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
        shares.append(float(soft[0, 0]))
        if not mixup:
            assert set(np.unique(mixed)) <= {0.0, 1.0}
    assert np.std(shares) > 0.1


def test_without_either_nothing_changes(rng):
    images, labels = jnp.ones((2, 4, 4, 3)), jnp.eye(2)
    found = mix(rng, images, labels, mixup=0.0, cutmix=0.0)
    assert found[0] is images
    assert found[1] is labels


@pytest.mark.parametrize("number", range(8))
def test_pixels_and_labels_have_timms_partners_and_shares(number):
    images = GOLDEN["inputs/mix_images"]
    labels = compiled(soft_labels)(GOLDEN["inputs/mix_labels"], classes=4, smoothing=0.1)
    inside = np.zeros((9, 7), np.float32)
    top, bottom, left, right = GOLDEN["inputs/mix_boxes"][number]
    inside[top:bottom, left:right] = 1
    share = np.float32(GOLDEN["inputs/mix_shares"][number] if number < 4 else 1)
    mixed, soft = compiled(blend)(images, labels, share, inside)
    np.testing.assert_allclose(mixed, GOLDEN[f"mix/{number}/images"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(soft, GOLDEN[f"mix/{number}/labels"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", range(4, 8))
def test_a_cut_box_is_timms_for_the_same_centre(number):
    share = GOLDEN["inputs/mix_shares"][number]
    expected = np.zeros((9, 7))
    top, bottom, left, right = GOLDEN["inputs/mix_boxes"][number]
    expected[top:bottom, left:right] = 1
    half = [int(n * np.sqrt(1 - share)) // 2 for n in (9, 7)]
    centre = [
        jnp.int32(low + h if low else high - h)
        for (low, high), h in zip(((top, bottom), (left, right)), half, strict=True)
    ]
    np.testing.assert_array_equal(box(jnp.float32(share), centre, (9, 7)), expected)


def test_each_group_has_a_draw_of_its_own_and_is_mixed_within_itself():
    images = np.broadcast_to(np.arange(12, dtype="f")[:, None, None, None], (12, 6, 5, 3))
    labels, blended = np.eye(12, dtype="f"), compiled(mix)
    key = jax.random.key(1)
    mixed, soft = blended(key, images, labels, mixup=0.8, cutmix=1.0, group=4)
    kept = np.diagonal(soft).reshape(3, 4)
    assert len({float(row[0]) for row in kept}) == 3
    for group in range(3):
        rows = slice(4 * group, 4 * group + 4)
        share, other = kept[group], np.flip(np.arange(12)[rows])
        np.testing.assert_allclose(share, share[0], rtol=1e-6)
        np.testing.assert_allclose(soft[np.arange(12)[rows], other], 1 - share, rtol=1e-5, atol=1e-6)
        means = share * np.arange(12)[rows] + (1 - share) * other
        np.testing.assert_allclose(mixed[rows].mean(axis=(1, 2, 3)), means, rtol=1e-5)
    whole = blended(key, images, labels, mixup=0.8, cutmix=1.0, group=128)
    for ours, theirs in zip(whole, blended(key, images, labels, mixup=0.8, cutmix=1.0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_of_both_ways_each_comes_as_often_and_shares_follow_their_distributions():
    keys = jax.random.split(jax.random.key(0), 1500)
    drawn = jax.jit(jax.vmap(lambda key: draw(key, (16, 12), mixup=0.3, cutmix=2.0)))(keys)
    share, inside = jax.device_get(drawn)
    cut = (share == 1) & inside.any(axis=(1, 2))
    assert abs(cut.mean() - 0.5) < 0.05
    mixed = share[~inside.any(axis=(1, 2)) & (share < 1)]
    assert mixed.mean() == pytest.approx(0.5, abs=0.05)
    assert mixed.var() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.02)  # of Beta(a, a)
    rows, columns = inside[cut].any(axis=2), inside[cut].any(axis=1)
    assert rows[:, 0].mean() > 0.1 and rows[:, -1].mean() > 0.1  # centres lie anywhere
    assert columns[:, 0].mean() > 0.1 and columns[:, -1].mean() > 0.1
