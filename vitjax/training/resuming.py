"""Resuming: checkpoints compared with the run's logs, and the position in the epoch."""

import pathlib

import jax

from vitjax.config.train_config import TrainConfig
from vitjax.data.train_loader import Feed, Origin
from vitjax.errors import UserError
from vitjax.system.files import read_number
from vitjax.training.checkpoint import MANIFEST, Checkpoints, total_bytes
from vitjax.training.log import FILE, last_step
from vitjax.training.output import SILENT, Output
from vitjax.training.session import Progress
from vitjax.training.state import State

RESULTS = "results.json"


def check_checkpoints(out: pathlib.Path, saves: Checkpoints, *, every: int, output: Output = SILENT) -> None:
    """Compares what the run's folder knows of earlier steps with the checkpoints that are there.

    Steps after the last checkpoint are done again, the same, so a run that was killed loses nothing. Where
    checkpoints that were finished are gone, it would: its metrics and its best weights are written anew.

    Args:
        out: the run's folder.
        saves: its checkpoints.
        every: steps between saves.
        output: is told of steps that are done again.

    Raises:
        UserError: none is there though some were, or the last one has lost its manifest.
    """
    found = saves.latest()
    ended = int(read_number(out / RESULTS, "step"))
    finished = max(saves.recorded(), ended)
    lost = [step for step in saves.unfinished() if (found or 0) < step <= finished]
    if found is None and (last := max(finished, last_step(out / FILE) - 2 * every)) > 0:
        shown = max(last, last_step(out / FILE))
        raise UserError(
            f"{out} knows a run of {shown} steps, but {saves.root} has no whole checkpoint "
            f"({_lacking(saves)}): mount or restore that folder; to start anew choose another --workdir, or "
            f"delete {out}"
        )
    if lost:
        raise UserError(
            f"checkpoint of step {lost[-1]} in {saves.root} was finished, but its {MANIFEST} is gone: "
            f"restore that file, or delete {saves.root / str(lost[-1])} to resume from step {found}"
        )
    if found is not None and found < finished:
        output.warn(
            f"{out} knows a run of {finished} steps, the last checkpoint in {saves.root} is of step {found}: "
            f"the steps after it are done again"
        )


def _lacking(saves: Checkpoints) -> str:
    if steps := saves.unfinished():
        return f"those of step {', '.join(map(str, steps))} lack {MANIFEST}"
    return "it is empty" if saves.root.is_dir() else "it is not there"


def resume(saves: Checkpoints, state: State, *, output: Output = SILENT) -> tuple[State, Progress]:
    """The last whole checkpoint's state and progress; the given state where there is none."""
    for step in saves.unfinished():
        output.warn(
            f"the save of step {step} was never finished: it does not count, and is deleted once a later "
            "one is whole"
        )
    step = saves.latest()
    if step is None:
        output.say(f"a checkpoint has {total_bytes(state) / 2**20:.1f} MiB")
        return state, Progress()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    state, notes = saves.load(step, like)
    output.say(f"resuming from step {step}")
    return state, Progress.from_notes(notes)


def origin_of(progress: Progress, step: int, *, batch_size: int, per_epoch: int) -> Origin:
    """From where on batches are counted by a run that resumes at a step: images count, not batches.

    Args:
        progress: of the checkpoint; its `feed` is what `feed_notes` gave.
        step: of the checkpoint.
        batch_size: of the run from now on.
        per_epoch: images of an epoch.
    """
    then = progress.feed
    if then is None:
        return Origin()
    origin = Origin(then["step"], then["epoch"], then["images"])
    if then["batch_size"] == batch_size:
        return origin
    return Origin(step, *origin.position(step, then["batch_size"], per_epoch))


def feed_notes(feed: Feed) -> dict[str, int]:
    """What a checkpoint notes of the feed, so that a run may resume with another batch size."""
    return {"batch_size": feed.batch_size, **feed.origin._asdict()}


def offset_of(config: TrainConfig, feed: Feed) -> int:
    """Steps of this batch size that show what was seen, less the steps done; 0 with `steps` in the config."""
    if config.steps:
        return 0
    return round(feed.epochs(feed.origin.step) * feed.steps_per_epoch) - feed.origin.step


def say_batch_size(
    progress: Progress, step: int, config: TrainConfig, feed: Feed, steps: int, *, output: Output = SILENT
) -> None:
    """Says what another batch size than at the checkpoint changes."""
    before = (progress.feed or {}).get("batch_size", feed.batch_size)
    if before == feed.batch_size:
        return
    counted = (
        "batches are drawn anew for each step"
        if feed.chosen or feed.per_class
        else f"epoch {feed.origin.epoch} resumes behind the {feed.origin.images} images it has shown"
    )
    length = (
        f"the run still ends at step {steps}, as the config says"
        if config.steps
        else f"the run ends at step {steps}, its learning rate resumes at epoch {feed.epochs(step):.2f}"
    )
    output.say(
        f"batch size {before} -> {feed.batch_size} at step {step}: {counted}; an epoch is now "
        f"{feed.steps_per_epoch} steps; {length}; the learning rate stays {config.optim.lr:g}"
    )
