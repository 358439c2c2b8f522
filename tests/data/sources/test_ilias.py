"""A miniature of ILIAS core: positives are the images of an object's own folder."""

import pathlib

import pytest

from tests.data.layouts import write_photo
from vitjax.data.sources.ilias import read_ilias
from vitjax.errors import UserError

FILES = [
    "bold_bimp_000/pos/P000_00.jpg", "bold_bimp_000/pos/P000_01.jpg", "bold_bimp_000/query/Q000_00.jpg",
    "zippy_999/pos/P999_03.jpg", "zippy_999/query/Q999_00.jpg", "zippy_999/query/Q999_01.jpg",
]  # fmt: skip


def test_positives_are_those_of_the_object(tmp_path: pathlib.Path):
    for i, file in enumerate(FILES):
        write_photo(tmp_path / "ilias_core" / file, i, 0)
    (tmp_path / "ilias_core" / "zippy_999" / "query" / "T999.txt").write_text("a toy")
    for root in (tmp_path, tmp_path / "ilias_core"):
        gallery, queries = read_ilias(root)
        assert gallery.names == [FILES[i] for i in (0, 1, 3)]
        assert queries.names == [FILES[i] for i in (2, 4, 5)]
        assert [x.tolist() for x in queries.setups[""].positives] == [[0, 1], [2], [2]]
    assert queries.read(2).size == (48, 48)


def test_folders_that_lack_something_are_one_line(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="does not exist; give the unpacked download"):
        read_ilias(tmp_path / "nowhere")
    write_photo(tmp_path / FILES[0], 0, 0)
    with pytest.raises(UserError, match="holds no OBJECT/pos and OBJECT/query"):
        read_ilias(tmp_path)
    write_photo(tmp_path / FILES[4], 0, 0)
    with pytest.raises(UserError, match=r"zippy_999 has a query, but no image in pos/"):
        read_ilias(tmp_path)
