import numpy as np
import pytest

from vitjax.retrieval.explanation.correspondence import disparity_correspondence, homography_correspondence


def moved(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_a_image_and_itself_correspond_cell_by_cell():
    truth = homography_correspondence(np.eye(3), (2, 3))
    assert truth.cell.tolist() == list(range(6)) and truth.known.all()
    np.testing.assert_allclose(truth.position[:4], [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5]])


def test_a_move_by_one_cell_loses_the_last_column():
    truth = homography_correspondence(moved(1 / 3, 0), (2, 3))
    assert truth.cell.tolist() == [1, 2, -1, 4, 5, -1]
    assert truth.visible.tolist() == [True, True, False] * 2
    assert np.isnan(truth.position[[2, 5]]).all()


def test_nothing_is_visible_where_the_images_do_not_overlap():
    truth = homography_correspondence(moved(5, 0), (2, 3))
    assert not truth.visible.any() and truth.known.all() and (truth.cell == -1).all()


@pytest.mark.parametrize("scale", [1.0, -3.0])
def test_the_scale_of_a_homography_does_not_matter(scale):
    move = np.array([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.1], [0.3, 0.2, 1.0]])
    one, other = (homography_correspondence(h, (4, 4), (3, 5)) for h in (move, scale * move))
    assert one.visible.sum() > 8
    np.testing.assert_array_equal(one.cell, other.cell)


def test_a_mirrored_image_is_visible():
    assert homography_correspondence(np.diag([-1, 1, 1]) + moved(1, 0) - np.eye(3), (1, 3)).cell.tolist() == [
        2,
        1,
        0,
    ]


def test_what_lies_beyond_the_horizon_is_not_visible():
    # Seen from the middle, w = 1 - 1.5 x falls below 0 at x = 2 / 3; it would be projected back to the left.
    behind = np.array([[-0.2, 0, 0], [0, 0.1, 0], [-1.5, 0, 1.0]])
    truth = homography_correspondence(behind, (1, 10))
    x = (np.arange(10) + 0.5) / 10
    assert not truth.visible[x > 2 / 3].any()
    assert ((-0.2 * x / (1 - 1.5 * x) > 0) & (x > 2 / 3)).any()


def test_homographies_of_pixels_are_taken_through_both_placements():
    # A candidate of twice the size, squashed; of the query the model sees the middle 4 of 8 columns.
    twice = np.diag([2.0, 2.0, 1.0])
    middle, whole = np.array([[1 / 4, 0, -0.5], [0, 1 / 4, 0], [0, 0, 1]]), np.diag([1 / 16, 1 / 8, 1])
    truth = homography_correspondence(
        twice, (1, 2), (1, 8), query_placement=middle, candidate_placement=whole
    )
    np.testing.assert_allclose(truth.position, [[3.0, 0.5], [5.0, 0.5]])


def test_a_constant_disparity_is_a_move_to_the_left():
    truth = disparity_correspondence(np.full((4, 8), 2.0), (2, 4))
    assert truth.cell.tolist() == [-1, 0, 1, 2, -1, 4, 5, 6] and truth.known.all()
    np.testing.assert_allclose(truth.position[1], [0.5, 0.5])


def test_what_stands_behind_something_nearer_is_not_visible():
    # The near half, columns 8 to 15, moves by 4 and covers columns 4 to 11, of which 4 to 7 show the far one.
    disparity = np.repeat([[0.0] * 8 + [4.0] * 8], 2, axis=0)
    truth = disparity_correspondence(disparity, (1, 4))
    assert truth.cell.tolist() == [0, -1, 1, 2]


def test_patches_that_nobody_measured_are_not_known():
    disparity = np.zeros((2, 8))
    disparity[:, :3], disparity[:, 4] = np.nan, np.inf
    truth = disparity_correspondence(disparity, (1, 4))
    assert truth.known.tolist() == [False, True, True, True]
    assert truth.cell.tolist() == [-1, 1, 2, 3]


def test_disparities_are_taken_through_both_placements():
    # Both see the left 8 of 16 columns: one cell is 2 pixels.
    crop = np.diag([1 / 8, 1 / 2, 1.0])
    truth = disparity_correspondence(
        np.full((2, 16), 2.0), (1, 4), query_placement=crop, candidate_placement=crop
    )
    assert truth.cell.tolist() == [-1, 0, 1, 2]


def test_what_lies_behind_and_mapped_to_the_middle_is_not_visible():
    # All is mapped near the middle, but w = 1 - 1.25 y has another sign at the lowest centre, y = .875.
    fold = np.array([[0.01, -0.625, 0.5], [0, -0.615, 0.5], [0, -1.25, 1.0]])
    assert homography_correspondence(fold, (4, 1), (1, 1)).visible.tolist() == [True, True, True, False]
