import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests import ROOT
from vitjax.cli import flags
from vitjax.config import EvalConfig, validate
from vitjax.config.train_config import TrainConfig
from vitjax.data.sources.base import FolderSource
from vitjax.errors import UserError

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
    return flags._run(main, EvalConfig, "A program.", ["prog", *args])


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


@pytest.mark.parametrize(("text", "block"), [("7", 7), ("-1", -1), ("5,11", (5, 11)), ("(5, -1)", (5, -1))])
def test_one_block_or_several_reach_the_config(config_file: str, text, block):
    seen = []
    args = ["--config", config_file, "--workdir", "w", f"--config.model.block={text}"]
    assert call(lambda config, workdir: seen.append(config), *args) == 0
    assert seen[0].model.block == block


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.rerank.topk=3"], "did you mean --config.rerank.top_k"),
        (["--config.rerank.top_k=many"], "top_k"),
        (["--config.model.block=5,last"], "model.block"),
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
    for path, *_ in flags.fields(EvalConfig()):
        assert f"--{path}=" in printed


@pytest.mark.parametrize("config", [EvalConfig(), TrainConfig()])
def test_every_field_has_a_comment(config):
    assert [path for path, _, _, comment in flags.fields(config) if len(comment) < 5] == []


def test_print_config_shows_values_and_does_not_run(config_file, capsys):
    assert call(pytest.fail, "--config", config_file, "--print_config", "--config.rerank.epsilon=0.1") == 0
    assert "config.rerank.epsilon = 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("error", [UserError("no\nluck"), FileNotFoundError("no luck")])
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
from vitjax.cli import flags
flags.use_large_pages(pathlib.Path(sys.argv[1]))
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.dont_write_bytecode, flush=True)
if sys.argv[2] == "wait":
    signal.pause()
sys.exit(3)
"""
LARGE = "glibc.malloc.hugetlb=1"


def started(folder: pathlib.Path, mode: str, word: str, **env: str) -> subprocess.Popen:
    (folder / "switch").write_text(mode)
    (folder / "program.py").write_text(STARTED)
    root = ROOT
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
        flags.run_benchmark(lambda: FolderSource("nowhere"))
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("benchmarks/tokens.py: 'nowhere' does not exist;")
    with pytest.raises(ZeroDivisionError):
        flags.run_benchmark(lambda: 1 / 0)


@pytest.mark.parametrize(("name", "config"), [("eval.py", "demo"), ("train.py", "smoke")])
def test_the_keyboard_ends_a_program_that_still_imports_with_exit_130_and_no_traceback(
    tmp_path, name, config
):
    root = ROOT
    # In place of an import that takes a second or so, one that takes longer and does not mind interrupts.
    (tmp_path / "jax.py").write_text(SLOW)
    with subprocess.Popen(
        [sys.executable, root / name, f"--config={config}", "--workdir=w"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")


SLOW = """
import time
print("importing", flush=True)
try:
    time.sleep(30)
except BaseException:
    pass
"""


def test_the_keyboard_before_and_after_the_work_is_one_line_and_exit_130(config_file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prog", "--config", config_file, "--workdir", "w"])
    monkeypatch.setattr(flags, "protect", lambda: None)
    before = signal.getsignal(signal.SIGINT)

    def interrupted(*_):
        raise KeyboardInterrupt

    try:
        for place in ("parse", "_guarded"):
            with monkeypatch.context() as patched:
                patched.setattr(flags, place, interrupted)
                with pytest.raises(SystemExit) as end:
                    flags.run(pytest.fail, EvalConfig, "")
            assert end.value.code == 130
            assert capsys.readouterr().err == "prog: stopped by the keyboard\n"
    finally:
        signal.signal(signal.SIGINT, before)


HOSTILE_FLAGS = [
    "--config.reduce.sweep=('x',)",
    "--config.reduce.sweep=(1,",
    "--config.reduce.sweep=" + "(" * 300,
    "--config.seed=99999999999999999999",
    "--config.seed=" + "9" * 5000,
    "--config.seed=-1",
    "--config.rerank.top_k=3000000000",
    "--config.rerank.epsilon=inf",
    "--config.rerank.weight=1e400",
    "--config.rerank.mass=nan",
    "--config.figures.count=1.5",
    "--config.data.gallery=~nobody-of-that-name/x",
    "--config.index.path=~nobody-of-that-name/x",
    "--config=~nobody-of-that-name/x.py",
    "--workdir=~nobody-of-that-name/x",
]


@pytest.mark.parametrize("flag", HOSTILE_FLAGS, ids=lambda flag: flag[:40])
def test_a_value_that_cannot_be_is_one_line(config_file, flag, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def main(config, workdir):
        validate(config)
        pytest.fail("it passed")

    assert call(main, "--config", config_file, "--workdir=w", flag) in (1, 2)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and flag.split("=")[0].strip("-") in printed, printed
    assert [path.name for path in tmp_path.iterdir() if path.name != "config.py"] == []


@pytest.mark.parametrize("config_type", [EvalConfig, TrainConfig])
def test_the_sign_of_the_home_folder_is_read_in_every_field_of_text(config_type, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    name = f"{config_type.__module__}.{config_type.__name__}"
    file = tmp_path / "config.py"
    file.write_text(f"import {config_type.__module__}\nget_config = lambda arg: {name}()")
    texts = [path for path, _, value, _ in flags.fields(config_type()) if isinstance(value, str)]
    assert {"config.data.workers", "config.seed"}.isdisjoint(texts) and len(texts) > 10
    seen = []
    arguments = ["prog", f"--config={file}", "--workdir=~/run", *(f"--{path}=~/x" for path in texts)]
    assert flags._run(lambda *given: seen.append(given), config_type, "", arguments) == 0
    (config, workdir), = seen  # fmt: skip
    found = {path: value for path, _, value, _ in flags.fields(config)}
    assert [path for path in texts if found[path] != "/home/me/x"] == []
    assert workdir == "/home/me/run"


def test_a_results_file_that_is_a_folder_is_said_before_any_work(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(UserError, match=r"results\.json is a folder"):
        flags.open_workdir(str(tmp_path))
