"""The `vitjax` command: its commands, names, completion and exit codes."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from vitjax import list_models
from vitjax.cli import builtin, main

COMMANDS = ("demo", "eval", "train", "threshold", "models", "doctor", "completion")


def called(monkeypatch, *arguments: str) -> int:
    """The exit code of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["vitjax", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        return main.main()
    except SystemExit as end:
        return int(end.code or 0)


def process(cwd: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vitjax", *arguments]
    env = os.environ | {"PYTHONPATH": str(builtin.folder())}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_exits_0(name, monkeypatch, capsys, tmp_path):
    if name in main.PROGRAMS:  # these set handlers of signals
        done = process(tmp_path, name, "--help")
        code, printed = done.returncode, done.stdout
    else:
        code, printed = called(monkeypatch, name, "--help"), capsys.readouterr().out
    assert code == 0
    assert len(printed.splitlines()) > 2


def test_the_help_of_the_command_names_every_command(monkeypatch, capsys):
    assert called(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if not re.search(rf"^    {name}\b", printed, re.MULTILINE)] == []


def test_models_lists_the_names_of_a_glob_and_where_published_weights_are(monkeypatch, capsys):
    assert called(monkeypatch, "models", "*dinov2*") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_models("*dinov2*")
    assert any("hf:timm/vit_small_patch14_dinov2" in line for line in lines)
    assert called(monkeypatch, "models", "siglip2_base_patch16_256") == 0
    row = "siglip2_base_patch16_256 375.2 M 23.4 256 768 Apache-2.0 hf:google/siglip2-base-patch16-256"
    printed = capsys.readouterr()
    assert printed.out.split() == row.split() and "parameters" in printed.err
    assert called(monkeypatch, "models", "--pretrained") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list_models(pretrained=True)


def test_a_glob_without_a_model_names_the_nearest_and_exits_1(monkeypatch, capsys):
    assert called(monkeypatch, "models", "deit_smal_patch16_224") == 1
    printed = capsys.readouterr().err
    assert "did you mean 'deit_small_patch16_224'?" in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evla",), "evla"),
        ((), "COMMAND"),
        (("completion", "fish"), "fish"),
        (("models", "--pretraind"), "--pretraind"),
    ],
)
def test_wrong_arguments_exit_2(arguments, words, monkeypatch, capsys):
    assert called(monkeypatch, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_built_in_config_is_found_by_name_from_any_folder(tmp_path):
    done = process(tmp_path, "train", "--config", "smoke:teacher", "--print_config")
    assert done.returncode == 0, done.stderr
    assert "config.data.source = 'digits'" in done.stdout and "config.epochs = 60.0" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_demo_is_eval_with_the_config_of_the_demo(tmp_path):
    done = process(tmp_path, "demo", "--print_config", "--config.figures.count=3")
    assert done.returncode == 0, done.stderr
    assert "config.data.source = 'scenes'" in done.stdout and "config.figures.count = 3" in done.stdout


@pytest.mark.parametrize(
    ("name", "hint"), [("dmeo", "demo"), ("configs/paper_deti.py", "paper_deit"), ("qqqqqq", "")]
)
def test_a_config_that_is_not_there_names_the_nearest_and_exits_2(tmp_path, name, hint):
    done = process(tmp_path, "eval", "--config", name, "--workdir", "w")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert name in done.stderr and hint in done.stderr
    assert ("nearest" in done.stderr) == bool(hint)


def test_a_value_out_of_range_exits_1_with_one_line(tmp_path):
    done = process(tmp_path, "eval", "--config", "demo", "--workdir", "w", "--config.rerank.epsilon=-1")
    assert done.returncode == 1
    assert done.stderr.endswith("config.rerank.epsilon is -1.0; it must be above 0, in units of the cost\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_script_holds_commands_flags_configs_and_words(shell, monkeypatch, capsys):
    pytest.importorskip("shtab")
    assert called(monkeypatch, "completion", shell) == 0
    script = capsys.readouterr().out
    for words in (*COMMANDS, "--config.rerank.epsilon", "--config.optim.lr", "fashion_mnist_vit", "chamfer"):
        assert words in script
