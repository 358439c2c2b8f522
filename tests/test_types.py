"""The types of public names are known to those who import the package."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.slow
def test_every_public_name_has_a_known_type():
    folder = pathlib.Path(sys.executable).parent
    pyright = shutil.which("pyright", path=folder)
    if pyright is None:
        pytest.skip("pyright is not installed")
    # It asks the first Python on PATH where packages are.
    env = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [pyright, "--verifytypes", "vitjax", "--ignoreexternal"],
        capture_output=True, text=True, check=False, env=env, cwd=ROOT,
    )  # fmt: skip
    assert "Type completeness score: 100%" in found.stdout, found.stdout[-4000:]
