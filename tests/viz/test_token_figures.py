"""Images of what became of each patch."""

import numpy as np

from vitjax.viz.token_figures import paint_owners, reduced_figure

PHOTO = np.random.default_rng(0).integers(0, 200, (32, 48, 3), dtype=np.uint8)


def test_kept_patches_stay_dropped_ones_pale_and_merged_ones_take_one_colour():
    owner = np.array([[0, 1, -1], [2, 2, 3]])
    painted = paint_owners(PHOTO, owner)
    np.testing.assert_array_equal(painted[:16, :32], PHOTO[:16, :32])
    np.testing.assert_array_equal(painted[16:, 32:], PHOTO[16:, 32:])
    assert painted[:16, 32:].min() >= 204
    inside = painted[18:, 1:31].reshape(-1, 3)
    assert np.ptp(inside, axis=0).max() == 0
    np.testing.assert_allclose(inside[0], PHOTO[16:, :32].reshape(-1, 3).mean(axis=0), atol=0.5)


def test_a_figure_has_the_photo_and_one_panel_per_stage():
    owners = [np.arange(6).reshape(2, 3), np.full((2, 3), -1)]
    one = reduced_figure(PHOTO, owners[:1], ["step 1"], side=60)
    two = reduced_figure(PHOTO, owners, ["step 1", "step 2"], side=60)
    assert two.width - one.width == 70
    last = np.asarray(two)[10:70, -70:-10]
    assert last.min() >= 204, "everything is dropped in the last panel"
