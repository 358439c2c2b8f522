"""The session of a run: its folder and files, its throughput, and its progress."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitjax.training.checkpoint import Checkpoints
from vitjax.training.log import MetricLog
from vitjax.training.output import SILENT, Output
from vitjax.training.preemption import Stop
from vitjax.training.state import State


@dataclass(frozen=True)
class Progress:
    """Progress of a run beside its state; every checkpoint stores it.

    Attributes:
        train_loss: of the last logged step; None where it was not finite, or no step was.
        skipped: steps that were left out, as their loss or gradient was not finite.
        metrics: of the last evaluation.
        evaluated: step of that; None = none yet.
        best: step and score of the best evaluation.
        best_raw: the same of the parameters themselves, where their EMA is evaluated too.
        feed: batch size, and from where on batches are counted; see `feed_notes`.
        clock: images and seconds of the steps so far; see `Throughput`.
    """

    train_loss: float | None = None
    skipped: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    evaluated: int | None = None
    best: Mapping[str, Any] | None = None
    best_raw: Mapping[str, Any] | None = None
    feed: Mapping[str, int] | None = None
    clock: Mapping[str, float] | None = None

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Progress":
        """Reads the notes of a checkpoint; what an older one lacks is as at the beginning."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in notes.items() if name in known})

    def to_notes(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}


class Throughput:
    """How fast steps go, and how long they wait for data; evaluations and saves between laps do not count.

    Args:
        batch_size: images of a step.
        before: `notes` of the run's earlier starts.
    """

    def __init__(self, batch_size: int, before: Mapping[str, float] | None = None) -> None:
        self._rows = batch_size
        self._steps, self._waited, self._start = 0, 0.0, time.perf_counter()
        self._images, self._seconds = (before["images"], before["seconds"]) if before else (0.0, 0.0)

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
        self._images += self._steps * self._rows
        self._seconds += seconds if self._steps else 0.0
        self._steps, self._waited = 0, 0.0
        return lap

    def overall(self) -> float:
        """Images per second of all laps, those before the run was resumed included."""
        return self._images / self._seconds if self._seconds else 0.0

    def notes(self) -> dict[str, float]:
        """Plain data for a checkpoint."""
        return {"images": self._images, "seconds": self._seconds}


@dataclass(frozen=True, eq=False)
class Session:
    """One start of a run.

    Attributes:
        out: the run's folder.
        saves: its checkpoints.
        stop: whether it was asked to stop.
        clock: its throughput.
        log: metrics of its steps; None in all processes but one.
        output: where its lines go.
    """

    out: pathlib.Path
    saves: Checkpoints
    stop: Stop
    clock: Throughput
    log: MetricLog | None = None
    output: Output = SILENT

    def save(self, step: int, state: State, progress: Progress, *, prune: bool = True) -> None:
        """Starts to save a step; see `Checkpoints.save`."""
        progress = dataclasses.replace(progress, clock=self.clock.notes())
        self.saves.save(step, state, progress.to_notes(), prune=prune)

    def note(self, step: int, figures: dict[str, Any]) -> None:
        """Writes figures of a step to the log."""
        if self.log is not None:
            self.log.write(step, figures)
