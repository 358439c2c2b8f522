"""The README's Python blocks run as they stand."""

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import vitjax
from tests import ROOT
from tests.photos import image
from vitjax.cli import builtin

TESTED = r"<!-- tested: tests/test_readme.py runs this block -->\n```python\n(.*?)```"
BLOCKS = re.findall(TESTED, (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def random_weights(path: pathlib.Path) -> None:
    """A checkpoint in timm's layout with the shapes of the demo's weights: no network in tests."""
    shapes = json.loads((ROOT / "tests/golden/manifests/timm_vit_small_patch14_dinov2.json").read_text())
    rng = np.random.default_rng(0)
    del shapes["_meta"]
    np.savez(path, **{name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()})


def test_the_blocks_are_found():
    assert len(BLOCKS) == 2


def test_the_five_lines_rank_three_files(tmp_path, monkeypatch, capsys):
    lines = [line for line in BLOCKS[0].splitlines() if line and not line.startswith("import")]
    assert len(lines) <= 5
    random_weights(tmp_path / "weights.npz")
    for name, kind in (("query", 0), ("a", 1), ("b", 0), ("c", 2)):
        Image.fromarray(image(kind, 0 if name == "query" else 1, 224)).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vitjax, "DEMO_WEIGHTS", str(tmp_path / "weights.npz"), raising=False)
    exec(BLOCKS[0], {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["0", "1", "2"]
    assert sorted(line.split()[1] for line in printed) == ["0", "1", "2"]


def test_arrays_of_any_model_are_reranked(capsys):
    exec(BLOCKS[1], {})
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "link", re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
)
def test_linked_files_exist(link: str):
    assert (ROOT / link).is_file()


def test_the_shell_commands_name_real_targets_and_configs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets
    assert all((ROOT / name).is_file() for name in re.findall(r"configs/\w+\.py", text))


def test_the_commands_of_the_installed_program_name_its_configs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"vitjax (?:eval|train) --config (\w+)", text)
    assert len(named) >= 10 and set(named) <= set(builtin.config_names())
    commands = set(re.findall(r"^(?:.*`)?vitjax ([a-z]+)", text, re.MULTILINE))
    assert commands <= {"demo", "eval", "train", "models", "doctor", "completion"}
