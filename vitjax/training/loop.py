"""The steps of a run, one after another: evaluated, logged and saved when that is due."""

import contextlib
import pathlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from vitjax import sharding
from vitjax.cli import run_files
from vitjax.errors import UserError
from vitjax.training.checkpoint import Checkpoints
from vitjax.training.prepare import Run
from vitjax.training.session import Progress, Session
from vitjax.training.state import State
from vitjax.weights.write import write_weights

RAW = "raw_"  # before the metrics of the parameters themselves, where their EMA is evaluated as well
PROFILE_FROM = 10  # steps after the start: compilation and warm-up are over


def loop(run: Run, state: State, progress: Progress, session: Session) -> tuple[State, Progress]:
    """Every step from the state's on, until the last or until the run is to stop."""
    config, start, metrics = run.config, int(state.step), {}
    first = _due(run, start, run.eval_every) if start else config.eval_start
    if first and progress.evaluated != start:  # or the run before was told to stop in the midst of it
        progress = evaluate(run, state, progress, session)
    with contextlib.closing(run.feed.steps(start, run.steps, session.stop.now)) as batches:
        for step in range(start, run.steps):
            if run.renew is not None:
                run.renew(step, state.evaluated, session.stop.now)
            if session.stop.asked(step):
                break
            profile(config.profile, session.out, step - start, run.steps - start)
            with session.clock.waiting():
                if (read := next(batches, None)) is None:  # told to stop while no batch comes
                    session.stop.busy = True
                    break
                batch = sharding.shard_batch(read, run.mesh)
            before = metrics.get("loss")
            state, metrics = run.update(state, batch, run.teacher)
            jax.block_until_ready(before)  # never more than two steps are under way
            done = step + 1
            logs, evaluates, saves = (
                _due(run, done, every)
                for every in (config.log_every, run.eval_every, config.checkpoint.every)
            )
            if not (logs or evaluates or saves):
                continue
            session.saves.check()
            progress = check_finite(run, metrics, progress, session)
            if logs:
                write_line(run, done, jax.device_get(metrics), session)
            if evaluates:
                progress = evaluate(run, state, progress, session)
            if saves and not session.stop.reason and progress.train_loss is not None:
                session.save(done, state, progress)
        else:
            return state, progress
    return state, check_finite(run, metrics, progress, session) if metrics else progress


def _due(run: Run, step: int, every: int) -> bool:
    return step == run.steps or step % every == 0


def evaluate(run: Run, state: State, progress: Progress, session: Session) -> Progress:
    """Evaluates a state, and with `eval_raw` its parameters; nothing is noted where told to stop."""
    config, stopped = run.config, session.stop.now
    found = run.evaluation(state.evaluated, stopped)
    raw = run.evaluation(state.variables, stopped) if config.eval_raw and found is not None else {}
    if found is None or raw is None:
        return progress
    found = found | {f"{RAW}{name}": value for name, value in raw.items()}
    return note_evaluation(run.evaluation.score, state, progress, found, session)


def note_evaluation(
    judge: str, state: State, progress: Progress, found: dict[str, float], session: Session
) -> Progress:
    """Notes an evaluation, and writes the weights where none before was better.

    The EMA and, with `eval_raw`, the parameters themselves each have their own best; `judge` is the
    metric that selects it.
    """
    step = int(state.step)
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in found.items())
    session.output.say(f"step {step}, held out: {shown}")
    session.note(step, found)
    best: dict[str, Mapping[str, Any] | None] = {"best": progress.best, "best_raw": progress.best_raw}
    for name, prefix in (("best", ""), ("best_raw", RAW)):
        score = found.get(f"{prefix}{judge}")
        if score is not None and score >= (best[name] or {"score": 0.0})["score"]:  # NaN is never the best
            export(session.out / f"{name}.safetensors", state.replace(ema={}) if prefix else state)
            best[name] = {"step": step, "score": score}
    return replace(progress, metrics=found, evaluated=step, **best)


def export(path: pathlib.Path, state: State) -> None:
    """Writes what is evaluated as a weights file."""
    variables = sharding.fetch(state.evaluated)
    if sharding.is_main_process():
        write_weights(path, variables, {"step": str(int(state.step))})


def write_line(run: Run, done: int, figures: dict[str, Any], session: Session) -> None:
    """Logs and prints the metrics of one step."""
    lap = session.clock.lap()
    left = (run.steps - done) * lap["step_ms"] / 60e3
    line = {name: float(value) for name, value in figures.items() if name != "bad_step"}
    line |= {"epoch": run.feed.epochs(done), "learning_rate": float(run.rate(done - 1)), **lap}
    line["bad_images"] = len(run.feed.bad)
    session.note(done, line)
    session.output.say(
        f"step {done}/{run.steps}  epoch {line['epoch']:.2f}  loss {line['loss']:.4f}  "
        f"{lap['images_per_second']:.0f} images/s  {lap['step_ms']:.0f} ms a step, "
        f"{lap['data_wait']:.0%} waiting for data  {left:.1f} min left"
    )


def check_finite(run: Run, metrics: dict[str, Any], progress: Progress, session: Session) -> Progress:
    """The progress after a step, its loss None where it was left out.

    Raises:
        UserError: more steps than allowed were not finite; with the last of them, its images, and the last
            good checkpoint: one after which a step was finite.
    """
    figures = jax.device_get(metrics)
    bad = int(figures["bad_step"])
    if bad < 0:
        finite = np.isfinite(figures["loss"]) and np.isfinite(figures["grad_norm"])
        loss = float(figures["loss"]) if finite else None
        return replace(progress, train_loss=loss, skipped=int(figures["skipped"]))
    session.saves.wait()
    index, file = run.feed.index(bad), session.out / "not_finite.json"
    names = [run.feed.source.names[i] for i in index]
    if sharding.is_main_process():
        run_files.write_json(file, {"step": bad, "index": index, "names": names})
    good = last_good(session.saves, before=bad - run.config.max_skipped)
    raise UserError(
        f"the loss or its gradient was not finite at step {bad} (learning rate {float(run.rate(bad)):.2e}; "
        f"images {', '.join(names[:4])}, ...: all are in {file}); last good checkpoint: {good}; "
        "lower the learning rate, clip gradients, or allow some such steps",
        fields=("optim.lr", "optim.clip", "max_skipped"),
    )


def last_good(saves: Checkpoints, *, before: int) -> str:
    """Says which is the last checkpoint before a step, and that those after it must go first."""
    steps = saves.steps()
    good = [step for step in steps if step < before]
    bad = [str(saves.root / str(step)) for step in steps if step >= before]
    said = f"step {good[-1]}" if good else "none"
    if not bad:
        return said
    if not good:
        return f"{said} (before {', '.join(bad)} steps were not finite: start anew in another --workdir)"
    return f"{said} (delete {', '.join(bad)}, after which steps were not finite, to resume from {said})"


def profile(count: int, out: pathlib.Path, step: int, steps: int) -> None:
    """Starts and ends a trace of so many steps, as far as there are steps for it."""
    end = min(PROFILE_FROM + count, steps - 1)
    if count and step == PROFILE_FROM < end:
        jax.profiler.start_trace(out / "profile")
    if count and step == end > PROFILE_FROM:
        jax.profiler.stop_trace()
