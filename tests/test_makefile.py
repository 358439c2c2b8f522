"""One environment for each Python, and a line where it is not what it should be."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import ROOT

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make in a folder with our Makefile; `python3` is this Python, `other` one that says 3.99."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    fakes = tmp_path / "bin"
    fakes.mkdir()
    (fakes / "sitecustomize.py").write_text("import sys; sys.version_info = (3, 99, 1, 'final', 0)")
    for name, start in (("python3", ""), ("other", f"PYTHONPATH={fakes} ")):
        (fakes / name).write_text(f'#!/bin/sh\n{start}exec {sys.executable} "$@"\n')
        (fakes / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}:{os.environ['PATH']}")
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHON"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", "-C", tmp_path, *words], capture_output=True, text=True, check=False)

    return run


def _environment(folder: pathlib.Path, python: str) -> None:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(folder.parent / "bin" / python)


def test_every_python_has_an_environment_of_its_own(make):
    assert ".venv/bin/python -m pytest" in make("-n", "test").stdout
    assert ".venv/bin/python -m pytest" in make("-n", "test", f"PYTHON={sys.executable}").stdout
    commands = make("-n", "test", "PYTHON=other").stdout
    assert "other -m venv .venv-3.99" in commands and ".venv-3.99/bin/python -m pytest" in commands
    assert "rm -rf .venv-3.99" in make("-n", "clean", "PYTHON=other").stdout


def test_a_python_that_is_too_old_or_not_there_is_a_line(make):
    assert "vitjax needs Python >= 3.11" in make("python", "PYTHON=nowhere").stderr


def test_an_environment_of_another_python_and_a_half_made_one_are_told(make, tmp_path):
    assert make("python").returncode == 0
    _environment(tmp_path / ".venv", "python3")
    assert make("python").returncode == 0
    _environment(tmp_path / ".venv-3.99", "python3")
    found = make("python", "PYTHON=other")
    assert found.returncode and "run: make clean PYTHON=other" in found.stderr
    shutil.rmtree(tmp_path / ".venv")
    (tmp_path / ".venv").mkdir()
    assert ".venv is half made" in make("python").stderr


def test_the_demo_needs_no_extra(make):
    commands = make("-n", "demo").stdout
    assert "-c constraints.txt -e .\n" in commands and ".venv/bin/vitjax demo" in commands
    assert "-e '.[dev]'" in make("-n", "test").stdout
