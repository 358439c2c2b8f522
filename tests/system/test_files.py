import ast
import os
import pathlib
import stat

import pytest

from tests import ROOT
from vitjax.errors import UserError
from vitjax.system.files import (
    RepeatedName,
    canonical,
    expanded,
    parse_json,
    read_json,
    read_number,
    read_text,
    replacing,
)


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


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_it_ends(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        done.append(
            ("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync", os.fstat(handle).st_size)
        )
        sync(handle)

    def noted_rename(*names) -> None:
        done.append(("rename", 0))
        rename(*names)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    with replacing(tmp_path / "a") as file:
        file.write("four")
    assert [name for name, _ in done] == ["sync", "rename", "sync folder"] and done[0][1] == 4


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


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": [-Infinity]}', "-Infinity is no number of JSON"),
        ("{'a': 1}", "it is not JSON .*column 2"),
        (b'{"a": "caf\xe9"}', "it is not JSON .*position 10"),
        ("", "it is not JSON"),
        ("1" * 5000, "it is not JSON"),
    ],
)
def test_what_is_not_json_is_told_in_one_line_with_the_file(text: str | bytes, why: str, tmp_path):
    with pytest.raises(UserError, match=why):
        parse_json(text)
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"a\.json") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_a_name_twice_in_a_file_is_still_told_as_such(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1, "a": 1}')
    with pytest.raises(RepeatedName, match=r"a\.json: the name 'a' comes twice"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('{"n": 7}', 7),
        ('{"n": 2.5}', 2.5),
        ('{"n": null}', 0),
        ('{"n": "7"}', 0),
        ('{"n": 1e400}', 0),
        ('{"n": 1' + "0" * 400 + "}", 0),
        ('{"n": NaN}', 0),
        ('{"n": 7, "n": 8}', 0),
        ('{"m": 7}', 0),
        ("[7]", 0),
        ('{"n": 7', 0),
        (None, 0),
    ],
)
def test_a_number_of_a_file_is_read_or_0(text: str | None, number: float, tmp_path):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    assert read_number(tmp_path / "a.json", "n") == number


def json_readers(path: pathlib.Path) -> bool:
    """Whether a file reads JSON with the standard library's module, or takes names out of it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "json"
    }
    return any(
        (isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "json")
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in names
            and not node.attr.startswith("dump")
        )
        for node in nodes
    )


def test_json_is_read_by_one_module():
    """What `parse_json` refuses, `json.load` takes: a module that must call it is named here, with why."""
    allowed = {ROOT / "vitjax/system/files.py"}
    paths = [ROOT / "eval.py", ROOT / "train.py"]
    paths += [
        path for folder in ("vitjax", "benchmarks", "configs") for path in (ROOT / folder).rglob("*.py")
    ]
    assert {path for path in paths if json_readers(path)} == allowed


def test_the_home_folder_stands_for_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/x") == "/home/me/x" and expanded("~") == "/home/me"
    for path in ("/a/~/b", "a~", "./~", "gs://b/~x", "hf:o/r", ""):
        assert expanded(path) == path
    assert expanded(pathlib.Path("~/x")) == "/home/me/x"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~a.png").write_bytes(b"")
    assert expanded("~a.png") == "~a.png"
    with pytest.raises(
        ValueError, match="'~nobody-of-that-name/x' begins with a home folder that is not known"
    ):
        expanded("~nobody-of-that-name/x")


def test_a_home_folder_that_is_not_known_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and without an account
    for path in ("~/x", "~"):
        with pytest.raises(ValueError, match="is HOME set"):
            expanded(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_text_of_other_programs_is_read(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.txt").write_bytes((mark + "caf\u00e9\r\n\u732b\n").encode(encoding))
    assert read_text(tmp_path / "a.txt") == "caf\u00e9\n\u732b\n"


@pytest.mark.parametrize(
    "data", ["caf\u00e9".encode("cp1252"), "ab".encode("utf-16-le"), b"\xff\xfea", b"a\0b"]
)
def test_text_in_another_encoding_is_one_line_with_the_remedy(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text \(byte \d\); save it as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_names_are_compared_as_one_letter_with_its_accent():
    assert canonical("cafe\u0301") == canonical("caf\xe9") == "caf\xe9"
