import os
import pathlib
import re
import subprocess
import sys
import tomllib

from tests import ROOT
from vitjax import doctor


def test_the_doctor_says_versions_devices_and_folders(tmp_path):
    env = os.environ | {"VITJAX_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-m", "vitjax.doctor"]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    for words in ("vitjax", "(cpu)", str(tmp_path / "cache"), "JAX_PLATFORMS=cpu", "hub"):
        assert words in out.stdout
    assert out.stderr == ""


def test_an_idle_accelerator_is_reported_unless_the_cpu_was_asked_for(monkeypatch):
    monkeypatch.setattr(doctor, "present_accelerator", lambda: "GPU 0: Model X")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert doctor.idle_accelerator() is None
    monkeypatch.delenv("JAX_PLATFORMS")
    assert "GPU 0: Model X" in (doctor.idle_accelerator() or "")


def test_a_machine_without_accelerator_is_fine(monkeypatch):
    monkeypatch.setattr(doctor, "present_accelerator", lambda: None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert doctor.idle_accelerator() is None


def test_no_message_names_an_extra_of_a_package_that_no_index_has():
    package = pathlib.Path(doctor.__file__).parent
    named = [path.name for path in package.rglob("*.py") if "'vitjax[" in path.read_text()]
    assert named == []


def test_what_is_missing_comes_with_a_command_that_works(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    assert "  hub         missing: pip install huggingface-hub" in doctor._extras()


def test_the_doctor_knows_every_extra_for_users():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    accelerators = {"cuda12", "cuda13", "tpu"}  # of JAX; `_devices` tells
    assert set(doctor.EXTRAS) == set(extras) - accelerators - {"dev"}
    for extra, packages in doctor.EXTRAS.items():
        assert [re.match(r"[\w-]+", text)[0] for text in extras[extra]] == list(packages)
