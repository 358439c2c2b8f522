import json
import re
import unicodedata

import pytest

from vitjax.retrieval.metrics.ground_truth import read_ground_truth

QUERIES = ["day/one.jpg", "day/two.jpg", "night/one.jpg", "caf\u00e9.jpg"]
GALLERY = ["a/1.png", "a/2.png", "b/1.png", "b/3.png", "4.png"]


def read(tmp_path, data, queries=QUERIES, gallery=GALLERY) -> dict[int, list[int]]:
    path = tmp_path / "truth.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_ground_truth(path, queries, gallery)


def test_names_are_relative_paths_or_file_names_that_one_image_has(tmp_path):
    data = {
        "night/one.jpg": ["a/1.png", "3.png"],
        "two.jpg": ["4.png", "./b/1.png", "a\\2.png"],
        "day/one.jpg": [],
    }
    assert read(tmp_path, data) == {2: [0, 3], 1: [4, 2, 1], 0: []}


def test_a_whole_path_comes_before_a_file_name(tmp_path):
    assert read(tmp_path, {"x.png": ["x.png"]}, ["d/x.png", "x.png"], ["x.png", "d/x.png"]) == {1: [0]}


def test_names_meet_whatever_their_unicode_form_is(tmp_path):
    for form in ("NFC", "NFD"):
        assert read(tmp_path, {unicodedata.normalize(form, "caf\u00e9.jpg"): ["4.png"]}) == {3: [4]}


def test_positions_mean_what_they_meant(tmp_path):
    for data in ({"0": [3, 4], "2": []}, "\ufeff" + json.dumps({"0": [3, 4], "2": []})):
        assert read(tmp_path, data) == read(tmp_path, data, 4, 5) == {0: [3, 4], 2: []}
    assert read(tmp_path, [[3], [], [1, 1]]) == {0: [3], 1: [], 2: [1, 1]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"0": [1], "00": [2]}, "query '00' is the same as query '0'; give each query once"),
        ('{"0": [1], "1": [2], "0": [3]}', "the name '0' comes twice in one object"),
        ({"two.jpg": ["4.png"], "day/two.jpg": []}, "'day/two.jpg' is the same as query 'two.jpg'"),
        ({"caf\u00e9.jpg": [], "cafe\u0301.jpg": []}, "give each query once"),
        ({"two.jpg": ["4.png"], "0": []}, "query 'two.jpg' is a name, query '0' is a position"),
        ({"two.jpg": ["4.png", 3]}, "is a name, query 'two.jpg': 3 is a position; give names alone"),
        ({"0": ["4.png"]}, "query '0': '4.png' is a name, query '0' is a position"),
        ([["4.png"]], "'4.png' is a name, query 0 is a position"),
        ({"one.jpg": []}, "query 'one.jpg' may be 'day/one.jpg' or 'night/one.jpg'; give the relative path"),
        ({"two.jpg": ["1.png"]}, "query two.jpg: '1.png' may be 'a/1.png' or 'b/1.png'"),
        ({"day/tow.jpg": []}, "'day/tow.jpg' is none of the 4 queries; the nearest name is 'day/two.jpg'"),
        (
            {"two.jpg": ["b/33.png"]},
            "'b/33.png' is none of the 5 gallery images; the nearest name is 'b/3.png'",
        ),
        ({"two.jpg": "4.png"}, "query two.jpg: '4.png' is no list"),
        ({"9" * 5000: []}, "is none of the 4 queries"),
        ("[" * 100_000, "expected JSON like"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, data, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value) and "truth.json" in str(caught.value)


def test_a_file_of_another_encoding_is_named(tmp_path):
    path = tmp_path / "truth.json"
    path.write_bytes('{"caf\u00e9.jpg": []}'.encode("cp1252"))
    with pytest.raises(ValueError, match=r"^ground truth .*truth\.json is not UTF-8 text.*give a JSON file$"):
        read_ground_truth(path, QUERIES, GALLERY)
