"""What the benchmarks with judged queries are measured by, from their files to the names of their metrics."""

import pathlib

import numpy as np
import pytest

from tests.data.sources.test_gldv2 import write as write_gldv2
from tests.data.sources.test_oxford_paris_instre import write_revisited
from tests.data.sources.test_pitts_nordland_amstertime import write_pittsburgh
from tests.retrieval.cases import random_descriptors
from vitjax.config import DataConfig, RerankConfig
from vitjax.evaluation.described_images import DescribedImages
from vitjax.evaluation.protocols import find_truth, open_protocol
from vitjax.evaluation.search_run import RANKED_TO_THE_END, ranking_depth
from vitjax.retrieval.metrics.relevance import Truth, judge


def truth_of(source: str, root: pathlib.Path, skipped: int = -1) -> Truth:
    """Truth of a search whose gallery lacks an image that could not be read."""
    data = DataConfig(source=source, images=str(root))
    gallery, queries = open_protocol(data)
    sides = [
        DescribedImages(side, random_descriptors(1), np.delete(np.arange(len(side)), left_out), [], 0)
        for side, left_out in ((queries, []), (gallery, [skipped] if skipped >= 0 else []))
    ]
    return find_truth(data, *sides)


def test_revisited_oxford_is_judged_by_setup(tmp_path: pathlib.Path):
    write_revisited(tmp_path)
    truth = truth_of("roxford5k", tmp_path)
    found = truth.metrics(np.array([[2, 0, 4, 1, 3], [0, 3, 2, 4, 1]]))
    # Query 0, without junk 2: easy 0 is first of 0, 4 (3, 1 are junk); hard 1, 3 at ranks 1, 2 of 4, 1, 3.
    hard = ((0 + 1 / 2) + (1 / 2 + 2 / 3)) / 4
    medium = ((1 + 1) + (1 / 2 + 2 / 3) + (2 / 3 + 3 / 4)) / 6
    # Query 1 has no easy image; without junk 0 and 3 its hard image 4 is at rank 1.
    other = (0 + 1 / 2) / 2
    assert found["map_easy"] == pytest.approx(1.0)
    assert found["map_medium"] == pytest.approx((medium + other) / 2)
    assert found["map_hard"] == pytest.approx((hard + other) / 2)
    assert found["mp_at_10_hard"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (found["queries"], found["queries_counted"]) == (2, 2)
    assert not any(name.startswith("recall") for name in found)
    judged = judge(truth, np.array([[0, 1, 2, 3, 4]] * 2), np.array([[2, 0, 4, 1, 3], [0, 3, 2, 4, 1]]))
    assert judged["metrics"]["reranked"] == found
    assert {"map_easy", "mp_at_5_medium"} <= judged["intervals"]["difference"].keys()


def test_rows_follow_the_images_that_could_be_read(tmp_path: pathlib.Path):
    write_revisited(tmp_path)
    truth = truth_of("roxford5k", tmp_path, skipped=1)
    assert [rows.tolist() for rows in truth.positives or ()] == [[0, 2], [3]]
    assert [rows.tolist() for rows in truth.rules[2].junk or ()] == [[1, 0], [0, 2]]
    some = truth.take(np.array([1]))
    assert some.metrics(np.array([[3, 0, 1, 2]]))["map_medium"] == 1.0


def test_the_whole_gallery_is_ranked_where_the_area_is_of_all_ranks(tmp_path: pathlib.Path):
    write_revisited(tmp_path)
    write_gldv2(tmp_path / "g")
    rule, large = RerankConfig(top_k=100), 50 * RANKED_TO_THE_END
    assert ranking_depth([rule], truth_of("roxford5k", tmp_path), large) == large
    assert ranking_depth([RerankConfig(top_k=10)], truth_of("gldv2", tmp_path / "g"), large) == 100
    assert ranking_depth([rule], truth_of("gldv2", tmp_path / "g"), 7) == 10  # recall at 10


def test_landmarks_have_a_figure_for_each_part(tmp_path: pathlib.Path):
    write_gldv2(tmp_path)
    ranking = np.array([[1, 0, 3, 2, *[-1] * 96], [3, 0, 1, 2, *[-1] * 96]])
    found = truth_of("gldv2", tmp_path).metrics(ranking)
    assert found["map_at_100_private"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["map_at_100_public"] == 1.0
    assert found["recall_at_1"] == 0.5


def test_queries_that_are_near_none_count_over_all(tmp_path: pathlib.Path):
    write_pittsburgh(tmp_path)
    truth = truth_of("pitts30k", tmp_path)
    assert truth.groups is None and truth.by_group() == {}  # one place: its figures stand once
    found = truth.metrics(np.array([[0, 1, *[-1] * 18]] * 2))
    assert found["recall_at_1"] == 1.0
    assert found["recall_at_1_over_all_queries"] == 0.5
