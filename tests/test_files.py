import pathlib

import pytest

from vitjax.files import replacing


def test_a_failure_leaves_the_older_file_and_no_scrap(tmp_path: pathlib.Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write("new")
            file.write("\ud800")

    with pytest.raises(UnicodeEncodeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_bytes_take_the_place_of_the_older_file(tmp_path: pathlib.Path):
    path = tmp_path / "a"
    for mode, content in (("w", "é"), ("wb", b"\xff")):
        with replacing(path, mode) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() != content
    assert path.read_bytes() == b"\xff"
    assert path.stat().st_mode & 0o777 == 0o644
