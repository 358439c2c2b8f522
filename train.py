r"""Train a model: to classify pictures, to do without most of their patches, or to find those alike.

python train.py --config configs/smoke.py --workdir runs/smoke

The same command again goes on where the run stopped, bit for bit on a CPU.
"""

from vitjax import program

if __name__ == "__main__":
    program.use_large_pages()

import contextlib
import functools
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from rich.console import Console
from rich.markup import escape

from vitjax import models, parallel, record
from vitjax.backbone import dense
from vitjax.checkpoint import Checkpoints, total_bytes
from vitjax.data.augment import Augment
from vitjax.data.cifar import CifarSource
from vitjax.data.digits import DigitsSource
from vitjax.data.feed import Feed, TrainBatch
from vitjax.data.idx import IdxSource
from vitjax.data.msls import SIDES, VALIDATION, all_cities, read_msls
from vitjax.data.pipeline import batches
from vitjax.data.places import Places
from vitjax.data.sources import ClassesSource, FolderSource, ImageSource, RowsSource
from vitjax.data.tfds import TfdsSource
from vitjax.data.transforms import Preprocess, preprocess
from vitjax.starting import start
from vitjax.training import optim, stopping
from vitjax.training.config import TrainConfig, to_dict, validate
from vitjax.training.evaluation import (
    Classification,
    PlaceSearch,
    Retrieval,
    embed_pictures,
    make_embed,
)
from vitjax.training.log import MetricLog
from vitjax.training.losses import (
    is_dynamic,
    make_distill_loss,
    make_loss,
    make_metric_loss,
    metric_start,
)
from vitjax.training.mining import Mining
from vitjax.training.pixels import Pixels, Renormalise
from vitjax.training.state import State, create, shardings
from vitjax.training.step import make_train_step
from vitjax.weights import WeightsError, load_with_report
from vitjax.weights.write import write_weights

PROFILE_FROM = 10  # steps after the start: compilation and warm-up are over
console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, eq=False)
class Run:
    """All parts of a run, ready for its loop.

    Attributes:
        feed: what every step learns from.
        evaluation: what is measured on held-out pictures.
        teacher: variables of the teacher, empty where there is none.
        recipe: how pictures become its input.
        steps: of the whole run.
        eval_every: steps between evaluations.
        update: train step.
        rate: learning rate at a step.
        renew: chooses what the steps to come learn from, before a step, where that depends on the model.
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


def main(config: TrainConfig, workdir: str) -> None:
    """Runs the program; the last line on stdout is one JSON object with the final figures."""
    validate(config)
    out, writes = start(workdir, say), parallel.is_main_process()
    with stopping.only_run(out, holds=writes), stopping.Stop().listening() as stop:
        results = train(config, out, stop)
        if writes:
            print(json.dumps(record.plain(results), allow_nan=False))
        if stop.busy:  # a compilation that cannot be interrupted: the interpreter would wait for it
            sys.stdout.flush()
            os._exit(0)


def train(config: TrainConfig, out: pathlib.Path, stop: stopping.Stop) -> dict[str, Any]:
    """Trains from the last checkpoint on; writes all under `out` and returns what results.json holds."""
    began, writes = time.perf_counter(), parallel.is_main_process()
    note_run(config, out)
    saves = Checkpoints(out / "checkpoints", keep=config.checkpoint.keep, writes=writes)
    run, state = prepare(config, out)
    state, notes = resume(saves, state)
    start = int(state.step)
    kept = -1 if saves.latest() is None else start
    log = MetricLog(out, step=kept, config=to_dict(config), wandb=config.wandb) if writes else None
    pace = Pace(config.batch_size)
    if start < run.steps or notes.get("evaluated") != start:
        run = stop.unless(lambda: compiled(run, state)) or run
        parallel.wait_for_all("compiled")
        with contextlib.closing(run.feed.steps(start, run.steps)) as rows:
            state, notes = loop(
                config, out, run, state, notes, rows, saves=saves, stop=stop, log=log, pace=pace
            )
    step = int(state.step)
    if stop.reason:
        say(f"{stop.reason}: saving step {step}; the same command goes on from there")
    saves.save(step, state, notes)
    saves.wait()
    if not stop.reason:
        export(out / "last.safetensors", state)
    results = summarize(config, run, saves, step, notes, stop, pace, time.perf_counter() - began)
    if log is not None:
        log.close()
        record.write_json(out / "results.json", results)
        say(f"wrote {out / 'results.json'}")
    return results


def loop(
    config: TrainConfig,
    out: pathlib.Path,
    run: Run,
    state: State,
    notes: dict[str, Any],
    rows: Iterator[TrainBatch],
    *,
    saves: Checkpoints,
    stop: stopping.Stop,
    log: MetricLog | None,
    pace: "Pace",
) -> tuple[State, dict[str, Any]]:
    """Every step of the run; returns the last state and what is to be noted with it."""

    def due(step: int, every: int) -> bool:
        return step == run.steps or step % every == 0

    def measure(step: int) -> None:
        if (found := run.evaluation(state.evaluated, stop.now)) is not None:
            notes.update(note_evaluation(out, run, state, notes, step, found, log))

    start, metrics = int(state.step), {}
    wanted = due(start, run.eval_every) if start else config.eval_start
    if wanted and notes.get("evaluated") != start:
        measure(start)  # at step 0, or the run before was told to stop in the midst of it
    for step in range(start, run.steps):
        if run.renew is not None:
            run.renew(step, state.evaluated, stop.now)
        if stop.asked(step):
            return state, notes | (look(metrics, run, saves, out) if metrics else {})
        profile(config, out, step - start, run.steps - start)
        with pace.waiting():
            batch = parallel.shard_batch(next(rows), run.mesh)
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
        notes.update(look(metrics, run, saves, out))
        if logs:
            write_line(log, run, done, jax.device_get(metrics), pace.lap())
        if evaluates:
            measure(done)
        if keeps and not stop.reason:
            saves.save(done, state, notes)
    return state, notes


def prepare(config: TrainConfig, out: pathlib.Path) -> tuple[Run, State]:
    """Opens the data, builds the model and its teacher, and makes the state before the first step."""
    mesh = parallel.make_mesh()
    if config.batch_size % (mesh.size * config.optim.accumulate):
        raise program.UserError(
            f"config.batch_size {config.batch_size} does not divide over {mesh.size} devices and "
            f"{config.optim.accumulate} parts; give a multiple of {mesh.size * config.optim.accumulate}"
        )
    recipe = model_input(config)
    learn, held_out = open_sources(config)
    shard, data = (jax.process_index(), jax.process_count()), config.data
    mining = mine(config, learn, out) if isinstance(learn, Places) else None
    feed = Feed(
        learn, Augment(recipe, config.augment), config.batch_size, config.seed,
        workers=data.workers, processes=data.processes, shard=shard,
        on_bad_image=data.on_bad_image, bad_limit=data.bad_limit, patience=data.patience,
        per_class=0 if config.task == "classify" or mining else config.metric.per_class, chosen=mining,
    )  # fmt: skip
    rest = batches(
        held_out, recipe, config.batch_size, workers=data.workers, on_bad_image=data.on_bad_image, shard=shard
    )
    classes = len(learn.class_names)
    model = build(config, recipe, classes=classes if config.task == "classify" else config.metric.embed_dim)
    variables, teacher = initial(config, model, recipe)
    if config.task == "metric":
        variables = with_metric(config, model, variables, classes)
        loss = make_metric_loss(model, config.metric)
    elif config.task == "distill":
        guide, teacher, change = open_teacher(config, recipe, len(learn))
        loss = make_distill_loss(model, guide, change, config.distill)
    else:
        loss = make_loss(model, config.sparsify)
    steps = config.steps or round(config.epochs * feed.steps_per_epoch)
    tx = optim.make_optimizer(config.optim)
    rate, rates = optim.make_rates(
        config.optim, variables["params"],
        steps=steps, steps_per_epoch=feed.steps_per_epoch,
        new=() if config.task == "classify" else ("head",), metric_rate=config.metric.rate,
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
        evaluation = Retrieval.make(model, rest, np.asarray(held_out.labels), mesh, config.metric)
    else:
        truth = labels_like(held_out, learn)
        evaluation = Classification.make(model, rest, truth, mesh, places.evaluated)
    every = config.eval_every or feed.steps_per_epoch
    teacher = parallel.replicate(teacher, mesh)
    return Run(feed, evaluation, teacher, mesh, recipe, steps, every, update, rate, renew), state


def model_input(config: TrainConfig) -> Preprocess:
    """How pictures become input: as the weights, or else models of that name, expect it, unless told."""
    try:
        recipe = preprocess(config.model.weights or config.model.name)
    except ValueError:
        recipe = preprocess(config.model.name)
    return recipe.replace(
        image_size=config.model.img_size or recipe.image_size,
        resize=config.data.resize,
        interpolation=config.data.interpolation or recipe.interpolation,
    )


def open_sources(config: TrainConfig) -> tuple[ImageSource, ImageSource]:
    """Pictures to learn from, and those held out."""
    if config.data.source == "digits":
        return DigitsSource("train"), DigitsSource("test")
    if config.data.source == "tfds":
        split: Any = functools.partial(TfdsSource, config.data.name, data_dir=config.data.dir)
        return split(config.data.train), split(config.data.test)
    if config.data.source in ("idx", "cifar"):
        kind = IdxSource if config.data.source == "idx" else CifarSource
        return kind(config.data.dir, "train"), kind(config.data.dir, "test")
    if config.data.source == "msls":
        return open_places(config)
    learn = FolderSource(config.data.train)
    if config.data.test:
        return learn, FolderSource(config.data.test)
    count = round((1 - config.metric.held_out) * len(learn.class_names))
    kept, unseen = range(count), range(count, len(learn.class_names))
    return ClassesSource(learn, kept), ClassesSource(learn, unseen)


def open_places(config: TrainConfig) -> tuple[Places, Places]:
    """Queries of cities of MSLS and the photos they are looked for among, to learn from and held out."""
    held_out = config.data.test.split(",") if config.data.test else VALIDATION
    cities = config.data.train.split(",") if config.data.train else all_cities(config.data.dir)

    def some(cities: Sequence[str], subtask: str) -> Places:
        return Places(*(read_msls(config.data.dir, side, cities=cities, subtask=subtask) for side in SIDES))

    return some([city for city in cities if city not in held_out], ""), some(held_out, "all")


def mine(config: TrainConfig, learn: Places, out: pathlib.Path) -> Mining:
    """What chooses queries, photos of their places and hard negatives."""
    wanted = config.distill
    return Mining(
        learn, config.batch_size, wanted.negatives, wanted.mine_every, wanted.pool, config.seed,
        folder=out / "mined", writes=parallel.is_main_process(),
    )  # fmt: skip


def renewal(
    config: TrainConfig, mining: Mining, embed: Any, recipe: Preprocess, mesh: Mesh
) -> Callable[[int, Any, Callable[[], bool]], None]:
    """(step, variables, whether to stop) -> nothing; `mining` chooses anew where that is due."""
    data, shard = config.data, (jax.process_index(), jax.process_count())

    def renew(step: int, variables: Any, stopped: Callable[[], bool]) -> None:
        def embedded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
            say(f"step {step}: looking at {len(rows)} photos for what is mistaken for what")
            photos = batches(
                RowsSource(mining.photos, rows), recipe, config.batch_size,
                workers=data.workers, on_bad_image=data.on_bad_image, shard=shard,
            )  # fmt: skip
            vectors, index = embed_pictures(embed, variables, photos, mesh, stopped)
            return None if stopped() else (vectors, rows[index])

        mining.renew(step, embedded)

    return renew


def labels_like(held_out: ImageSource, learn: ImageSource) -> np.ndarray:
    """Class of each held-out picture, in the numbering of those that are learned from."""
    if not held_out.class_names:
        raise program.UserError("held-out pictures need classes: put them into one sub-folder for each")
    number = {name: i for i, name in enumerate(learn.class_names)}
    unknown = [name for name in held_out.class_names if name not in number]
    if unknown:
        raise program.UserError(
            f"held-out class {unknown[0]!r} and {len(unknown) - 1} more are not among the learned"
        )
    return np.array([number[name] for name in held_out.class_names], np.int32)[held_out.labels]


def build(config: TrainConfig, recipe: Preprocess, *, classes: int) -> Any:
    """The model that is trained."""
    wanted = config.model
    sizes = {
        name: value
        for name in ("patch_size", "embed_dim", "depth", "num_heads", "keep_ratio", "remat")
        if (value := getattr(wanted, name))
    }
    if wanted.drop_path:
        sizes["drop_path_rate"] = wanted.drop_path
    return models.build(
        wanted.name, img_size=recipe.image_size, num_classes=classes, dtype=wanted.dtype, **sizes
    )


def initial(config: TrainConfig, model: Any, recipe: Preprocess) -> tuple[dict, Any]:
    """Variables that the model starts from, and those of its teacher; {} where it has none."""
    wanted, source = config.model, config.sparsify.teacher or config.model.weights
    if wanted.weights:
        drop = wanted.new_head or (config.task != "classify" and bool(config.metric.embed_dim))
        variables, report = load_with_report(wanted.weights, model, strict=False, drop_head=drop)
        missing = [m for m in report.missing if not optim.is_new(m.name)]
        unexpected = [m for m in report.unexpected if not is_cut_off(m.name, wanted.depth)]
        if missing or unexpected or report.mis_shaped:
            raise WeightsError(str(report))
        fresh = f"; {len(report.missing)} start at random" if report.missing else ""
        say(escape(f"weights {wanted.weights!r}: {report.loaded} parameters loaded{fresh}"))
    else:
        variables = random_variables(config, model, recipe)
    if not is_dynamic(model) or config.task != "classify":
        return variables, {}
    if source:
        return variables, load_with_report(source, dense(model))[0]
    say("[yellow]the teacher is RANDOM; set config.sparsify.teacher or config.model.weights[/yellow]")
    return variables, random_variables(config, dense(model), recipe)


def is_cut_off(name: str, depth: int) -> bool:
    """Tells whether a weight belongs to a block behind the first `depth`; 0 = all blocks are wanted."""
    block = re.search(r"\b(?:blocks|layer)\.(\d+)\.", name)  # timm's and Hugging Face's names
    return bool(depth) and block is not None and int(block[1]) >= depth


def with_metric(config: TrainConfig, model: Any, variables: dict, classes: int) -> dict:
    """Variables with what the metric's loss learns beside the model."""
    width = config.metric.embed_dim or getattr(model, "embed_dim", 0)
    start = metric_start(config.metric, classes, width, jax.random.key(config.seed))
    params = variables["params"] | ({"metric": start} if start else {})
    return {**variables, "params": params}


def open_teacher(config: TrainConfig, recipe: Preprocess, pictures: int) -> tuple[Any, Any, Renormalise]:
    """The teacher of embeddings, None where it is vectors; its variables, and what it does to pixels.

    Raises:
        UserError: vectors that are not one for each picture, or of another length than the embedding.
    """
    wanted, width = config.distill, config.metric.embed_dim
    ours = Pixels(recipe.mean, recipe.std)
    if wanted.vectors:
        vectors = np.load(wanted.vectors, allow_pickle=False)
        if vectors.ndim != 2 or len(vectors) != pictures or width not in (0, vectors.shape[1]):
            raise program.UserError(
                f"config.distill.vectors has shape {vectors.shape}; expected ({pictures} pictures to learn "
                f"from, config.metric.embed_dim {width})"
            )
        return None, vectors.astype(np.float32), Renormalise(ours, ours)
    model = models.build(wanted.name, img_size=recipe.image_size, num_classes=width, dtype=config.model.dtype)
    theirs = preprocess(wanted.name)
    variables = load_with_report(wanted.teacher_weights, model)[0]
    return model, variables, Renormalise(ours, Pixels(theirs.mean, theirs.std))


def random_variables(config: TrainConfig, model: Any, recipe: Preprocess) -> dict:
    """Initial variables, decided by the seed."""
    blank = jnp.zeros((1, recipe.image_size, recipe.image_size, 3), jnp.float32)
    return jax.jit(model.init)(jax.random.key(config.seed), blank)


def resume(saves: Checkpoints, state: State) -> tuple[State, dict[str, Any]]:
    """The last whole checkpoint's state and notes; the given state where there is none."""
    for step in saves.unfinished():
        say(f"[yellow]the save of step {step} was never finished: it does not count[/yellow]")
    step = saves.latest()
    if step is None:
        say(f"a checkpoint has {total_bytes(state) / 2**20:.1f} MiB")
        return state, {}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    state, notes = saves.load(step, like)
    say(f"going on from step {step}")
    return state, notes


def compiled(run: Run, state: State) -> Run:
    """The run with its programs compiled, each for the one shape it will see."""
    clock = record.Stopwatch()
    rows, side = run.feed.batch_size, run.recipe.image_size
    spread = NamedSharding(run.mesh, parallel.ROWS)

    def like(shape: tuple[int, ...], kind: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), kind, sharding=spread)

    batch = TrainBatch(like((side, side, 3), np.uint8), like((), np.int32), like((), np.int32))
    with clock.stage("compile"):
        update = run.update.lower(state, batch, run.teacher).compile()
        evaluation = run.evaluation.compiled(state.evaluated, rows, side)
    clock.close()
    spent = clock.compile_seconds["compile"]
    say(f"compiled {clock.compiled} programs in {spent:.1f} s ({clock.cached} from the cache)")
    return replace(run, update=update, evaluation=evaluation)


def look(metrics: dict[str, Any], run: Run, saves: Checkpoints, out: pathlib.Path) -> dict[str, Any]:
    """What is noted of a step; raises where more steps than allowed were not finite.

    Raises:
        UserError: with the step, its pictures, and the last good checkpoint.
    """
    figures = jax.device_get(metrics)
    bad = int(figures["bad_step"])
    if bad < 0:
        return {"train_loss": float(figures["loss"]), "skipped": int(figures["skipped"])}
    saves.wait()
    index, latest = run.feed.index(bad), saves.latest()
    names = [run.feed.source.names[i] for i in index]
    if parallel.is_main_process():
        record.write_json(out / "not_finite.json", {"step": bad, "index": index, "names": names})
    good = "none was saved yet" if latest is None else f"step {latest}"
    raise program.UserError(
        f"the loss or its gradient was not finite at step {bad} (learning rate {float(run.rate(bad)):.2e}; "
        f"pictures {', '.join(names[:4])}, ...: all are in {out / 'not_finite.json'}); last good checkpoint: "
        f"{good}; lower config.optim.lr, set config.optim.clip, or allow some such steps with "
        "config.max_skipped"
    )


def write_line(
    log: MetricLog | None, run: Run, done: int, figures: dict[str, Any], lap: dict[str, float]
) -> None:
    """Writes and prints the figures of one step."""
    left = (run.steps - done) * lap["step_ms"] / 60e3
    line = {name: float(value) for name, value in figures.items() if name != "bad_step"}
    line |= {"epoch": done / run.feed.steps_per_epoch, "learning_rate": float(run.rate(done - 1)), **lap}
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
    """Notes an evaluation, and writes the weights where none before was better."""
    say(
        f"step {done}, held out: "
        + ", ".join(f"{name.replace('_', ' ')} {x:.2%}" for name, x in found.items())
    )
    if log is not None:
        log.write(done, found)
    score = found[run.evaluation.score]
    noted = {"metrics": found, "evaluated": done}
    if score < notes.get("best", {"score": 0.0})["score"]:
        return noted
    export(out / "best.safetensors", state)
    return noted | {"best": {"step": done, "score": score}}


def export(path: pathlib.Path, state: State) -> None:
    """Writes what is evaluated as a weights file."""
    variables = parallel.fetch(state.evaluated)
    if parallel.is_main_process():
        write_weights(path, variables, {"step": str(int(state.step))})


def summarize(
    config: TrainConfig,
    run: Run,
    saves: Checkpoints,
    step: int,
    notes: dict[str, Any],
    stop: stopping.Stop,
    pace: "Pace",
    seconds: float,
) -> dict[str, Any]:
    """Everything results.json holds."""
    skipped = [
        {"index": i, "name": run.feed.source.names[i], "reason": reason}
        for i, reason in sorted(run.feed.bad.items())
    ]
    return {
        "task": config.task,
        "stopped": stop.reason,
        "steps": run.steps,
        "epochs": step / run.feed.steps_per_epoch,
        "best": notes.get("best"),
        "evaluated_step": notes.get("evaluated"),
        "checkpoints": saves.steps(),
        "steps_skipped": notes.get("skipped", 0),
        "images_per_second": pace.overall(),
        "seconds": {"this_start": seconds},
        "skipped": skipped,
        "device": record.device(),
        "versions": record.versions(),
        "git_commit": record.git_commit(),
        "config": to_dict(config),
        "metrics": {"train_loss": notes.get("train_loss"), **notes.get("metrics", {})},
        "step": step,
    }


def note_run(config: TrainConfig, out: pathlib.Path) -> None:
    """Writes what the run is made of, and says where that differs from its beginning."""
    path = out / "run.json"
    now = record.plain(to_dict(config))
    if path.exists():
        then = json.loads(path.read_text(encoding="utf-8"))["config"]
        changed = sorted(set(flat(now).items()) ^ set(flat(then).items()))
        if changed:
            names = ", ".join(dict.fromkeys(name for name, _ in changed))
            say(f"[yellow]not the config this run began with: {names}[/yellow]")
        return
    if parallel.is_main_process():
        whole = {"config": now, "versions": record.versions(), "git_commit": record.git_commit()}
        record.write_json(path, whole | {"device": record.device()})


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


class Pace:
    """How fast steps go, and how long they wait for data; evaluations and saves between laps do not count."""

    def __init__(self, batch_size: int) -> None:
        self._rows = batch_size
        self._steps, self._waited, self._start = 0, 0.0, time.perf_counter()
        self._all_steps, self._all_seconds = 0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts a step and the time until its data is there."""
        if not self._steps:
            self._start = time.perf_counter()
        begin = time.perf_counter()
        yield
        self._steps += 1
        self._waited += time.perf_counter() - begin

    def lap(self) -> dict[str, float]:
        """Figures since the last lap; call it when the devices are done."""
        steps, seconds = max(self._steps, 1), max(time.perf_counter() - self._start, 1e-9)
        lap = {
            "images_per_second": self._steps * self._rows / seconds,
            "step_ms": 1e3 * seconds / steps,
            "data_wait": self._waited / seconds,
        }
        self._all_steps += self._steps
        self._all_seconds += seconds if self._steps else 0.0
        self._steps, self._waited = 0, 0.0
        return lap

    def overall(self) -> float:
        """Images per second of all laps."""
        return self._all_steps * self._rows / self._all_seconds if self._all_seconds else 0.0


def say(text: str) -> None:
    """Prints a line for people, once per run."""
    if parallel.is_main_process():
        console.print(text)


if __name__ == "__main__":
    program.run(main, TrainConfig, __doc__ or "")
