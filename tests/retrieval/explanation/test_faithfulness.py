import dataclasses

import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors
from vitjax.config import RerankConfig
from vitjax.retrieval import Descriptors
from vitjax.retrieval.explanation.correspondence import Correspondence, homography_correspondence
from vitjax.retrieval.explanation.faithfulness import (
    additivity_error,
    deletion,
    match_accuracy,
    same_cell_plan,
    true_plan,
)

STEP = np.array([[1, 0, 1 / 3], [0, 1, 0], [0, 0, 1]])  # one of three cells to the right


def test_the_true_plan_of_a_image_and_itself_is_the_same_cell_and_perfect():
    truth = homography_correspondence(np.eye(3), (3, 4))
    np.testing.assert_allclose(true_plan(truth), same_cell_plan((3, 4)))
    found = match_accuracy(true_plan(truth), truth)
    assert found[:4] == (1, 1, 1, 1) and found.visible == 1
    np.testing.assert_allclose(found.error, 0, atol=1e-12)
    assert np.isnan(found.auroc)  # nothing is hidden, so there is nothing to tell apart


def test_numbers_of_a_plan_by_hand_where_everything_moved_by_one_cell():
    truth = homography_correspondence(STEP, (1, 3))  # 0 -> 1, 1 -> 2, 2 is out of sight
    plan = np.array([[0.1, 0.3, 0.0], [0.2, 0.1, 0.0], [0.1, 0.0, 0.2]])
    found = match_accuracy(plan, truth)
    assert found.hit_0 == 0.5  # 0 hits; 1 goes to 0, two cells off
    assert found.hit_1 == 0.5
    np.testing.assert_allclose(found.mass_0, 0.3)  # of 1.0, the hidden patch's .3 is wrong in any case
    np.testing.assert_allclose(found.mass_1, 0.1 + 0.3 + 0.1)
    np.testing.assert_allclose(found.error, (0.1 * 1 + 0.2 * 2 + 0.1 * 1) / 0.7)
    assert found.auroc == 0.75  # .4 and .3 against .3: one pair right, one tied
    assert found.visible == pytest.approx(2 / 3)


def test_the_same_cell_is_one_cell_off_where_everything_moved_by_one():
    truth = homography_correspondence(STEP, (3, 3))
    found = match_accuracy(same_cell_plan((3, 3)), truth)
    assert (found.hit_0, found.hit_1, found.mass_0) == (0, 1, 0)
    np.testing.assert_allclose([found.mass_1, found.error, found.auroc], [2 / 3, 1, 0.5])


def test_a_uniform_plan_is_as_good_as_chance():
    truth = homography_correspondence(np.eye(3), (3, 3))
    found = match_accuracy(np.full((9, 9), 1 / 81), truth)
    np.testing.assert_allclose([found.hit_0, found.mass_0], 1 / 9)
    within = (4 * 4 + 4 * 6 + 9) / 9 / 9  # corners have 4 cells within 1, edges 6, the middle 9
    np.testing.assert_allclose([found.hit_1, found.mass_1], within)


def test_the_ceiling_pays_for_the_size_of_its_cells_only():
    truth = homography_correspondence(np.array([[1, 0, 0.1], [0, 1, 0], [0, 0, 1]]), (1, 2))
    found = match_accuracy(true_plan(truth), truth)
    assert found[:4] == (1, 1, 1, 1)
    np.testing.assert_allclose(found.error, 0.2)  # a tenth of the image is a fifth of a cell
    hidden = homography_correspondence(STEP, (1, 3))
    assert match_accuracy(true_plan(hidden), hidden).auroc == 1


def test_where_nothing_is_visible_all_mass_is_wrong():
    truth = homography_correspondence(np.array([[1, 0, 9], [0, 1, 0], [0, 0, 1]]), (2, 2))
    found = match_accuracy(same_cell_plan((2, 2)), truth)
    assert found.visible == found.mass_0 == found.mass_1 == 0
    assert np.isnan([found.hit_0, found.hit_1, found.error, found.auroc]).all()
    assert not true_plan(truth).any()


def test_an_empty_plan_misses_everything_and_has_no_error():
    found = match_accuracy(np.zeros((4, 4)), homography_correspondence(np.eye(3), (2, 2)))
    assert found.hit_0 == found.hit_1 == 0
    assert np.isnan([found.mass_0, found.error]).all()


def test_patches_that_nobody_measured_do_not_count():
    truth = homography_correspondence(np.eye(3), (1, 3))
    known = np.array([True, True, False])
    partly = Correspondence(truth.position, truth.visible & known, known, truth.grid)
    plan = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0]]) / 3
    found = match_accuracy(plan, partly)
    assert (found.hit_0, found.mass_0, found.visible) == (0.5, 0.5, 1)


def test_rounding_of_a_solver_is_no_opinion_about_visibility():
    truth = homography_correspondence(STEP, (1, 3))
    plan = np.diag([1.00001, 1.00001, 1.0])
    assert match_accuracy(plan, truth).auroc == 0.5
    assert match_accuracy(plan, truth, resolution=1e-6).auroc == 1


def test_candidates_may_have_another_grid():
    truth = homography_correspondence(np.eye(3), (2, 2), (4, 4))
    plan = same_cell_plan((2, 2), (4, 4))
    assert plan.shape == (4, 16) and match_accuracy(plan, truth).hit_0 == 1


@pytest.mark.parametrize("plan", [np.ones((2, 3)), np.full((4, 4), np.nan), -np.ones((4, 4))])
def test_plans_that_cannot_be_judged_are_refused(plan):
    with pytest.raises(ValueError, match="match_accuracy: the plan"):
        match_accuracy(plan, homography_correspondence(np.eye(3), (2, 2)))


def test_parts_that_do_not_add_up_are_told():
    assert additivity_error(np.array([[0.5, 0.25]]), 0.75) == 0
    assert additivity_error(np.array([[0.5, 0.25]]), 1.0, unmatched=0.5) == 0.25


def image_and_part(shown: int = 4) -> tuple[Descriptors, Descriptors]:
    """A query of 9 tokens, and a candidate that shows the first few of them among others."""
    query, other = random_descriptors(1, d=64, seed=1), random_descriptors(1, d=64, seed=2)
    tokens = other.tokens.copy()
    tokens[0, -shown:] = query.tokens[0, :shown]
    return query, dataclasses.replace(other, tokens=tokens)


@pytest.mark.parametrize("changes", [{"tau": 0.5, "marginals": "rollout"}, {"method": "mutual"}])
def test_a_score_hangs_on_the_patches_that_match(changes):
    query, candidate = image_and_part()
    importance = np.array([np.arange(9) < 4, np.arange(9) >= 4], float)
    config = RerankConfig(epsilon=0.02, **changes)
    found = deletion(query, candidate, importance, config=config, shares=(0.25, 0.45), draws=16)
    assert found.chosen.shape == (2, 2) and found.random.shape == (2,)
    true, false = found.gain
    # Taking away what does not match gains something at most; relaxed transport had left it out anyway.
    assert true > 0.03 and false < 0


def best_matches(query: Descriptors, candidate: Descriptors, left: slice) -> float:
    """Chamfer score of a part of the query by hand."""
    similarity = query.tokens[0, left] @ candidate.tokens[0].T
    return (similarity.max(axis=1).mean() + similarity.max(axis=0).mean()) / 2


def test_a_deleted_patch_is_a_patch_that_never_was():
    query, candidate = image_and_part()
    importance = -np.arange(9.0)[None, :]  # the first goes first
    config = RerankConfig(method="chamfer")
    found = deletion(query, candidate, importance, config=config, shares=(1 / 9, 3 / 9), draws=1)
    by_hand = [best_matches(query, candidate, slice(gone, None)) for gone in (0, 1, 3)]
    np.testing.assert_allclose([found.whole, *found.chosen[0]], by_hand, atol=1e-6)


def test_padding_is_not_deleted_and_something_always_stays():
    query, candidate = image_and_part()
    query = dataclasses.replace(query, valid=np.arange(9)[None, :] < 3)
    importance = np.arange(9.0)[None, :]
    config = RerankConfig(method="chamfer")
    found = deletion(query, candidate, importance, config=config, shares=(0.01, 0.99), draws=1)
    by_hand = [best_matches(query, candidate, slice(left)) for left in (3, 2, 1)]
    np.testing.assert_allclose([found.whole, *found.chosen[0]], by_hand, atol=1e-6)
    assert np.isfinite(found.random).all()


def test_deletions_that_make_no_sense_are_refused():
    query, candidate = image_and_part()
    with pytest.raises(ValueError, match=r"give one of each and \(e, 9\)"):
        deletion(query, candidate, np.zeros((1, 8)))
    with pytest.raises(ValueError, match="expected two tokens or more"):
        deletion(query, candidate, np.zeros((1, 9)), shares=(1.0,))
