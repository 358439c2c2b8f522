import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.viz.example import candidate, cell, photos, report
from vitjax.viz.figures import IRRELEVANT, RELEVANT, matches_figure, ranking_figure, save_figure
from vitjax.viz.views import MatchView, QueryView


def share(image: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(image) == colour).all(axis=-1).mean())


def test_ranking_is_as_wide_as_asked_and_marks_right_and_wrong():
    example = report()
    image = ranking_figure(example.images, example.queries[0], ranks=3)
    assert image.mode == "RGB"
    assert image.width == 1000
    assert share(image, RELEVANT) > 0.005
    assert share(image, IRRELEVANT) > share(image, RELEVANT)  # four wrong frames, two right ones and a curve


def test_without_labels_nothing_is_marked():
    example = report(relevant=None)
    image = ranking_figure(example.images, example.queries[0], ranks=3)
    assert share(image, RELEVANT) == share(image, IRRELEVANT) == 0


def test_marks_differ_in_shape_not_only_in_colour():
    images, white = photos(2), []
    for right in (True, False):
        query = QueryView(
            "photo0", "q", [candidate(1, 1, 1, right, rank_after=None)]
        )  # no curve, only a mark
        white.append((np.asarray(ranking_figure(images, query, ranks=3)) == 255).all(axis=-1))
    assert (white[0] != white[1]).sum() > 20


def test_more_places_than_candidates_leave_gaps():
    example = report()
    assert ranking_figure(example.images, example.queries[1], ranks=8, width=700).width == 700


def test_candidate_that_was_not_reranked_is_drawn_without_a_score():
    example = report()
    bare = candidate(1, 1, 1, structural=None, score=None, matches=[], remaining_pairs=0)
    query = dataclasses.replace(example.queries[0], candidates=[bare, candidate(2, 2, 2)])
    assert ranking_figure(example.images, query, ranks=2).width == 1000


@pytest.mark.parametrize("shapes", [((40, 40), (40, 40)), ((30, 60), (60, 30))])
def test_matches_keep_the_photos_shapes(shapes):
    (h0, w0), (h1, w1) = shapes
    image = matches_figure(np.zeros((h0, w0, 3), np.uint8), np.zeros((h1, w1, 3), np.uint8), [])
    assert image.width == 1000
    assert image.height == pytest.approx((1000 - 24 - 70) / (w0 / h0 + w1 / h1) + 24, abs=2)


def test_a_match_draws_both_boxes_and_the_line_between_them():
    dark = np.zeros((64, 64, 3), np.uint8)
    pair = MatchView(cell(1, 1), cell(2, 2), 0.9, 0.06, 0.054)
    drawn, empty = (np.asarray(matches_figure(dark, dark, pairs)).astype(int) for pairs in ([pair], []))
    changed = np.abs(drawn - empty).sum(axis=-1) > 60
    thirds = [part.any() for part in np.array_split(changed, 3, axis=1)]
    assert all(thirds)
    assert not changed[: len(changed) // 5].any()


def test_matches_that_share_a_patch_can_be_told_apart():
    dark = np.zeros((64, 64, 3), np.uint8)
    first = MatchView(cell(1, 1), cell(1, 1), 0.9, 0.06, 0.054)
    second = dataclasses.replace(first, candidate_box=cell(2, 2))
    both, alone = (np.asarray(matches_figure(dark, dark, pairs)) for pairs in ([first, second], [second]))
    left = (slice(None), slice(0, 450))
    assert (both[left] == (255, 212, 0)).all(axis=-1).any()  # the first's colour
    assert (both[left] == (76, 201, 255)).all(axis=-1).any()  # the second's, inside it
    assert not (alone[left] == (76, 201, 255)).all(axis=-1).any()


def test_saved_figure_is_a_png_below_its_limit_and_replaces_whole(tmp_path):
    example = report(images=photos(5, side=224))
    image = ranking_figure(example.images, example.queries[0], ranks=3)
    save_figure(tmp_path / "a.png", image, limit=10**9)
    with Image.open(tmp_path / "a.png") as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), np.asarray(image))
    full = (tmp_path / "a.png").stat().st_size
    save_figure(tmp_path / "a.png", image, limit=full // 2)
    assert (tmp_path / "a.png").stat().st_size <= full // 2
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
