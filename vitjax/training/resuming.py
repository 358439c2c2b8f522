"""Where a run resumes: what its folder knows of earlier steps, and where in its epoch it is."""

import json
import pathlib
from typing import Any

from vitjax.cli.console import say, warn
from vitjax.config.train_config import TrainConfig
from vitjax.data.train_loader import Feed, Origin
from vitjax.errors import UserError
from vitjax.training.checkpoint import MANIFEST, Checkpoints
from vitjax.training.log import FILE, last_step

RESULTS = "results.json"


def check_checkpoints(out: pathlib.Path, saves: Checkpoints, *, every: int) -> None:
    """Compares what the run's folder knows of earlier steps with the checkpoints that are there.

    Steps after the last checkpoint are done again, the same, so a run that was killed loses nothing. Where
    checkpoints that were finished are gone, it would: its metrics and its best weights are written anew.

    Args:
        out: the run's folder.
        saves: its checkpoints.
        every: steps between saves.

    Raises:
        UserError: none is there though some were, or the last one has lost its manifest.
    """
    found = saves.latest()
    ended = _known(out / RESULTS, "step")
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
        warn(
            f"{out} knows a run of {finished} steps, the last checkpoint in {saves.root} is of step {found}: "
            f"the steps after it are done again"
        )


def _lacking(saves: Checkpoints) -> str:
    if steps := saves.unfinished():
        return f"those of step {', '.join(map(str, steps))} lack {MANIFEST}"
    return "it is empty" if saves.root.is_dir() else "it is not there"


def _known(path: pathlib.Path, name: str) -> int:
    """A whole number of a JSON file; 0 where it cannot be read."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0


def origin_of(notes: dict[str, Any], step: int, *, batch_size: int, per_epoch: int) -> Origin:
    """From where on batches are counted by a run that resumes at a step: images count, not batches.

    Args:
        notes: of the checkpoint; `feed` is what `feed_notes` gave.
        step: of the checkpoint.
        batch_size: of the run from now on.
        per_epoch: images of an epoch.
    """
    then = notes.get("feed")
    if then is None:
        return Origin()
    origin = Origin(then["step"], then["epoch"], then["images"])
    if then["batch_size"] == batch_size:
        return origin
    return Origin(step, *origin.place(step, then["batch_size"], per_epoch))


def feed_notes(feed: Feed) -> dict[str, int]:
    """What a checkpoint notes of the feed, so that a run may resume with another batch size."""
    return {"batch_size": feed.batch_size, **feed.origin._asdict()}


def offset_of(config: TrainConfig, feed: Feed) -> int:
    """Steps of this batch size that show what was seen, less the steps done; 0 where config.steps is set."""
    if config.steps:
        return 0
    return round(feed.epochs(feed.origin.step) * feed.steps_per_epoch) - feed.origin.step


def say_batch_size(notes: dict[str, Any], step: int, config: TrainConfig, feed: Feed, steps: int) -> None:
    """Says what another batch size than at the checkpoint changes."""
    before = notes.get("feed", {}).get("batch_size", feed.batch_size)
    if before == feed.batch_size:
        return
    counted = (
        "batches are drawn anew for each step"
        if feed.chosen or feed.per_class
        else f"epoch {feed.origin.epoch} resumes behind the {feed.origin.images} images it has shown"
    )
    length = (
        f"the run still ends at step {steps}, as config.steps says"
        if config.steps
        else f"the run ends at step {steps}, its learning rate resumes at epoch {feed.epochs(step):.2f}"
    )
    say(
        f"config.batch_size {before} -> {feed.batch_size} at step {step}: {counted}; an epoch is now "
        f"{feed.steps_per_epoch} steps; {length}; config.optim.lr stays {config.optim.lr:g}"
    )
