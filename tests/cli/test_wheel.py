"""The wheel carries what runs from any folder without a checkout."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="builds a wheel; extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("vitjax-*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_has_the_programs_every_config_and_all_of_the_package(wheel):
    inside = set(wheel.namelist())
    programs = {f"vitjax/_programs/{name}" for name in ("eval.py", "train.py")}
    configs = {f"vitjax/_programs/configs/{path.name}" for path in ROOT.glob("configs/*.py")}
    configs.add("vitjax/_programs/configs/digits_teacher.safetensors")
    package = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("vitjax/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"vitjax/py.typed", "vitjax/viz/report.css"} <= package
    assert any(name.endswith(".js") for name in package), "the scripts of the page"
    assert programs | configs | package <= inside
    rest = {name for name in inside if not name.startswith(("vitjax/", "vitjax-"))}
    assert rest == set(), "nothing lands beside the package"


def test_an_unpacked_wheel_runs_from_any_folder(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "here").mkdir()
    (code,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "vitjax = vitjax.cli.main:entry" in wheel.read(code).decode()

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "vitjax", *arguments], cwd=tmp_path / "here", check=False,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True,
        )  # fmt: skip

    done = run("train", "--config", "smoke:teacher", "--print_config")
    assert done.returncode == 0 and "config.data.source = 'digits'" in done.stdout, done.stderr
    done = run("eval", "--config", "demo", "--workdir", "w", "--config.rerank.topk=3")
    assert (done.returncode, done.stderr) == (
        2,
        "eval.py: config has no field 'topk'; did you mean --config.rerank.top_k?\n",
    )
