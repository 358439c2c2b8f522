import importlib
import subprocess
import sys

import pytest

from vitjax._moved import MOVED


@pytest.mark.parametrize("old", ["indexing", "training.config", "data.tfds", "parallel"])
def test_an_old_module_name_gives_the_new_module_with_a_warning(old, monkeypatch):
    monkeypatch.delitem(sys.modules, f"vitjax.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=MOVED[old]):
        module = importlib.import_module(f"vitjax.{old}")
    assert module is importlib.import_module(f"vitjax.{MOVED[old]}")
    assert module.__spec__.name == f"vitjax.{MOVED[old]}"


def test_every_old_name_leads_to_a_module():
    code = (
        "import importlib, warnings; warnings.simplefilter('ignore'); from vitjax._moved import MOVED\n"
        "for old in MOVED: importlib.import_module('vitjax.' + old)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_that_never_were_stay_unknown():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("vitjax.nothing")
