import os
import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from vitjax import doctor
from vitjax.cli import session
from vitjax.config import DEMO_WEIGHTS
from vitjax.system import disk_cache
from vitjax.weights import WeightsError, fetch


@pytest.fixture
def no_home(monkeypatch):
    """A user that is a number, as in a container: no HOME, and no account with a home folder."""
    for name in ("HOME", "VITJAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_an_array_is_kept_for_what_it_was_made_of_alone(tmp_path: pathlib.Path):
    path = tmp_path / "deep" / "a.npz"
    assert disk_cache.load(path, "x") is None
    disk_cache.save(path, "x", np.array([3, 1, 2]))
    assert disk_cache.load(path, "x").tolist() == [3, 1, 2]
    assert disk_cache.load(path, "y") is None
    disk_cache.save(path, "y", np.array([4]))
    assert (disk_cache.load(path, "x"), disk_cache.load(path, "y").tolist()) == (None, [4])
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_counts_as_none(tmp_path: pathlib.Path, part: float):
    path = tmp_path / "a.npz"
    disk_cache.save(path, "x", np.arange(100))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert disk_cache.load(path, "x") is None


def test_files_of_other_kinds_count_as_none(tmp_path: pathlib.Path):
    path = tmp_path / "a.npz"
    for array in (np.arange(3), np.array([{"a": 1}], object)):
        np.save(path.with_suffix(".npy"), array)
        path.write_bytes(path.with_suffix(".npy").read_bytes())
        assert disk_cache.load(path, "x") is None
    assert disk_cache.load(tmp_path, "x") is None


def test_the_cache_folder_is_the_first_that_a_variable_names(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("VITJAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert str(disk_cache.cache_dir()) == "/home/me/.cache/vitjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert str(disk_cache.cache_dir()) == "/home/me/xdg/vitjax"
    monkeypatch.setenv("VITJAX_CACHE", "~/own")
    assert str(disk_cache.cache_dir()) == "/home/me/own"


def test_without_a_home_folder_a_line_names_the_variable_that_helps(no_home):
    with pytest.raises(ValueError, match="set VITJAX_CACHE to a folder"):
        disk_cache.cache_dir()
    assert disk_cache.writable_folder("compiled") is None
    with pytest.raises(WeightsError, match="set VITJAX_CACHE to a folder"):
        fetch(DEMO_WEIGHTS)
    assert any("set VITJAX_CACHE to a folder" in line for line in doctor.report())


def test_the_hub_is_not_asked_for_a_cache_named_after_the_sign_of_a_home_folder(no_home, monkeypatch):
    hub, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    hub.constants = types.SimpleNamespace(HF_HUB_CACHE="~/.cache/huggingface/hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    with pytest.raises(WeightsError, match="set HF_HOME to a folder"):
        fetch("hf:org/repo")


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "/dev/null/x", "/proc/nowhere"):
        monkeypatch.setenv("VITJAX_CACHE", str(place))
        assert disk_cache.writable_folder("compiled") is None
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "new"))
    folder = disk_cache.writable_folder("compiled")
    assert folder == tmp_path / "new" / "compiled" and list(folder.iterdir()) == []


def test_programs_run_without_a_cache_and_say_so_once(no_home, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    try:
        session.keep_compiled()
        assert jax.config.jax_compilation_cache_dir is None
        assert capsys.readouterr().err.count("set VITJAX_CACHE") == 1
        jax.config.update("jax_compilation_cache_dir", "own")
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "own")
        session.keep_compiled()
        assert jax.config.jax_compilation_cache_dir == "own"
        assert capsys.readouterr().err == ""
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def counted(array: np.ndarray):
    """What makes an array, and the list of its calls."""
    calls = []
    return (lambda: calls.append(1) or array), calls


def test_what_is_kept_is_measured_once_for_each_key(monkeypatch, tmp_path):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path))
    array = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    measure, calls = counted(array)
    for made_of in ({"w": "a", "block": 7}, {"block": 7, "w": "a"}, {"w": "a", "block": 7}):
        found = disk_cache.kept("measured", made_of, measure)
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.strides) == (array.dtype, array.strides) and len(calls) == 1
    disk_cache.kept("measured", {"w": "b", "block": 7}, measure)
    assert len(calls) == 2 and len(list((tmp_path / "measured").iterdir())) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "exchanged"])
def test_a_damaged_file_is_measured_again_with_a_line(damage, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path))
    array = np.arange(40, dtype=np.float32)
    measure, calls = counted(array)
    disk_cache.kept("measured", {"key": 1}, measure)
    (file,) = (tmp_path / "measured").iterdir()
    whole = file.read_bytes()
    if damage == "flipped":  # in the array
        at = whole.index(array.tobytes()) + 17
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "exchanged":  # whole, but of another key
        disk_cache.save(file, "other", array + 1)
    else:
        file.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    np.testing.assert_array_equal(disk_cache.kept("measured", {"key": 1}, measure), array)
    assert len(calls) == 2 and file.read_bytes() == whole
    assert caplog.text.count(str(file)) == 1 and "measured again" in caplog.text


def test_an_array_that_was_put_in_by_hand_is_not_taken(tmp_path):
    path = tmp_path / "a.npz"
    disk_cache.save(path, "x", np.arange(3))
    with np.load(path) as file:
        parts = dict(file)
    np.savez(path, **parts | {"array": np.arange(1, 4)})
    assert disk_cache.load(path, "x") is None


def test_without_a_cache_folder_everything_is_measured(no_home):
    measure, calls = counted(np.zeros(2))
    for _ in range(2):
        assert disk_cache.kept("measured", {}, measure).tolist() == [0, 0]
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_measured_without(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "file"))
    assert disk_cache.kept("measured", {}, lambda: np.ones(1)).tolist() == [1]


def test_the_version_of_code_follows_every_source_file(tmp_path):
    def version() -> str:
        disk_cache.code_version.cache_clear()
        return disk_cache.code_version(tmp_path)

    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.py").write_text("x = 1\n")
    before = version()
    assert version() == before
    (tmp_path / "notes.txt").write_text("no code")
    assert version() == before
    (tmp_path / "part" / "a.py").write_text("x = 2\n")
    changed = version()
    (tmp_path / "part" / "a.py").rename(tmp_path / "part" / "b.py")
    assert len({before, changed, version()}) == 3
