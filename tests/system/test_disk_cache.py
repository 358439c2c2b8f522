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
