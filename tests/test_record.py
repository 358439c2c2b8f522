import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import record


def test_json_holds_only_plain_finite_data(tmp_path):
    data = {"a": np.float32(1.5), "b": (1, np.arange(2)), "c": math.nan, "d": jnp.ones((2,)), 3: tmp_path}
    record.write_json(tmp_path / "r.json", data)
    back = json.loads((tmp_path / "r.json").read_text())
    assert back == {"a": 1.5, "b": [1, [0, 1]], "c": None, "d": [1.0, 1.0], "3": str(tmp_path)}


def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path):
    path = tmp_path / "r.json"
    record.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        record.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_rows_with_new_columns_keep_the_older_rows(tmp_path):
    path = tmp_path / "results.csv"
    record.append_row(path, {"model": "a,b", "x": 1})
    record.append_row(path, {"model": "c", "y": 2})
    assert path.read_text().splitlines() == ["model,x,y", '"a,b",1,', "c,,2"]


def test_versions_name_the_packages_that_decide_numbers():
    found = record.versions()
    assert set(record.PACKAGES) <= set(found)
    assert found["jax"].count(".") >= 2


def test_only_files_of_an_earlier_run_are_removed(tmp_path):
    (tmp_path / "figures").mkdir()
    old = ["report.html", "qrels.trec", "figures/0003_matches.png", "figures/0000_tokens.png"]
    kept = ["results.csv", "results.json", "notes.txt", "figures/mine.png", "figures/0003_matches.png.bak"]
    for name in (*old, *kept):
        (tmp_path / name).write_text("")
    record.remove_outputs(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
    record.remove_outputs(tmp_path / "figures")  # a folder without any
