"""Processes of one run: they meet before the first exchange, and one that dies is missed by the others."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import ROOT
from vitjax import sharding
from vitjax.system import peers


def start_pair(*command: str, **env: str) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = os.environ | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    shared |= {"PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""} | env
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    ranks = [shared | {"JAX_PROCESS_ID": rank} for rank in ("0", "1")]
    return [subprocess.Popen([sys.executable, *command], env=env, **pipes) for env in ranks]


def test_all_processes_meet_once_before_the_first_exchange(monkeypatch):
    calls = []
    monkeypatch.setattr(sharding, "_join", lambda: True)
    monkeypatch.setattr(sharding.jax, "process_count", lambda: 2)
    monkeypatch.setattr(sharding, "wait_for_all", calls.append)
    monkeypatch.setattr(peers, "watch", lambda: calls.append("exchange"))
    sharding._meet.cache_clear()
    try:
        assert sharding.initialize_distributed() and sharding.initialize_distributed()
    finally:
        sharding._meet.cache_clear()
    assert calls == ["started", "exchange"]


@pytest.mark.parametrize(
    "text",
    [
        "UNKNOWN: Gloo all-reduce failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:6028",
        "Timeout waiting at barrier '[op=vitjax] x'. Barrier failed because: Task 1 heartbeat timeout.",
        "UNAVAILABLE: CoordinationServiceError: task 1",
    ],
)
def test_errors_of_a_process_that_is_gone_are_known_where_there_are_others(monkeypatch, text):
    assert not peers.lost(RuntimeError(text))
    monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
    assert peers.lost(RuntimeError(text))
    assert not peers.lost(ValueError("config.rerank.mass is 2"))


DYING = """
import time
from vitjax.cli import flags
flags.begin()
from vitjax import sharding
from vitjax.config import EvalConfig
def main(config, workdir):
    sharding.initialize_distributed()
    print("ready", flush=True)
    while True:
        time.sleep(100) if workdir == "busy" else sharding.from_main(1)
flags.run(main, EvalConfig, "")
"""
CONFIG = "import vitjax.config\nget_config = lambda arg: vitjax.config.EvalConfig()"


@pytest.mark.parametrize(
    ("victim", "mode"),
    [
        (1, "exchange"),
        pytest.param(0, "exchange", marks=pytest.mark.slow),
        pytest.param(1, "busy", marks=pytest.mark.slow),
        pytest.param(0, "busy", marks=pytest.mark.slow),
    ],
)
def test_where_one_process_is_killed_the_other_ends_with_one_line_and_exit_1(tmp_path, victim, mode):
    (tmp_path / "dying.py").write_text(DYING)
    (tmp_path / "config.py").write_text(CONFIG)
    pair = start_pair(str(tmp_path / "dying.py"), f"--config={tmp_path / 'config.py'}", f"--workdir={mode}")
    try:
        for process in pair:
            assert process.stdout is not None and "ready\n" in iter(process.stdout.readline, "")
        time.sleep(0.5)
        pair[victim].send_signal(signal.SIGKILL)
        other = pair[1 - victim]
        _, err = other.communicate(timeout=30)
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    said = [line for line in err.splitlines() if not line.startswith("[Gloo]")]
    line = f"{tmp_path / 'dying.py'}: {peers.LOST}"
    assert "Traceback" not in err
    if victim == 0:  # with JAX's coordinator, of which JAX may tell as well
        assert line in said, err
        return
    assert said == [line], err
    assert other.returncode == 1


LATE = """
import os, sys, time
sys.argv[0] = "eval.py"
import eval as program_under_test
from vitjax.cli import flags
from vitjax.config import EvalConfig
places = {"start": (flags, "open_workdir"), "model": (program_under_test.Reranker, "from_config")}
rank, (owner, name) = os.environ["JAX_PROCESS_ID"], places[sys.argv.pop()]
real = getattr(owner, name)
def late(*args, **more):
    if rank == "1":
        time.sleep(40)
    return real(*args, **more)
setattr(owner, name, late)
flags.run(program_under_test.main, EvalConfig, "")
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["start", "model"])
def test_two_processes_search_however_late_one_of_them_is(tmp_path, place):
    from tests.photos import write_folder

    folder = write_folder(tmp_path / "shop", kinds=2, variants=2)
    (tmp_path / "late.py").write_text(LATE)
    small = ["--config.weights=", "--config.model.name=vit_tiny_patch16_224", "--config.model.img_size=32"]
    small += ["--config.model.depth=1", "--config.model.block=0", "--config.model.grid=0"]
    small += ["--config.figures.count=0", "--config.figures.report=0", f"--config.data.gallery={folder}"]
    config = f"--config={ROOT / 'configs/folder.py'}"
    pair = start_pair(str(tmp_path / "late.py"), config, f"--workdir={tmp_path / 'out'}", *small, place)
    ends = [process.communicate(timeout=200) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    assert (tmp_path / "out" / "results.json").is_file()
