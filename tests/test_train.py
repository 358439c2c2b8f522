"""The program as people run it, and what may happen to it: killed, told to stop, no disk, no numbers."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import QUICK, ROOT
from tests.data.layouts import write_msls
from vitjax.training.checkpoint import _hash_of

STEPS = 48  # of 22 an epoch: resumed runs end in the third
SHORT = [
    f"--config.steps={STEPS}",
    "--config.checkpoint.every=8",
    "--config.log_every=1",
    "--config.eval_start=True",
]
TINY = [  # compiles in a few seconds; its teacher is random
    "--config.model.weights=",
    "--config.model.depth=2",
    "--config.model.embed_dim=16",
    "--config.model.num_heads=2",
]
SMOKE = sorted(p.stem for p in ROOT.glob("configs/*.py") if f"{p.stem}.py:smoke" in p.read_text())
STARTED: list[subprocess.Popen] = []
CACHE = ROOT / "runs" / "test-cache"  # compiled once for all processes


def start(workdir: pathlib.Path, *arguments: str, devices: int = 1, **env: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", "--config=configs/smoke.py", f"--workdir={workdir}"]
    variables = os.environ | QUICK | {"JAX_PLATFORMS": "cpu", "VITJAX_CACHE": str(CACHE)}
    variables["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    process = subprocess.Popen(
        [*command, *SHORT, *TINY, *arguments],
        cwd=ROOT, env=variables | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """One of two that waits for the other would run for an hour."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def run(workdir: pathlib.Path, *arguments: str, devices: int = 1, **env: str) -> tuple[int, str, str]:
    process = start(workdir, *arguments, devices=devices, **env)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def lines(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    clock = {"images_per_second", "step_ms", "data_wait"}
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in clock} for line in found]


def sums(workdir: pathlib.Path, step: int = STEPS) -> dict[str, int]:
    """Sums over the bits of every leaf of a checkpoint: parameters, moments, running means, counters."""
    return json.loads((workdir / "checkpoints" / str(step) / "whole.json").read_text())["content"]["sums"]


def wait_for_step(workdir: pathlib.Path, step: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and any(line["step"] >= step for line in _whole(workdir)):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def _whole(workdir: pathlib.Path) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def kill_and_finish(workdir: pathlib.Path, moments: list[tuple[int, float]]) -> None:
    """Kills the run so many times, some seconds after it reached a step, and then lets it end."""
    for step, pause in moments:
        process = start(workdir)
        wait_for_step(workdir, step, process)
        saved = last_saved(workdir)
        time.sleep(pause)
        process.kill()
        process.communicate()
        reached = max(line["step"] for line in _whole(workdir))
        assert last_saved(workdir) >= max(saved, reached - 2 * 8), "more than the save under way was lost"
    code, _, err = run(workdir)
    assert code == 0, err


def last_saved(workdir: pathlib.Path) -> int:
    return max((int(p.parent.name) for p in workdir.glob("checkpoints/*/whole.json")), default=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict]:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, out, err = run(workdir)
    assert code == 0, err
    return workdir, json.loads(out.splitlines()[-1])


def test_results_end_as_promised(undisturbed):
    workdir, last = undisturbed
    assert json.loads((workdir / "results.json").read_text()) == last
    assert list(last)[-2:] == ["metrics", "step"]
    assert last["step"] == STEPS
    assert last["metrics"]["train_loss"] == lines(workdir)[-2]["loss"]
    assert 0 < last["metrics"]["accuracy"] <= 1


def test_every_logged_step_has_a_line_with_all_four_losses(undisturbed):
    workdir, _ = undisturbed
    assert list(lines(workdir)[0]) == ["step", "accuracy", "mean_class_accuracy"]  # before the first step
    steps = [line for line in lines(workdir) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        total = line["classify"] + 20 * line["ratio"] + 0.5 * line["distill"] + 0.5 * line["token"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert min(line[name] for name in ("classify", "ratio", "distill", "token")) > 0


def test_killed_twice_a_run_ends_bit_for_bit_like_an_undisturbed_one(undisturbed, tmp_path):
    moments = random.Random(0)
    kill_and_finish(tmp_path / "run", [(step, moments.random() / 2) for step in (17, 40)])
    assert sums(tmp_path / "run") == sums(undisturbed[0])
    assert lines(tmp_path / "run") == lines(undisturbed[0])


def test_a_run_whose_checkpoints_are_gone_stops_with_a_line_and_keeps_its_record(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed[0], workdir)
    (workdir / "checkpoints").rename(tmp_path / "another disk")
    (workdir / "results.json").unlink()  # as after a kill
    before = {path.name: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    assert {"metrics.jsonl", "best.safetensors", "last.safetensors", "checkpoints.json"} <= set(before)
    for _ in range(2):  # a refusal leaves nothing that the next start could take for a beginning
        code, out, err = run(workdir)
        assert (code, out) == (1, "")
        said = err.splitlines()[-1]
        assert f"knows a run of {STEPS} steps" in said and "mount or restore that folder" in said
        assert "Traceback" not in err
    after = {path.name: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    assert {name: after[name] for name in before if name != "run.lock"} == {
        name: content for name, content in before.items() if name != "run.lock"
    }


@pytest.mark.slow
def test_a_run_resumes_with_another_batch_size_behind_the_images_it_has_seen(tmp_path):
    arguments = [
        "--config.epochs=2",
        "--config.steps=0",
        "--config.log_every=1",
        "--config.optim.warmup_epochs=0",
    ]
    process = start(tmp_path, *arguments)
    wait_for_step(tmp_path, 5, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    stopped = json.loads(out.splitlines()[-1])["step"]
    assert 5 <= stopped < 22, err
    code, out, err = run(tmp_path, *arguments, "--config.batch_size=32")
    assert code == 0, err
    (said,) = [line for line in err.splitlines() if "batch size 64 -> 32" in line and "an epoch" in line]
    assert f"epoch 0 resumes behind the {64 * stopped} images" in said and "an epoch is now 44 steps" in said
    found = [line for line in lines(tmp_path) if "loss" in line]
    assert found[-1]["epoch"] == 2
    assert found[-1]["step"] == stopped + (1437 - 64 * stopped) // 32 + 44
    epochs, rates = ([line[name] for line in found] for name in ("epoch", "learning_rate"))
    assert epochs == sorted(epochs) and rates == sorted(rates, reverse=True)


@pytest.mark.slow
def test_the_smoke_config_learns_to_do_with_a_third_of_the_tokens(tmp_path):
    command = [sys.executable, "train.py", "--config=configs/smoke.py", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["metrics"]["accuracy"] > 0.8
    assert [line["kept"] for line in lines(tmp_path) if "kept" in line][-1] == pytest.approx(0.343, abs=0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("five", range(4))
def test_killed_at_twenty_moments_a_run_ends_bit_for_bit_like_an_undisturbed_one(undisturbed, tmp_path, five):
    draw = random.Random(1 + five)
    for number in range(5):
        workdir = tmp_path / str(number)
        kill_and_finish(workdir, [(draw.randrange(1, STEPS - 1), draw.random())])
        assert sums(workdir) == sums(undisturbed[0])
        assert lines(workdir) == lines(undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "number", "code"),  # between saves, about the evaluation, at a save
    [(5, signal.SIGTERM, 0), (22, signal.SIGTERM, 0), (24, signal.SIGTERM, 0), (5, signal.SIGINT, 130)],
)
def test_told_to_stop_a_run_saves_and_goes_on_exactly(undisturbed, tmp_path, step, number, code):
    process = start(tmp_path / "run")
    wait_for_step(tmp_path / "run", step, process)
    process.send_signal(number)
    told = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert time.monotonic() - told < 10
    stopped = json.loads(out.splitlines()[-1])
    assert stopped["stopped"] == number.name
    assert step <= stopped["step"] == last_saved(tmp_path / "run") < STEPS
    assert run(tmp_path / "run")[0] == 0
    assert sums(tmp_path / "run") == sums(undisturbed[0])
    assert lines(tmp_path / "run") == lines(undisturbed[0])


@pytest.mark.slow
def test_a_start_that_fails_leaves_no_run_and_a_finished_run_keeps_its_pace(undisturbed, tmp_path):
    code, _, err = run(tmp_path / "new", "--config.batch_size=4096")
    assert code == 1, err
    assert not (tmp_path / "new" / "run.json").exists()
    shutil.copytree(undisturbed[0], tmp_path / "run")
    code, out, err = run(tmp_path / "run")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["images_per_second"] == undisturbed[1]["images_per_second"] > 0


@pytest.mark.slow
def test_told_to_stop_in_the_last_evaluation_the_next_start_ends_it(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    manifest = tmp_path / "run" / "checkpoints" / str(STEPS) / "whole.json"
    content = json.loads(manifest.read_text())["content"]
    content["notes"]["evaluated"] = 44  # as the stopped run leaves it
    manifest.write_text(json.dumps({"sha256": _hash_of(content), "content": content}))
    written = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(written[:-1]) + "\n")
    code, out, err = run(tmp_path / "run")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["metrics"] == undisturbed[1]["metrics"]
    assert lines(tmp_path / "run") == lines(undisturbed[0])


@pytest.mark.slow
def test_told_to_stop_in_the_first_compilation_a_run_exits_0_at_once(undisturbed, tmp_path):
    process = start(tmp_path / "run", VITJAX_CACHE=str(tmp_path / "cold"))
    while not (tmp_path / "run" / "metrics.jsonl").exists():  # made right before compilation starts
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert time.monotonic() - told < 10
    assert json.loads(out.splitlines()[-1])["step"] == 0
    assert "compiled" not in err
    assert run(tmp_path / "run")[0] == 0
    assert sums(tmp_path / "run") == sums(undisturbed[0])


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_devices(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    for devices, steps in ((8, 16), (1, 32), (2, STEPS)):
        process = start(workdir, devices=devices)
        if steps < STEPS:
            wait_for_step(workdir, steps, process)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    ours, theirs = lines(workdir), lines(undisturbed[0])
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        rounding = 1e-5 if a["step"] <= 20 else 1e-4  # it grows: 8 devices to step 16, 1 to 32, 2 to 48
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), rel=rounding)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_two_processes_learn_what_one_does(undisturbed, tmp_path, sharding):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    pair = [
        start(
            tmp_path, f"--config.sharding={sharding}",
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(rank),
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=240) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert "{" not in said[1][0]  # figures come from the first process alone
    for ours, theirs in zip(lines(tmp_path)[:20], lines(undisturbed[0])[:20], strict=True):
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-5)
    assert run(tmp_path, f"--config.steps={STEPS + 2}")[0] == 0  # and one goes on from what two saved


@pytest.mark.slow
def test_of_two_processes_one_is_told_to_stop_and_both_do(undisturbed, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    pair = [
        start(tmp_path, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(rank))
        for rank in range(2)
    ]
    wait_for_step(tmp_path, 10, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    stopped = json.loads(said[0][0].splitlines()[-1])
    assert stopped["step"] == last_saved(tmp_path) < STEPS


@pytest.mark.slow
def test_data_read_by_processes_is_the_same_and_they_do_not_keep_the_folder_after_a_kill(
    undisturbed, tmp_path
):
    process = start(tmp_path, "--config.data.processes=2")
    wait_for_step(tmp_path, 3, process)
    process.kill()
    process.communicate()
    code, _, err = run(tmp_path, "--config.data.processes=2")
    assert code == 0, err
    assert sums(tmp_path) == sums(undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "no image came for 20 s")]
)
def test_a_data_process_that_dies_or_hangs_stops_the_run_with_a_line(tmp_path, number, said):
    process = start(tmp_path, "--config.data.processes=1", "--config.data.patience=20", "--config.steps=9999")
    wait_for_step(tmp_path, 3, process)
    (reader,) = data_processes(process.pid)
    os.kill(reader, number)
    out, err = process.communicate(timeout=120)  # returns when no process holds its ends: the reader is gone
    assert process.returncode == 1
    assert out == ""
    assert [said in line for line in err.splitlines() if "data loader: no images of step" in line] == [True]


@pytest.mark.slow
def test_a_signal_to_the_whole_group_of_processes_stops_the_run_saved(undisturbed, tmp_path):
    process = start(tmp_path, "--config.data.processes=1")
    wait_for_step(tmp_path, 3, process)
    (reader,) = data_processes(process.pid)
    os.kill(reader, signal.SIGTERM)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["step"] == last_saved(tmp_path) < STEPS


@pytest.mark.slow
def test_told_to_stop_while_images_do_not_come_a_run_exits_0_saved(tmp_path):
    process = start(tmp_path, "--config.data.processes=1", "--config.steps=9999")
    wait_for_step(tmp_path, 3, process)
    (reader,) = data_processes(process.pid)
    os.kill(reader, signal.SIGSTOP)
    time.sleep(3)  # what was read ahead is used up
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert time.monotonic() - told < 10
    assert json.loads(out.splitlines()[-1])["step"] == last_saved(tmp_path)


def data_processes(parent: int) -> list[int]:
    """Processes that read images for a run."""
    mine = [p for p in pathlib.Path("/proc").glob("[0-9]*") if f"PPid:\t{parent}\n" in _text(p / "status")]
    return [int(p.name) for p in mine if "spawn_main" in _text(p / "cmdline")]


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


@pytest.mark.slow
@pytest.mark.parametrize("config", SMOKE)
def test_each_recipes_small_variant_trains(config, tmp_path):
    command = [sys.executable, "train.py", f"--config=configs/{config}.py:smoke", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["step"] == 4
    assert last["metrics"]["train_loss"] > 0
    if config.startswith("dynamic"):  # both are evaluated, as officially
        assert {"accuracy", "raw_accuracy"} <= set(last["metrics"])
        assert last["best"]["step"] == last["best_raw"]["step"] == 4
        assert (tmp_path / "best_raw.safetensors").exists()


@pytest.mark.slow
def test_places_are_learned_from_a_teachers_vectors_and_hard_negatives_and_a_run_goes_on_exactly(tmp_path):
    data, workdir, teacher = write_msls(tmp_path), tmp_path / "run", tmp_path / "teacher.npy"
    np.save(teacher, np.random.default_rng(0).standard_normal((8, 8), np.float32))
    arguments = [
        "--config=configs/msls_distill.py", f"--config.data.dir={data}", "--config.data.train=cph",
        "--config.data.test=sf", "--config.data.processes=0", "--config.batch_size=6", "--config.steps=7",
        "--config.model.name=deit_small_patch16_224", "--config.model.img_size=32", "--config.eval_every=3",
        "--config.checkpoint.every=1", "--config.checkpoint.keep=9", "--config.metric.embed_dim=8",
        "--config.model.dtype=float32", "--config.distill.negatives=1", "--config.distill.mine_every=2",
        f"--config.distill.vectors={teacher}",
    ]  # fmt: skip
    code, out, err = run(workdir, *arguments)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["metrics"]["recall_at_1"] in (0, 1)  # of one query
    first = lines(workdir)
    assert [line["loss"] for line in first if "loss" in line] == pytest.approx(
        [10 * line["distill"] + line["triplet"] for line in first if "loss" in line], rel=1e-5
    )
    for step in (4, 5, 6, 7):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    code, _, err = run(workdir, *arguments)
    assert code == 0, err
    assert "resuming from step 3" in err
    assert lines(workdir) == first


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_with_step_images_and_last_good_checkpoint(tmp_path):
    args = ["--config.optim.lr=1e19", "--config.optim.warmup_epochs=0.4", "--config.checkpoint.every=1"]
    code, out, err = run(tmp_path, *args)
    assert code == 1
    assert out == ""
    said = err.splitlines()[-1]
    assert "not finite at step" in said
    step = int(said.split("at step ")[1].split()[0])
    assert f"last good checkpoint: step {step - 1} (delete {tmp_path}/checkpoints/{step}, after" in said
    noted = json.loads((tmp_path / "not_finite.json").read_text())
    assert noted["step"] == step
    assert len(noted["names"]) == 64
    assert noted["names"][0] in said
    assert last_saved(tmp_path) == step
    shutil.rmtree(tmp_path / "checkpoints" / str(step))
    code, _, err = run(tmp_path, "--config.optim.lr=1e-3", f"--config.steps={step + 3}")
    assert code == 0, err


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out_and_counted_where_allowed(tmp_path):
    args = ["--config.optim.lr=1e19", "--config.optim.warmup_epochs=0.4", "--config.max_skipped=1000"]
    code, out, err = run(tmp_path, *args)
    assert code == 0, err
    assert 0 < json.loads(out.splitlines()[-1])["steps_skipped"] < STEPS
    first = next(line["step"] for line in lines(tmp_path) if line.get("skipped"))
    saved = sorted(int(p.parent.name) for p in tmp_path.glob("checkpoints/*/whole.json"))
    assert [step for step in saved[:-1] if step >= first] == []  # the last is where the run ended


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_refuses_and_after_a_kill_it_may(tmp_path):
    process = start(tmp_path)
    wait_for_step(tmp_path, 1, process)
    code, _, err = run(tmp_path)
    assert code == 1
    assert "another run is at work there" in err
    process.kill()
    process.communicate()
    assert run(tmp_path, "--config.steps=9")[0] == 0


@pytest.mark.slow
def test_a_full_disk_is_said_plainly_and_the_older_checkpoint_survives(tmp_path):
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        workdir, large = disk / "run", ("--config.model.embed_dim=96", "--config.checkpoint.keep=9")
        code, _, err = run(workdir, *large)
        assert code == 1
        said = err.splitlines()[-1]
        assert "the disk is full; free some space" in said
        saved = last_saved(workdir)
        assert f"step {saved} is whole" in said
        assert 8 <= saved < STEPS
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        code, _, err = run(workdir, *large)
        assert code == 0, err
        assert f"resuming from step {saved}" in err
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_whole_ones_too(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS) / "state")
    code, _, err = run(tmp_path / "run")
    assert code == 1
    said = err.splitlines()[-1]
    assert f"step {STEPS}" in said
    assert "is missing" in said
    assert "whole steps: 40" in said
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    assert run(tmp_path / "run")[0] == 0
    assert sums(tmp_path / "run") == sums(undisturbed[0])
