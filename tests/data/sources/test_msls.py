"""On two small cities whose distances are known by hand."""

import pathlib

import numpy as np
import pytest

from tests.data.layouts import write_msls
from vitjax.data.sources.msls import all_cities, read_msls


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_msls(tmp_path_factory.mktemp("msls"), end="\r\n")


def keys(source) -> list[str]:
    return [pathlib.Path(name).stem for name in source.names]


def test_panoramas_and_rows_of_other_subtasks_are_not_in_the_search(root):
    queries, database = read_msls(root, "query"), read_msls(root, "database")
    assert keys(queries) == ["q0", "q1", "q2", "q5", "q6"]
    assert keys(database) == ["d0", "d1", "d3", "d5", "d6"]
    assert keys(read_msls(root, "query", subtask="")) == ["q0", "q1", "q2", "q3", "q5", "q6"]
    assert keys(read_msls(root / "train_val", "query", subtask="d2n", cities=["cph"])) == ["q2"]


def test_photos_carry_place_angle_city_and_night(root):
    queries = read_msls(root, "query")
    np.testing.assert_array_equal(queries.places[1], [340_015.0, 6_170_020.001])
    np.testing.assert_array_equal(queries.angles, [20, 20, 270, 10, np.nan])
    np.testing.assert_array_equal(queries.night, [False, False, True, False, False])
    assert [queries.class_names[i] for i in queries.cities] == ["cph"] * 4 + ["sf"]
    assert queries.read(4).size == (48, 48)
    part = queries.take(np.array([4, 2]))
    assert (keys(part), part.angles[1], part.names[0]) == (["q6", "q2"], 270, "sf/query/images/q6.jpg")
    assert all_cities(root) == ["cph", "sf"]


DAMAGE = [
    ("postprocessed.csv", "340015.0,", "east,", r"postprocessed\.csv, line 2: easting is 'east'"),
    ("postprocessed.csv", "northing", "north", r"postprocessed\.csv: there is no column 'northing'"),
    ("postprocessed.csv", ",q1,", ",qx,", "line 3: the files name different photos"),
    (
        "postprocessed.csv",
        "0,q0,340015.0,6170020.0,0,False,False,Forward",
        "0,q0",
        r"postprocessed\.csv, line 2: too few columns",
    ),
    ("raw.csv", "20,2017-05-01,False", "20,2017-05-01,no", r"raw\.csv, line 2: pano is 'no'"),
    ("raw.csv", "4,q4,12.5,55.6,0,2017-05-01,True\n", "", r"'raw\.csv': 5"),
    ("subtask_index.csv", "q2,True", "q2,1", r"subtask_index\.csv, line 4: all is '1'"),
    ("seq_info.csv", None, None, r"seq_info\.csv does not exist"),
]


@pytest.mark.parametrize(("file", "old", "new", "words"), DAMAGE)
def test_a_malformed_line_is_named(tmp_path: pathlib.Path, file, old, new, words):
    path = write_msls(tmp_path) / "train_val" / "cph" / "query" / file
    if old is None:
        path.unlink()
    else:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=words):
        read_msls(tmp_path, "query")


def test_a_key_that_leads_out_of_the_folder_is_refused(tmp_path: pathlib.Path):
    for path in (write_msls(tmp_path) / "train_val" / "cph" / "query").glob("*.csv"):
        path.write_text(path.read_text().replace(",q1,", ",../../q1,"))
    with pytest.raises(ValueError, match=r"line 3: '\.\./\.\./q1' is no key"):
        read_msls(tmp_path, "query")


def test_a_city_that_is_not_there_and_an_empty_subtask_are_named(root):
    with pytest.raises(ValueError, match=r"oslo/query/postprocessed\.csv does not exist"):
        read_msls(root, "query", cities=["oslo"])
    with pytest.raises(ValueError, match="no photo of cph, sf is in subtask 's2w'"):
        read_msls(root, "query", subtask="s2w")
    with pytest.raises(ValueError, match="subtask 'night'"):
        read_msls(root, "query", subtask="night")
