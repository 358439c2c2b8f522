"""A miniature of Google Landmarks v2: queries of both parts, ignored ones left out."""

import pathlib

import pytest

from tests.data.layouts import write_lines, write_photo
from vitjax.data.sources.gldv2 import read_gldv2
from vitjax.errors import UserError

INDEX = [f"{i:x}bcdef0123456789" for i in range(1, 5)]
ASKED = [f"0{i}23456789abcdef" for i in range(4)]
LINES = [
    "id,images,Usage",
    f"{ASKED[0]},{INDEX[2]} {INDEX[0]},Private",
    f"{ASKED[1]},None,Ignored",
    f"{ASKED[2]},{INDEX[3]},Public",
]


def write(root: pathlib.Path, lines: list[str] = LINES) -> None:
    write_lines(root / "metadata" / "index.csv", ["id", *INDEX])
    write_lines(root / "retrieval_solution_v2.1.csv", lines)


def test_queries_of_both_parts_and_paths_by_three_letters(tmp_path: pathlib.Path):
    write(tmp_path)
    write_photo(tmp_path / f"test/0/2/2/{ASKED[2]}.jpg", 0, 0)
    gallery, queries = read_gldv2(tmp_path)
    assert gallery.names[1] == "index/2/b/c/2bcdef0123456789.jpg"
    assert queries.names == [f"test/0/0/2/{ASKED[0]}.jpg", f"test/0/2/2/{ASKED[2]}.jpg"]
    rows = {name: [x.tolist() for x in setup.positives] for name, setup in queries.setups.items()}
    assert rows == {"private": [[2, 0], []], "public": [[], [3]]}
    assert [x.tolist() for x in queries.relevant()] == [[0, 2], [3]]
    assert queries.read(1).size == (48, 48)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["id,images", "a,b"], "there is no column 'Usage'"),
        ([LINES[0], f"{ASKED[0]},{INDEX[0]},Secret"], r"line 2: Usage is 'Secret'"),
        (
            [LINES[0], f"{ASKED[0]},{ASKED[1]},Public"],
            r"line 2: '0123456789abcdef' is no image of index\.csv",
        ),
        ([LINES[0], f"{ASKED[0]},,Public"], r"line 2: '' is no image"),
        ([LINES[0], f"../../etc,{INDEX[0]},Public"], r"line 2 is malformed"),
        ([LINES[0], ASKED[0]], r"line 2 is malformed"),
        (LINES[:1], "names no query"),
    ],
)
def test_another_solution_is_one_line(tmp_path: pathlib.Path, lines, words):
    write(tmp_path, lines)
    with pytest.raises(UserError, match=words):
        read_gldv2(tmp_path)


def test_missing_files_are_named(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match=r"holds no index\.csv, also not in metadata/"):
        read_gldv2(tmp_path)
    write(tmp_path)
    write_lines(tmp_path / "metadata" / "index.csv", ["id", *INDEX, INDEX[1]])
    with pytest.raises(UserError, match="names an image twice"):
        read_gldv2(tmp_path)
