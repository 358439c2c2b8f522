import pathlib

import pytest

from vitjax.files import parse_json, read_text, replacing


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


def test_text_of_other_programs_is_read_or_named(tmp_path: pathlib.Path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffcafé\r\nhen\n".encode())
    assert read_text(path) == "café\nhen\n"
    path.write_bytes("café".encode("cp1252"))
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text \(byte 3\); save it as UTF-8"):
        read_text(path)
    with pytest.raises(ValueError, match=r"b\.txt: No such file"):
        read_text(tmp_path / "b.txt")


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '[{"b": {"a": 1, "\\u0061": 1}}]'])
def test_a_name_twice_in_json_is_refused(text: str):
    with pytest.raises(ValueError, match="the name 'a' comes twice"):
        parse_json(text)


def test_json_is_read_as_it_stands():
    found = {"a": [{"a": 1}, {"a": None}], "b": {"a": 2}}
    assert parse_json('{"a": [{"a": 1}, {"a": null}], "b": {"a": 2}}') == found
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json("[" * 200_000)
