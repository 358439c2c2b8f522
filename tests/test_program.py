import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from vitjax import program
from vitjax.config import EvalConfig
from vitjax.data.sources import FolderSource
from vitjax.training.config import TrainConfig

CONFIG = """
from vitjax.config import EvalConfig
def get_config(arg=""):
    if arg:
        raise ValueError(f"config argument {arg!r} is unknown")
    return EvalConfig()
"""


@pytest.fixture
def config_file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return str(path)


def call(main, *args: str) -> int:
    return program._run(main, EvalConfig, "A program.", ["prog", *args])


def test_flags_reach_the_config(config_file: str):
    seen = []
    args = ["--config", config_file, "--workdir", "w", "--config.rerank.mass=0.7", "--config.model.grid", "4"]
    assert call(lambda config, workdir: seen.append((config, workdir)), *args) == 0
    config, workdir = seen[0]
    assert (config.rerank.mass, config.model.grid, workdir) == (0.7, 4, "w")
    assert (
        call(lambda config, workdir: seen.append((config, workdir)), *args, "--config.rerank.mass=auto") == 0
    )
    assert seen[1][0].rerank.mass == "auto"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.rerank.topk=3"], "did you mean --config.rerank.top_k"),
        (["--config.rerank.top_k=many"], "top_k"),
        (["--wordkir=x"], "wordkir"),
        (["stray"], "'stray'"),
        ([], "--workdir"),
    ],
)
def test_wrong_flags_exit_2_with_one_line(config_file, arguments, words, capsys):
    assert call(pytest.fail, "--config", config_file, *arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("config", ["missing.py", None, "variant"])
def test_a_config_that_cannot_be_had_exits_2(config_file, config, capsys):
    value = {
        "missing.py": ["--config", "missing.py"],
        None: [],
        "variant": ["--config", f"{config_file}:big"],
    }
    assert call(pytest.fail, *value[config], "--workdir", "w") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert len(printed) > 20


def test_help_names_every_field(capsys):
    assert call(pytest.fail, "--help") == 0
    printed = capsys.readouterr().out
    for path, *_ in program.fields(EvalConfig()):
        assert f"--{path}=" in printed


@pytest.mark.parametrize("config", [EvalConfig(), TrainConfig()])
def test_every_field_has_a_comment(config):
    assert [path for path, _, _, comment in program.fields(config) if len(comment) < 5] == []


def test_print_config_shows_values_and_does_not_run(config_file, capsys):
    assert call(pytest.fail, "--config", config_file, "--print_config", "--config.rerank.epsilon=0.1") == 0
    assert "config.rerank.epsilon = 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("error", [program.UserError("no\nluck"), FileNotFoundError("no luck")])
def test_user_errors_exit_1_with_one_line(config_file, error, capsys):
    def main(config, workdir):
        raise error

    assert call(main, "--config", config_file, "--workdir", "w") == 1
    assert capsys.readouterr().err == "prog: no luck\n"


def test_a_bug_keeps_its_traceback(config_file):
    def main(config, workdir):
        dataclasses.replace(config, nonsense=1)

    with pytest.raises(TypeError):
        call(main, "--config", config_file, "--workdir", "w")


def test_a_value_error_from_a_library_keeps_its_traceback(config_file):
    import numpy as np

    def main(config, workdir):
        np.linalg.norm(np.zeros((2, 2, 2)), ord="nuc")

    with pytest.raises(ValueError, match="norm"):
        call(main, "--config", config_file, "--workdir", "w")


STARTED = """
import os, pathlib, signal, sys
print(os.getpid(), flush=True)
from vitjax import program
program.use_large_pages(pathlib.Path(sys.argv[1]))
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.dont_write_bytecode, flush=True)
if sys.argv[2] == "wait":
    signal.pause()
sys.exit(3)
"""
LARGE = "glibc.malloc.hugetlb=1"


def started(folder: pathlib.Path, mode: str, word: str, **env: str) -> subprocess.Popen:
    (folder / "switch").write_text(mode)
    (folder / "program.py").write_text(STARTED)
    root = pathlib.Path(program.__file__).parent.parent
    mine = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-B", folder / "program.py", folder / "switch", word]
    return subprocess.Popen(
        command, env=mine | {"PYTHONPATH": str(root)} | env, text=True, stdout=subprocess.PIPE
    )


def test_a_process_gets_large_pages_by_starting_anew_once_and_is_the_same_to_those_who_started_it(tmp_path):
    with started(tmp_path, "always [madvise] never", "a word") as process:
        first, again, last = process.communicate()[0].splitlines()
    assert process.returncode == 3
    assert first == again == str(process.pid)
    assert last == f"{process.pid} {LARGE} ['a word'] True"
    with started(tmp_path, "always [madvise] never", "wait") as process:
        assert process.stdout is not None
        assert [process.stdout.readline().split()[0] for _ in range(3)] == [str(process.pid)] * 3
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("mode", "env", "found"),
    [
        ("[always] madvise never", {}, None),
        ("always madvise [never]", {}, None),
        ("always [madvise] never", {"GLIBC_TUNABLES": ""}, ""),
    ],
)
def test_a_process_does_not_start_anew_where_that_is_of_no_use_or_not_wanted(tmp_path, mode, env, found):
    with started(tmp_path, mode, "a word", **env) as process:
        lines = process.communicate()[0].splitlines()
    assert lines == [str(process.pid), f"{process.pid} {found} ['a word'] True"]


def test_a_benchmark_ends_with_one_line_where_the_user_can_mend_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/tokens.py", "--gallery", "nowhere"])
    with pytest.raises(SystemExit) as end:
        program.run_benchmark(lambda: FolderSource("nowhere"))
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("benchmarks/tokens.py: 'nowhere' does not exist;")
    with pytest.raises(ZeroDivisionError):
        program.run_benchmark(lambda: 1 / 0)
