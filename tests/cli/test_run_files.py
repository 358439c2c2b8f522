import json
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import doctor
from vitjax.cli import run_files


def test_json_holds_only_plain_finite_data(tmp_path):
    data = {"a": np.float32(1.5), "b": (1, np.arange(2)), "c": math.nan, "d": jnp.ones((2,)), 3: tmp_path}
    run_files.write_json(tmp_path / "r.json", data)
    back = json.loads((tmp_path / "r.json").read_text())
    assert back == {"a": 1.5, "b": [1, [0, 1]], "c": None, "d": [1.0, 1.0], "3": str(tmp_path)}


def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path):
    path = tmp_path / "r.json"
    run_files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        run_files.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_rows_with_new_columns_keep_the_older_rows(tmp_path):
    path = tmp_path / "results.csv"
    run_files.append_row(path, {"model": "a,b", "x": 1})
    run_files.append_row(path, {"model": "c", "y": 2})
    assert path.read_text().splitlines() == ["model,x,y", '"a,b",1,', "c,,2"]


def test_versions_name_the_packages_that_decide_numbers():
    found = doctor.versions()
    assert set(doctor.PACKAGES) <= set(found)
    assert found["jax"].count(".") >= 2


def test_only_files_of_an_earlier_run_are_removed(tmp_path):
    (tmp_path / "figures").mkdir()
    old = ["report.html", "qrels.trec", "figures/0003_matches.png", "figures/0000_tokens.png"]
    kept = ["results.csv", "results.json", "notes.txt", "figures/mine.png", "figures/0003_matches.png.bak"]
    for name in (*old, *kept):
        (tmp_path / name).write_text("")
    run_files.remove_outputs(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
    run_files.remove_outputs(tmp_path / "figures")  # a folder without any


OTHERS = {
    "cp1252": "model,weights\nvit,caf\u00e9.pth\n".encode("cp1252"),
    "semicolons": b"model;weights\r\nvit;a\r\n",
    "tabs in UTF-16": "model\tweights\nvit\ta\n".encode("utf-16"),
    "other columns": b"name,age\nx,3\n",
    "a longer row": b"model,weights\nvit,a,b\n",
    "a column twice": b"model,model\nvit,vit\n",
    "an open quote": b'model,weights\n"vit,a\n',
    "zeros": b"model,weights\n" + bytes(40),
    "no text": bytes(range(256)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_table_that_another_program_left_stays_and_the_row_goes_beside_it(tmp_path, kind):
    path = tmp_path / "results.csv"
    path.write_bytes(OTHERS[kind])
    for times in (1, 2):
        (said,) = run_files.append_row(path, {"model": "vit", "weights": "b", "x": times})
        assert str(path) in said and "the row of this run is in results-2.csv" in said and "\n" not in said
    assert path.read_bytes() == OTHERS[kind]
    assert (tmp_path / "results-2.csv").read_text() == "model,weights,x\nvit,b,1\nvit,b,2\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_with_a_byte_order_mark_is_added_to(tmp_path, encoding):
    path = tmp_path / "results.csv"
    path.write_bytes("model,weights\r\n\u732b,a\r\n".encode(encoding))
    assert run_files.append_row(path, {"model": "b", "y": 2}) == []
    assert path.read_text(encoding="utf-8").splitlines() == ["model,weights,y", "\u732b,a,", "b,,2"]


def test_an_empty_table_is_a_new_one_and_one_that_may_only_be_read_stays(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("")
    assert run_files.append_row(path, {"model": "a"}) == []
    path.chmod(0o444)
    assert "it may only be read" in run_files.append_row(path, {"model": "b"})[0]
    assert path.read_text() == "model\na\n"
    assert (tmp_path / "results-2.csv").read_text() == "model\nb\n"


def test_a_table_that_is_a_folder_is_passed_by(tmp_path):
    (tmp_path / "results.csv").mkdir()
    assert "results-2.csv" in run_files.append_row(tmp_path / "results.csv", {"model": "b"})[0]


def test_where_nothing_can_be_written_the_error_says_so(tmp_path):
    with pytest.raises(OSError, match="gone"):
        run_files.append_row(tmp_path / "gone" / "results.csv", {"model": "b"})


def test_bytes_of_a_path_that_are_no_text_are_written_as_escapes(tmp_path):
    run_files.write_json(tmp_path / "r.json", {"path": "a\udcff", "folder": pathlib.Path("b\udcff")})
    assert json.loads((tmp_path / "r.json").read_text()) == {"path": r"a\udcff", "folder": r"b\udcff"}
