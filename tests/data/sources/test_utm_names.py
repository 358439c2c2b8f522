import numpy as np
import pytest

from vitjax.config import DataConfig
from vitjax.data.sources.utm_names import places_in_names
from vitjax.evaluation.protocols import named_place_truth

FULL = "@0584297.53@4477015.20@17@T@40.43@-80.00@pano@3@270@@@@201308@@.jpg"


def test_places_zones_and_headings_are_read_from_names():
    found = places_in_names([f"database/{FULL}", "@10@20@.png", "x@y/@-1.5@2e3@@@@.jpg"])
    np.testing.assert_array_equal(found.places, [[584297.53, 4477015.2], [10, 20], [-1.5, 2000]])
    assert found.zones.tolist() == [17, 0, 0]
    np.testing.assert_array_equal(found.angles, [270, np.nan, np.nan])


def test_names_without_places_are_no_places():
    assert places_in_names(["a.jpg", "me@home.jpg", "@me@.jpg"]) is None
    assert named_place_truth(DataConfig(), ["a.jpg"], [FULL], np.array([-1])) is None
    assert named_place_truth(DataConfig(), [FULL], ["a.jpg"], np.array([-1])) is None


@pytest.mark.parametrize("odd", ["b/plain.jpg", "@east@20@.jpg", "@nan@20@.jpg", "@@@.jpg"])
def test_one_name_without_a_place_among_others_is_named(odd):
    with pytest.raises(ValueError, match=rf"'{odd}' has no place in its name, others have"):
        places_in_names([FULL, odd])


def test_near_photos_of_the_zone_are_relevant_and_the_query_itself_is_not():
    gallery = ["@0@0@10@S@.jpg", "@15@20@10@S@.jpg", "@15@20.001@10@S@.jpg", "@3@4@11@S@.jpg", "@0@1@.jpg"]
    queries, own = ["@0@0@10@T@.jpg", "@0@0@@@.jpg", "@90@0@10@S@.jpg"], np.array([0, -1, -1])

    def relevant(**options) -> list[list[int]]:
        truth = named_place_truth(DataConfig(**options), queries, gallery, own)
        assert truth.ks == (1, 5, 10, 20)
        return [rows.tolist() for rows in truth.positives]

    assert relevant() == [[1, 4], [0, 1, 3, 4], []]
    assert relevant(radius=5.0) == [[4], [0, 3, 4], []]
    assert relevant(radius=100.0) == [[1, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 4]]


def test_photos_that_look_another_way_are_left_out_where_asked():
    name = "@{}@0@10@S@@@@@{}@.jpg".format
    gallery = [name(1, 350), name(2, 100), name(3, "")]
    truth = named_place_truth(DataConfig(angle=30.0), [name(0, 10)], gallery, np.array([-1]))
    assert [rows.tolist() for rows in truth.positives] == [[0]]
