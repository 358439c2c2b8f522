import importlib.util
import time

import numpy as np
import pytest
from PIL import Image

from vitjax.data import ImageSource
from vitjax.data.sources.demo_scenes import SIDE, SceneSource


@pytest.fixture(scope="module")
def splits():
    return SceneSource("query"), SceneSource("gallery")


def test_sizes_fit_a_demo_on_two_cores(splits):
    query, gallery = splits
    assert isinstance(query, ImageSource)
    assert 60 <= len(query) <= 80 and 120 <= len(gallery) <= 160
    assert query.class_names == gallery.class_names
    assert len(set(query.names)) == len(query) and len(set(gallery.names)) == len(gallery)


def test_every_query_has_an_answer_in_another_pose_and_some_scenes_only_mislead(splits):
    query, gallery = splits
    assert not set(query.names) & set(gallery.names)
    assert set(query.labels) < set(gallery.labels)
    stereo = query.class_names.index("motorcycle")
    counts = np.bincount(gallery.labels, minlength=len(gallery.class_names))
    assert counts[stereo] == 1 and (np.delete(counts, stereo) == 2).all()


def test_views_are_the_same_every_time_and_differ_from_each_other(splits):
    query, _ = splits
    again = SceneSource("query")
    for i in (0, 17, len(query) - 1):
        np.testing.assert_array_equal(np.asarray(query.read(i)), np.asarray(again.read(i)))
    assert (np.asarray(query.read(0)) != np.asarray(query.read(1))).mean() > 0.5


def test_nothing_beyond_the_region_is_seen(splits):
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [SIDE, SIDE, 1], [0, SIDE, 1]], np.float64)
    for source in splits:
        for view, homography in zip(source._views, source.homographies, strict=False):
            seen = corners @ np.linalg.inv(homography).T
            seen = seen[:, :2] / seen[:, 2:]
            left, top, right, bottom = view.box
            assert (seen >= np.array([left, top]) - 1e-6).all(), view
            assert (seen <= np.array([right, bottom]) + 1e-6).all(), view


def test_truth_maps_one_view_onto_the_other(splits):
    query, gallery = splits
    better = 0
    for i in range(0, len(query) - 1, 6):
        j = int(np.flatnonzero(gallery.labels == query.labels[i])[0])
        homography = query.truth(i, j, gallery)
        back = gallery.truth(j, i, query)
        np.testing.assert_allclose(homography @ back / (homography @ back)[2, 2], np.eye(3), atol=1e-6)
        # PERSPECTIVE wants the map from the output (the query) to the input (the gallery view).
        warped, inside = (
            image.transform(
                (SIDE, SIDE),
                Image.Transform.PERSPECTIVE,
                homography.ravel()[:8].tolist(),
                Image.Resampling.BILINEAR,
            )
            for image in (gallery.read(j), Image.new("L", (SIDE, SIDE), 255))
        )
        mask = np.asarray(inside) > 0
        assert mask.mean() > 0.05, query.names[i]
        mine = np.asarray(query.read(i).convert("L"))[mask].astype(float)
        right = np.corrcoef(mine, np.asarray(warped.convert("L"))[mask].astype(float))[0, 1]
        wrong = np.corrcoef(mine, np.asarray(gallery.read(j).convert("L"))[mask].astype(float))[0, 1]
        # Light, blur and noise differ, so no exact equality; noise hides the smoothest regions.
        assert right > 0.5, (query.names[i], right)
        better += right > wrong + 0.1
    assert better >= 8


def test_truth_of_other_scenes_is_refused_and_of_the_stereo_pair_unknown(splits):
    query, gallery = splits
    with pytest.raises(ValueError, match="different scenes"):
        query.truth(0, 1)
    assert query.truth(len(query) - 1, len(gallery) - 1, gallery) is None


def test_all_views_render_in_a_few_seconds(splits):
    start = time.process_time()
    for source in splits:
        for i in range(0, len(source), 4):
            assert source.read(i).mode == "RGB"
    assert time.process_time() - start < 4  # a quarter of them; 8 s of computing at most for all is the aim


def test_without_the_photos_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^the demo's photos .*; pip install scikit-image scikit-learn\."):
        SceneSource("query")


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="no split 'train'"):
        SceneSource("train")
