r"""Train a model: to classify images, to do without most of their patches, or to find those alike.

python train.py --config configs/smoke.py --workdir runs/smoke

The same command again goes on where the run stopped, bit for bit on a CPU.
"""

import os
import signal

from vitjax.errors import UserError

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of what is not imported yet

from vitjax.cli import flags
from vitjax.config.train_config import TrainConfig

if __name__ == "__main__":
    flags.begin(TrainConfig, __doc__)

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vitjax import doctor, sharding
from vitjax.cli import run_files
from vitjax.cli.console import say, warn
from vitjax.cli.session import only_run, start
from vitjax.config.old_names import with_current_names
from vitjax.config.train_config import to_dict, validate
from vitjax.data.augment import Augment
from vitjax.data.eval_loader import batches
from vitjax.data.sources.geo import Places
from vitjax.data.train_loader import Feed, RawBatch
from vitjax.data.transforms import Preprocess
from vitjax.evaluation.result_tables import print_results
from vitjax.training import optim, preemption
from vitjax.training.checkpoint import Checkpoints, total_bytes
from vitjax.training.data import (
    labels_like,
    labels_to_find,
    left_out,
    mine,
    model_input,
    open_sources,
    renewal,
)
from vitjax.training.evaluation import Classification, PlaceSearch, Retrieval, make_embed
from vitjax.training.init_state import (
    build,
    check_dynamic,
    embedding_width,
    initial,
    open_teacher,
    with_metric,
)
from vitjax.training.log import MetricLog
from vitjax.training.losses import make_distill_loss, make_loss, make_metric_loss
from vitjax.training.pixels import Pixels
from vitjax.training.resuming import check_checkpoints, feed_notes, offset_of, origin_of, say_batch_size
from vitjax.training.state import State, create, shardings
from vitjax.training.step import make_train_step
from vitjax.training.throughput import Pace
from vitjax.weights.write import write_weights

RAW = "raw_"  # before the figures of the parameters themselves, where a running mean is evaluated as well
CHANGES = 8  # of a config that are printed
PROFILE_FROM = 10  # steps after the start: compilation and warm-up are over


@dataclass(frozen=True, eq=False)
class Run:
    """All parts of a run, ready for its loop.

    Attributes:
        feed: what every step learns from.
        evaluation: what is measured on held-out images.
        teacher: variables of the teacher, empty where there is none.
        recipe: how images become its input.
        steps: of the whole run.
        eval_every: steps between evaluations.
        update: train step.
        rate: learning rate at a step.
        renew: chooses what the steps to come learn from, before a step, where that depends on the model.
        left_out: lines about images that no step and no figure sees.
    """

    feed: Feed
    evaluation: Classification | Retrieval | PlaceSearch
    teacher: Any
    mesh: Mesh
    recipe: Preprocess
    steps: int
    eval_every: int
    update: Any
    rate: Callable[[Any], Any]
    renew: Callable[[int, Any, Callable[[], bool]], None] | None = None
    left_out: Sequence[str] = ()


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
    began, writes = time.perf_counter(), sharding.is_main_process()
    saves = Checkpoints(out / "checkpoints", keep=config.checkpoint.keep, writes=writes)
    check_checkpoints(out, saves, every=config.checkpoint.every)
    last = saves.latest()
    run, state = prepare(config, out, resumes=None if last is None else (last, saves.notes(last)))
    note_run(config, run.recipe, out)
    state, notes = resume(saves, state)
    start = int(state.step)
    say_batch_size(notes, start, config, run.feed, run.steps)
    notes["feed"] = feed_notes(run.feed)
    kept = -1 if last is None else start
    log = MetricLog(out, step=kept, config=to_dict(config), wandb=config.wandb) if writes else None
    pace = Pace(config.batch_size)
    if start < run.steps or notes.get("evaluated") != start:
        run = stop.unless(lambda: compiled(run, state)) or run
        sharding.wait_for_all("compiled")
        with contextlib.closing(run.feed.steps(start, run.steps, stop.now)) as rows:
            state, notes = loop(
                config, out, run, state, notes, rows, saves=saves, stop=stop, log=log, pace=pace
            )
    step = int(state.step)
    if stop.reason:
        say(f"{stop.reason}: saving step {step}; the same command goes on from there")
    saves.save(step, state, notes, prune=notes.get("train_loss") is not None)
    saves.wait()
    if not stop.reason:
        export(out / "last.safetensors", state)
    results = summarize(config, run, saves, step, notes, stop, pace, time.perf_counter() - began)
    if step == start:  # no step was taken: what is known of the pace stays
        results["images_per_second"] = last_pace(out / "results.json")
    if log is not None:
        log.close()
        run_files.write_json(out / "results.json", results)
        say(f"wrote {out / 'results.json'}")
    return results


def loop(
    config: TrainConfig,
    out: pathlib.Path,
    run: Run,
    state: State,
    notes: dict[str, Any],
    rows: Iterator[RawBatch],
    *,
    saves: Checkpoints,
    stop: preemption.Stop,
    log: MetricLog | None,
    pace: Pace,
) -> tuple[State, dict[str, Any]]:
    """Every step of the run; returns the last state and what is to be noted with it."""

    def due(step: int, every: int) -> bool:
        return step == run.steps or step % every == 0

    def measure(step: int) -> None:
        found = run.evaluation(state.evaluated, stop.now)
        raw = run.evaluation(state.variables, stop.now) if config.eval_raw and found is not None else {}
        if found is not None and raw is not None:
            found |= {f"{RAW}{name}": value for name, value in raw.items()}
            notes.update(note_evaluation(out, run, state, notes, step, found, log))

    start, metrics = int(state.step), {}
    wanted = due(start, run.eval_every) if start else config.eval_start
    if wanted and notes.get("evaluated") != start:
        measure(start)  # at step 0, or the run before was told to stop in the midst of it
    for step in range(start, run.steps):
        if run.renew is not None:
            run.renew(step, state.evaluated, stop.now)
        if stop.asked(step):
            return state, notes | (look(config, metrics, run, saves, out) if metrics else {})
        profile(config, out, step - start, run.steps - start)
        with pace.waiting():
            if (read := next(rows, None)) is None:  # told to stop while the images do not come
                stop.busy = True
                return state, notes | (look(config, metrics, run, saves, out) if metrics else {})
            batch = sharding.shard_batch(read, run.mesh)
        with jax.transfer_guard("disallow"):
            before = metrics
            state, metrics = run.update(state, batch, run.teacher)
            jax.block_until_ready(before)  # never more than two steps are under way
        done = step + 1
        logs, evaluates = due(done, config.log_every), due(done, run.eval_every)
        keeps = due(done, config.checkpoint.every)
        if not (logs or evaluates or keeps):
            continue
        saves.check()
        notes.update(look(config, metrics, run, saves, out))
        if logs:
            write_line(log, run, done, jax.device_get(metrics), pace.lap())
        if evaluates:
            measure(done)
        if keeps and not stop.reason and notes["train_loss"] is not None:
            saves.save(done, state, notes)
    return state, notes


def prepare(
    config: TrainConfig, out: pathlib.Path, *, resumes: tuple[int, dict[str, Any]] | None
) -> tuple[Run, State]:
    """Opens the data, builds the model and its teacher, and makes the state before the first step.

    Where the run `resumes` from a checkpoint, of that step and with those notes, the state's numbers are not
    those of its beginning: the checkpoint's follow.
    """
    mesh = sharding.make_mesh()
    if config.batch_size % (mesh.size * config.optim.accumulate):
        raise UserError(
            f"config.batch_size {config.batch_size} does not divide over {mesh.size} devices and "
            f"{config.optim.accumulate} parts; give a multiple of {mesh.size * config.optim.accumulate}"
        )
    recipe = model_input(config)
    learn, held_out = open_sources(config)
    warn(*(lines := left_out(config, learn, held_out)))
    shard, data = (jax.process_index(), jax.process_count()), config.data
    mining = mine(config, learn, out) if isinstance(learn, Places) else None
    feed = Feed(
        learn, Augment(recipe, config.augment), config.batch_size, config.seed,
        workers=data.workers, processes=data.processes, shard=shard,
        on_bad_image=data.on_bad_image, bad_limit=data.bad_limit, patience=data.timeout,
        per_class=0 if config.task == "classify" or mining else config.metric.per_class, chosen=mining,
    )  # fmt: skip
    if resumes is not None:
        step, notes = resumes
        feed.origin = origin_of(notes, step, batch_size=config.batch_size, per_epoch=feed.rows_per_epoch)
    steps, offset = count_steps(config, feed.steps_per_epoch), offset_of(config, feed)
    rest = batches(
        held_out, recipe, config.batch_size, workers=data.workers, on_bad_image=data.on_bad_image, shard=shard
    )
    classes = len(learn.class_names)
    model = build(config, recipe, classes=classes if config.task == "classify" else config.metric.embed_dim)
    check_dynamic(config, model)
    variables, teacher = initial(config, model, recipe, fresh=resumes is None)
    if config.task == "metric":
        variables = with_metric(config, model, variables, recipe, classes)
        loss = make_metric_loss(model, config.metric)
    elif config.task == "distill":
        width = embedding_width(model, variables, recipe)
        guide, teacher, change = open_teacher(config, recipe, len(learn), width)
        loss = make_distill_loss(model, guide, change, config.distill)
    else:
        loss = make_loss(model, config.sparsify)
    tx = optim.make_optimizer(config.optim)
    rate, rates = optim.make_rates(
        config.optim, variables["params"],
        steps=steps, steps_per_epoch=feed.steps_per_epoch,
        new=() if config.task == "classify" else ("head",), metric_rate=config.metric.rate, offset=offset,
    )  # fmt: skip

    def begin(variables: Any) -> State:
        return create(variables, tx, ema=bool(config.optim.ema))

    places = shardings(jax.eval_shape(begin, variables), mesh, config.sharding)
    state = jax.jit(begin, out_shardings=places)(variables)
    update = make_train_step(
        config, loss, tx, rates,
        classes=classes, pixels=Pixels(recipe.mean, recipe.std), mesh=mesh, state_shardings=places,
    )  # fmt: skip
    renew = None
    if mining is not None and isinstance(held_out, Places):
        embed = make_embed(model, mesh, places.evaluated)
        evaluation = PlaceSearch(rest, held_out, mesh, embed)
        renew = renewal(config, mining, embed, recipe, mesh)
    elif config.task != "classify":
        evaluation = Retrieval.make(model, rest, labels_to_find(held_out), mesh, config.metric)
    else:
        truth = labels_like(held_out, learn)
        evaluation = Classification.make(model, rest, truth, mesh, places.evaluated)
    every = config.eval_every or feed.steps_per_epoch
    teacher = sharding.replicate(teacher, mesh)
    whole = steps - offset
    return Run(feed, evaluation, teacher, mesh, recipe, whole, every, update, rate, renew, lines), state


def count_steps(config: TrainConfig, per_epoch: int) -> int:
    """Steps of the whole run; says where its warm-up does not fit into it."""
    steps = config.steps or round(config.epochs * per_epoch)
    if steps < 1:
        raise UserError(
            f"config.epochs {config.epochs} of {per_epoch} steps is no step; raise it or set config.steps"
        )
    if (warmup := round(config.optim.warmup_epochs * per_epoch)) >= steps:
        warn(
            f"config.optim.warmup_epochs is {warmup} steps, the run has {steps}: the learning rate "
            "rises until its last step"
        )
    return steps


def resume(saves: Checkpoints, state: State) -> tuple[State, dict[str, Any]]:
    """The last whole checkpoint's state and notes; the given state where there is none."""
    for step in saves.unfinished():
        warn(
            f"the save of step {step} was never finished: it does not count, and goes once a later "
            "one is whole"
        )
    step = saves.latest()
    if step is None:
        say(f"a checkpoint has {total_bytes(state) / 2**20:.1f} MiB")
        return state, {}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    state, notes = saves.load(step, like)
    say(f"resuming from step {step}")
    return state, notes


def compiled(run: Run, state: State) -> Run:
    """The run with its programs compiled, each for the one shape it will see."""
    clock = run_files.Stopwatch()
    rows, side = run.feed.batch_size, run.recipe.image_size
    spread = NamedSharding(run.mesh, sharding.ROWS)

    def like(shape: tuple[int, ...], kind: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), kind, sharding=spread)

    batch = RawBatch(like((side, side, 3), np.uint8), like((), np.int32), like((), np.int32))
    with clock.stage("compile"):
        update = run.update.lower(state, batch, run.teacher).compile()
        evaluation = run.evaluation.compiled(state.evaluated, rows, side)
    clock.close()
    spent = clock.compile_seconds["compile"]
    say(f"compiled {clock.compiled} programs in {spent:.1f} s ({clock.cached} from the cache)")
    return replace(run, update=update, evaluation=evaluation)


def look(
    config: TrainConfig, metrics: dict[str, Any], run: Run, saves: Checkpoints, out: pathlib.Path
) -> dict[str, Any]:
    """What is noted of a step, its loss None where it was left out.

    Raises:
        UserError: more steps than allowed were not finite; with the last of them, its images, and the last
            good checkpoint: one after which a step was finite.
    """
    figures = jax.device_get(metrics)
    bad = int(figures["bad_step"])
    if bad < 0:
        finite = np.isfinite(figures["loss"]) and np.isfinite(figures["grad_norm"])
        return {
            "train_loss": float(figures["loss"]) if finite else None,
            "skipped": int(figures["skipped"]),
        }
    saves.wait()
    index = run.feed.index(bad)
    names = [run.feed.source.names[i] for i in index]
    if sharding.is_main_process():
        run_files.write_json(out / "not_finite.json", {"step": bad, "index": index, "names": names})
    good = last_good(saves, before=bad - config.max_skipped)
    raise UserError(
        f"the loss or its gradient was not finite at step {bad} (learning rate {float(run.rate(bad)):.2e}; "
        f"images {', '.join(names[:4])}, ...: all are in {out / 'not_finite.json'}); last good checkpoint: "
        f"{good}; lower config.optim.lr, set config.optim.clip, or allow some such steps with "
        "config.max_skipped"
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
    return f"{said} (delete {', '.join(bad)}, after which steps were not finite, to go on from {said})"


def write_line(
    log: MetricLog | None, run: Run, done: int, figures: dict[str, Any], lap: dict[str, float]
) -> None:
    """Writes and prints the figures of one step."""
    left = (run.steps - done) * lap["step_ms"] / 60e3
    line = {name: float(value) for name, value in figures.items() if name != "bad_step"}
    line |= {"epoch": run.feed.epochs(done), "learning_rate": float(run.rate(done - 1)), **lap}
    line["bad_images"] = len(run.feed.bad)
    if log is not None:
        log.write(done, line)
    say(
        f"step {done}/{run.steps}  epoch {line['epoch']:.2f}  loss {line['loss']:.4f}  "
        f"{lap['images_per_second']:.0f} images/s  {lap['step_ms']:.0f} ms a step, "
        f"{lap['data_wait']:.0%} waiting for data  {left:.1f} min left"
    )


def note_evaluation(
    out: pathlib.Path,
    run: Run,
    state: State,
    notes: dict[str, Any],
    done: int,
    found: dict[str, float],
    log: MetricLog | None,
) -> dict[str, Any]:
    """Notes an evaluation, and writes the weights where none before was better.

    The running mean and, with `config.eval_raw`, the parameters themselves each have their own best.
    """
    say(
        f"step {done}, held out: "
        + ", ".join(f"{name.replace('_', ' ')} {x:.2%}" for name, x in found.items())
    )
    if log is not None:
        log.write(done, found)
    noted: dict[str, Any] = {"metrics": found, "evaluated": done}
    for best, prefix in (("best", ""), ("best_raw", RAW)):
        score = found.get(f"{prefix}{run.evaluation.score}")
        if score is not None and score >= notes.get(best, {"score": 0.0})["score"]:  # NaN is never the best
            export(out / f"{best}.safetensors", state.replace(ema={}) if prefix else state)
            noted[best] = {"step": done, "score": score}
    return noted


def export(path: pathlib.Path, state: State) -> None:
    """Writes what is evaluated as a weights file."""
    variables = sharding.fetch(state.evaluated)
    if sharding.is_main_process():
        write_weights(path, variables, {"step": str(int(state.step))})


def summarize(
    config: TrainConfig,
    run: Run,
    saves: Checkpoints,
    step: int,
    notes: dict[str, Any],
    stop: preemption.Stop,
    pace: Pace,
    seconds: float,
) -> dict[str, Any]:
    """Everything results.json holds."""
    skipped = [
        {"side": "train", "index": i, "name": run.feed.source.names[i], "reason": reason}
        for i, reason in sorted(run.feed.bad.items())
    ]
    skipped += [{"side": "test", **asdict(item)} for item in run.evaluation.loader.skipped]
    return {
        "task": config.task,
        "stopped": stop.reason,
        "notes": list(run.left_out),
        "steps": run.steps,
        "epochs": run.feed.epochs(step),
        "best": notes.get("best"),
        **({"best_raw": notes.get("best_raw")} if config.eval_raw else {}),
        "evaluated_step": notes.get("evaluated"),
        "checkpoints": saves.steps(),
        "steps_skipped": notes.get("skipped", 0),
        "images_per_second": pace.overall(),
        "seconds": {"this_start": seconds},
        "skipped": skipped,
        "device": run_files.device(),
        "versions": doctor.versions(),
        "git_commit": run_files.git_commit(),
        "config": to_dict(config),
        "metrics": {"train_loss": notes.get("train_loss"), **notes.get("metrics", {})},
        "step": step,
    }


def last_pace(path: pathlib.Path) -> float:
    """Images per second of the run before, as its results say; 0 where nothing is known."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["images_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def note_run(config: TrainConfig, recipe: Preprocess, out: pathlib.Path) -> None:
    """Writes what the run is made of, and says where that differs from its beginning."""
    path, now = out / "run.json", run_files.plain({"config": to_dict(config), "input": asdict(recipe)})
    if path.exists():
        if then := begun(path):
            then["config"] = with_current_names(config, then["config"])
        old, new = flat({name: then.get(name, now[name]) for name in now}), flat(now)
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if changed:
            some = ", ".join(
                f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}" for name in changed[:CHANGES]
            )
            more = f", and {len(changed) - CHANGES} more" if len(changed) > CHANGES else ""
            warn(f"not what this run began with: {some}{more}")
        return
    if sharding.is_main_process():
        whole = now | {"versions": doctor.versions(), "git_commit": run_files.git_commit()}
        run_files.write_json(path, whole | {"device": run_files.device()})


def begun(path: pathlib.Path) -> dict[str, Any]:
    """What is written of a run's beginning; nothing where it cannot be read, which is said."""
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(then["config"], dict):
            return then
    except (OSError, ValueError, KeyError, TypeError):
        pass
    warn(f"{path} cannot be read: whether the config is the one of the beginning is unknown")
    return {}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested data as text by dotted name."""
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: repr(value)}
    return found


def profile(config: TrainConfig, out: pathlib.Path, step: int, steps: int) -> None:
    """Starts and ends the trace that was asked for, as far as there are steps for it."""
    end = min(PROFILE_FROM + config.profile, steps - 1)
    if config.profile and step == PROFILE_FROM < end:
        jax.profiler.start_trace(out / "profile")
    if config.profile and step == end > PROFILE_FROM:
        jax.profiler.stop_trace()


if __name__ == "__main__":
    flags.run(main, TrainConfig, __doc__ or "")
