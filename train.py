r"""Train a model: to classify images, to keep only part of their tokens, or to embed images for retrieval.

python train.py --config configs/smoke.py --workdir runs/smoke

The same command again resumes the run from its last checkpoint, bit for bit on a CPU.
"""

import os
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of what is not imported yet

from vitjax.cli import flags
from vitjax.config.train_config import TrainConfig

if __name__ == "__main__":
    flags.begin(TrainConfig, __doc__)

import dataclasses
import pathlib
import sys
import time
from typing import Any

from vitjax import sharding
from vitjax.cli import console, run_files
from vitjax.cli.session import only_run, start
from vitjax.config.fields import to_dict
from vitjax.config.train_config import validate
from vitjax.evaluation.result_tables import print_results
from vitjax.training import preemption
from vitjax.training.checkpoint import Checkpoints
from vitjax.training.log import MetricLog
from vitjax.training.loop import export, loop
from vitjax.training.output import Output
from vitjax.training.prepare import Run, compiled, count_steps, prepare  # noqa: F401 (for importers)
from vitjax.training.results import last_pace, note_run, summarize
from vitjax.training.resuming import check_checkpoints, feed_notes, resume, say_batch_size
from vitjax.training.session import Progress, Session, Throughput
from vitjax.training.state import State

CONSOLE = Output(console.say, console.warn, console.bar)


def main(config: TrainConfig, workdir: str) -> None:
    """Runs the program; into a pipe, the last line on stdout is one JSON object with the final figures."""
    validate(config)
    out, writes = start(workdir), sharding.is_main_process()
    with only_run(out, holds=writes), preemption.Stop().listening() as stop:
        results = train(config, out, stop)
        print_results(results)
        if stop.busy:  # a compilation or a read that cannot be interrupted: the interpreter would wait
            sys.stdout.flush()
            os._exit(130 if stop.reason == "SIGINT" else 0)
    if stop.reason == "SIGINT":
        raise KeyboardInterrupt  # the exit code of a program that the keyboard ended


def train(config: TrainConfig, out: pathlib.Path, stop: preemption.Stop) -> dict[str, Any]:
    """Trains from the last checkpoint on; writes all under `out` and returns what results.json holds."""
    began = time.perf_counter()
    run, state, progress, session = begin(config, out, stop)
    first = int(state.step)
    if first < run.steps or progress.evaluated != first:
        run = stop.unless(lambda: compiled(run, state, output=CONSOLE)) or run
        sharding.wait_for_all("compiled")
        state, progress = loop(run, state, progress, session)
    save_last(state, progress, session)
    results = summarize(run, int(state.step), progress, session, time.perf_counter() - began)
    if int(state.step) == first and progress.clock is None:
        results["images_per_second"] = last_pace(out / "results.json")
    write_results(results, session)
    return results


def begin(
    config: TrainConfig, out: pathlib.Path, stop: preemption.Stop
) -> tuple[Run, State, Progress, Session]:
    """Prepares a run and its state: that of the last checkpoint, or the initial one."""
    writes = sharding.is_main_process()
    saves = Checkpoints(out / "checkpoints", keep=config.checkpoint.keep, writes=writes)
    check_checkpoints(out, saves, every=config.checkpoint.every, output=CONSOLE)
    last = saves.latest()
    resumes = None if last is None else (last, Progress.from_notes(saves.notes(last)))
    run, state = prepare(config, out, resumes=resumes, output=CONSOLE)
    note_run(config, run.recipe, out, output=CONSOLE)
    state, progress = resume(saves, state, output=CONSOLE)
    say_batch_size(progress, int(state.step), config, run.feed, run.steps, output=CONSOLE)
    progress = dataclasses.replace(progress, feed=feed_notes(run.feed))
    clock, log = Throughput(config.batch_size, progress.clock), None
    if writes:
        kept = -1 if last is None else last  # lines of metrics.jsonl
        log = MetricLog(out, step=kept, config=to_dict(config), wandb=config.wandb, output=CONSOLE)
    return run, state, progress, Session(out, saves, stop, clock, log, CONSOLE)


def save_last(state: State, progress: Progress, session: Session) -> None:
    """Saves the state with which this start ends, and the weights of a run that has ended."""
    step, stop = int(state.step), session.stop
    if stop.reason:
        session.output.say(f"{stop.reason}: saving step {step}; the same command resumes from there")
    session.save(step, state, progress, prune=progress.train_loss is not None)
    session.saves.wait()
    if not stop.reason:
        export(session.out / "last.safetensors", state)


def write_results(results: dict[str, Any], session: Session) -> None:
    """Writes results.json and closes the log, in the process that does."""
    if session.log is not None:
        session.log.close()
        run_files.write_json(session.out / "results.json", results)
        session.output.say(f"wrote {session.out / 'results.json'}")


if __name__ == "__main__":
    flags.run(main, TrainConfig, __doc__ or "")
