import pathlib

import numpy as np
import pytest

from vitjax import cached


def test_an_array_is_kept_for_what_it_was_made_of_alone(tmp_path: pathlib.Path):
    path = tmp_path / "deep" / "a.npz"
    assert cached.load(path, "x") is None
    cached.save(path, "x", np.array([3, 1, 2]))
    assert cached.load(path, "x").tolist() == [3, 1, 2]
    assert cached.load(path, "y") is None
    cached.save(path, "y", np.array([4]))
    assert (cached.load(path, "x"), cached.load(path, "y").tolist()) == (None, [4])
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_counts_as_none(tmp_path: pathlib.Path, part: float):
    path = tmp_path / "a.npz"
    cached.save(path, "x", np.arange(100))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert cached.load(path, "x") is None


def test_files_of_other_kinds_count_as_none(tmp_path: pathlib.Path):
    path = tmp_path / "a.npz"
    for array in (np.arange(3), np.array([{"a": 1}], object)):
        np.save(path.with_suffix(".npy"), array)
        path.write_bytes(path.with_suffix(".npy").read_bytes())
        assert cached.load(path, "x") is None
    assert cached.load(tmp_path, "x") is None
