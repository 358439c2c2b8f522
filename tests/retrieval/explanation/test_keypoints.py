import numpy as np
import pytest

from vitjax.retrieval import part_transfer
from vitjax.retrieval.explanation.faithfulness import same_cell_plan

GRID = (4, 4)
# Parts of a bird at cell centres of a 100 pixel image; in the other it has moved by a cell to the right.
BIRD = np.array([[12.5, 12.5], [37.5, 37.5], [62.5, 87.5]])
RIGHT = np.array([[1.0, 0.0]])
MOVED = BIRD + 25 * RIGHT
ALL = np.ones(3, bool)
PIXELS = np.diag([0.01, 0.01, 1])
BOX = (50.0, 40.0)


def transfer(plan, query=BIRD, candidate=MOVED, marked=ALL, **options):
    where = {"query_grid": GRID, "query_placement": PIXELS, "candidate_placement": PIXELS}
    return part_transfer(plan, query, candidate, marked, BOX, **(where | options))


def shift(cells: int) -> np.ndarray:
    """Every patch goes so many cells to the right."""
    plan = np.zeros((16, 16))
    for i in range(16):
        if i % 4 + cells < 4:
            plan[i, i + cells] = 1
    return plan


def test_a_plan_that_moves_as_the_bird_did_carries_every_part():
    found = transfer(shift(1))
    assert found.parts == 3
    assert found.hits.tolist() == found.ceiling.tolist() == [3, 3, 3]


def test_the_same_cell_is_a_cell_off():
    found = transfer(same_cell_plan(GRID), alphas=(0.49, 0.51, 0.6))  # 25 pixels are half of the box
    assert found.hits.tolist() == [0, 3, 3]


def test_a_uniform_plan_hits_by_the_share_of_the_cells_that_are_near():
    found = transfer(np.full((16, 16), 1 / 256), alphas=(0.1, 0.51))
    # Only the own cell within 5 pixels; within 25 also its neighbours: 3 at the upper edge, 4 in the middle,
    # 2 in the corner.
    np.testing.assert_allclose(found.hits, [3 / 16, (4 + 5 + 3) / 16])


def test_the_size_of_the_cells_is_the_ceiling():
    off = MOVED + 10 * RIGHT  # still in its cell, 10 pixels from its centre
    found = transfer(shift(1), candidate=off, alphas=(0.1, 0.2))
    assert found.hits.tolist() == found.ceiling.tolist() == [0, 3]


def test_parts_that_are_hidden_or_that_the_model_does_not_see_are_not_asked():
    assert transfer(shift(1), marked=np.array([True, False, True])).parts == 2
    cropped = np.array([[1 / 75, 0, -1 / 3], [0, 0.01, 0], [0, 0, 1]])  # the left quarter is cut away
    found = transfer(shift(1), query_placement=cropped, marked=ALL)
    assert found.parts == 2
    outside = transfer(shift(1), candidate=MOVED + 50 * RIGHT)
    assert outside.parts == 1


def test_a_patch_that_moves_nothing_misses():
    assert transfer(np.zeros((16, 16))).hits.tolist() == [0, 0, 0]


def test_a_squashed_image_is_measured_in_its_own_pixels():
    wide = np.diag([0.005, 0.01, 1])  # 200 x 100 pixels: a cell is 50 wide
    found = transfer(
        same_cell_plan(GRID), candidate=BIRD * [2, 1] + [20, 0], candidate_placement=wide, alphas=(0.39, 0.4)
    )
    assert found.hits.tolist() == [0, 3]


def test_grids_may_differ():
    fine = same_cell_plan(GRID, (8, 8))
    found = transfer(fine, candidate=BIRD, candidate_grid=(8, 8), alphas=(0.2,))
    assert found.parts == 3 and found.hits.tolist() == [3]


@pytest.mark.parametrize("plan", [np.ones((4, 16)), np.full((16, 16), np.nan), -np.ones((16, 16))])
def test_plans_that_cannot_be_judged_are_refused(plan):
    with pytest.raises(ValueError, match="part_transfer: the plan"):
        transfer(plan)
