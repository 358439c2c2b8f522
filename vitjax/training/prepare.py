"""From a config to a run that is ready for its loop: data, model, teacher, optimiser, compiled programs."""

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vitjax import sharding
from vitjax.cli import run_files
from vitjax.config.train_config import TrainConfig
from vitjax.data.augment import Augment
from vitjax.data.sources.base import ImageSource
from vitjax.data.train_loader import Feed, RawBatch
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.training import optim
from vitjax.training.batch import Pixels, make_mixer
from vitjax.training.data import left_out, model_input, open_sources
from vitjax.training.evaluation import PlaceSearch
from vitjax.training.head import described
from vitjax.training.init_state import build, check_dynamic, initial
from vitjax.training.mining import Mining
from vitjax.training.output import SILENT, Output
from vitjax.training.resuming import offset_of, origin_of
from vitjax.training.session import Progress
from vitjax.training.state import State, create, shardings
from vitjax.training.step import make_train_step
from vitjax.training.tasks import Evaluation, Parts, Renew, Task, renewal, task_of
from vitjax.training.trunk import as_stored, loader_of, make_batch, on_stored, probed


@dataclass(frozen=True, eq=False)
class Run:
    """All parts of a run, ready for its loop.

    Attributes:
        config: of the run.
        feed: the data loader.
        evaluation: on held-out images.
        teacher: variables of the teacher, empty where there is none.
        mesh: devices.
        recipe: how images become its input.
        steps: of the whole run.
        eval_every: steps between evaluations.
        update: train step.
        rate: learning rate at a step.
        renew: mines hard negatives before a step, where that is due.
        left_out: lines about images that no step and no figure sees.
        shape: of one input of a step: pixels, or what frozen blocks gave.
    """

    config: TrainConfig
    feed: Feed
    evaluation: Evaluation
    teacher: Any
    mesh: Mesh
    recipe: Preprocess
    steps: int
    eval_every: int
    update: Any
    rate: Callable[[Any], Any]
    renew: Renew | None = None
    left_out: Sequence[str] = ()
    shape: tuple[int, ...] = ()


def prepare(
    config: TrainConfig,
    out: pathlib.Path,
    *,
    resumes: tuple[int, Progress] | None = None,
    output: Output = SILENT,
) -> tuple[Run, State]:
    """Opens the data, builds the model and its teacher, and makes the state before the first step.

    Args:
        config: of the run.
        out: its folder.
        resumes: step and progress of the checkpoint whose numbers will take the place of the state's.
        output: where lines go.

    Raises:
        UserError: settings that do not fit each other, the data, the weights or the devices.
    """
    mesh = sharding.make_mesh()
    _check_batch_size(config, mesh)
    recipe = model_input(config)
    learn, held_out = open_sources(config, out)
    output.warn(*(lines := left_out(config, learn, held_out)))
    task = task_of(config, learn)
    mining = task.sampler(config, learn, out) if task.sampler is not None else None
    feed = _feed(config, recipe, learn, task, mining)
    if resumes is not None:
        step, progress = resumes
        feed.origin = origin_of(progress, step, batch_size=config.batch_size, per_epoch=feed.rows_per_epoch)
    steps, offset = count_steps(config, feed.steps_per_epoch, output=output), offset_of(config, feed)
    classes = len(learn.class_names)
    model = build(config, recipe, classes=task.outputs(config, classes))
    check_dynamic(config, model)
    variables, dense = initial(config, model, recipe, fresh=resumes is None, output=output)
    loader = loader_of(config, held_out, recipe, feed.shard)
    parts = Parts(config, recipe, learn, held_out, loader, model, mesh, output)
    shape: tuple[int, ...] = (recipe.image_size, recipe.image_size, 3)
    mixer = make_mixer(config.augment, Pixels(recipe.mean, recipe.std), classes)
    stored = described if config.task == "rerank" else on_stored if config.optim.store_frozen else None
    if stored is not None:
        parts, shape = stored(parts, variables, out / "frozen", fresh=resumes is None)
        feed = replace(feed, source=parts.learn, augment=as_stored)
        mixer = make_batch(classes, config.augment.smoothing)
    if config.optim.probe and resumes is None:
        variables = probed(parts, variables)
    objective = task.objective(parts, variables, dense)
    tx = optim.make_optimizer(config.optim)
    rate, rates = optim.make_rates(
        config.optim, objective.variables["params"],
        steps=steps, steps_per_epoch=feed.steps_per_epoch,
        new=task.new, metric_rate=config.metric.rate, offset=offset,
    )  # fmt: skip

    def begin(variables: Any) -> State:
        return create(variables, tx, ema=bool(config.optim.ema))

    placed = shardings(jax.eval_shape(begin, objective.variables), mesh, config.sharding)
    state = jax.jit(begin, out_shardings=placed)(objective.variables)
    evaluation = task.evaluation(parts, placed)
    run = Run(
        config=config,
        feed=feed,
        evaluation=evaluation,
        teacher=sharding.replicate(objective.teacher, mesh),
        mesh=mesh,
        recipe=recipe,
        steps=steps - offset,
        eval_every=config.eval_every or feed.steps_per_epoch,
        update=make_train_step(config, objective.loss, tx, rates, mixer, placed),
        rate=rate,
        renew=_renewal(parts, mining, evaluation),
        left_out=lines,
        shape=shape,
    )
    return run, state


def _check_batch_size(config: TrainConfig, mesh: Mesh) -> None:
    parts = mesh.size * config.optim.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"a batch of {config.batch_size} does not divide over {mesh.size} devices and "
            f"{config.optim.accumulate} parts; give a multiple of {parts}",
            fields=("batch_size", "optim.accumulate"),
        )


def _feed(
    config: TrainConfig, recipe: Preprocess, learn: ImageSource, task: Task, mining: Mining | None
) -> Feed:
    data = config.data
    return Feed(
        learn, Augment(recipe, config.augment), config.batch_size, config.seed,
        workers=data.workers, processes=data.processes, shard=(jax.process_index(), jax.process_count()),
        on_bad_image=data.on_bad_image, bad_limit=data.bad_limit, patience=data.timeout,
        per_class=task.per_class(config), chosen=mining,
    )  # fmt: skip


def _renewal(parts: Parts, mining: Mining | None, evaluation: Evaluation) -> Renew | None:
    if mining is None or not isinstance(evaluation, PlaceSearch):
        return None
    return renewal(parts, mining, evaluation.embed)


def count_steps(config: TrainConfig, per_epoch: int, *, output: Output = SILENT) -> int:
    """Steps of the whole run; says where its warm-up does not fit into it."""
    steps = config.steps or round(config.epochs * per_epoch)
    if steps < 1:
        raise UserError(
            f"{config.epochs} epochs of {per_epoch} steps are no step; train for longer",
            fields=("epochs", "steps"),
        )
    if (warmup := round(config.optim.warmup_epochs * per_epoch)) >= steps:
        output.warn(
            f"the warm-up has {warmup} steps, the run {steps}: the learning rate rises until the last step"
        )
    return steps


def compiled(run: Run, state: State, *, output: Output = SILENT) -> Run:
    """The run with its programs compiled, each for the one shape it will see."""
    clock = run_files.Stopwatch()
    rows, pixels = run.feed.batch_size, run.feed.augment is not as_stored
    spread = NamedSharding(run.mesh, sharding.ROWS)

    def like(shape: tuple[int, ...], kind: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), kind, sharding=spread)

    kind = np.uint8 if pixels else np.float32
    batch = RawBatch(like(run.shape, kind), like((), np.int32), like((), np.int32))
    with clock.stage("compile"):
        update = run.update.lower(state, batch, run.teacher).compile()
        evaluation = run.evaluation.compiled(state.evaluated, rows, run.shape)
    clock.close()
    spent = clock.compile_seconds["compile"]
    output.say(f"compiled {clock.compiled} programs in {spent:.1f} s ({clock.cached} from the cache)")
    return replace(run, update=update, evaluation=evaluation)
