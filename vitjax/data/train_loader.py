"""Images of each training step: the same for a seed and a step, whoever reads them, wherever it began."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from absl import flags
from jaxtyping import Int32, UInt8
from PIL import Image

from vitjax.data.images import ImageError
from vitjax.data.sources.base import ImageSource
from vitjax.errors import UserError

Augment = Callable[[Image.Image, np.random.Generator], UInt8[np.ndarray, "h w 3"]]

_AHEAD = 2  # batches per thread that are made before they are asked for
_LOOK = 0.5  # seconds between looks at whether to stop while none comes
_TRIES = 20  # other images that take a bad one's place


class RawBatch(NamedTuple):
    """A batch as the data loader gives it, this process's rows of it.

    Attributes:
        images: pixels, not normalised.
        labels: class of each.
        index: position of each in its source.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    labels: Int32[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]


class Origin(NamedTuple):
    """From where on batches are counted: the beginning, or where a run resumed with another batch size.

    Attributes:
        step: the first of this batch size.
        epoch: of that step.
        images: of that epoch that steps before have seen.
    """

    step: int = 0
    epoch: int = 0
    images: int = 0

    def position(self, step: int, batch_size: int, total: int) -> tuple[int, int]:
        """Epoch of a step, and how many of its `total` images the steps before it have seen."""
        behind, rest = step - self.step, max(total - self.images, 0) // batch_size
        if behind < rest:
            return self.epoch, self.images + behind * batch_size
        epochs, batches = divmod(behind - rest, max(total // batch_size, 1))
        return self.epoch + 1 + epochs, batches * batch_size


class TooManyBadImages(UserError):
    """More images than allowed cannot be read; the text names some."""


@runtime_checkable
class Sampler(Protocol):
    """Chooses the images of every batch, some steps at a time; see `vitjax.training.mining`."""

    @property
    def rows_per_epoch(self) -> int:
        """Rows that an epoch has."""
        ...

    def end(self, step: int) -> int:
        """The step from which on rows are not chosen yet when this one is made."""
        ...

    def index(self, step: int) -> Int32[np.ndarray, " b"]:
        """Positions in the source of all rows of a step."""
        ...

    def instead(self, i: int) -> int:
        """What takes the place of an image that cannot be read."""
        ...


class StoppedFeed(UserError):
    """The data loader has stopped: a process of it has ended or timed out."""


@dataclass
class Feed:
    """Batches of training, step after step.

    Every image comes once an epoch, in an order that the seed and the epoch decide; what does not fill the
    last batch of an epoch is left out of it. The order and the augmentation of every image are functions of
    (seed, step, row) alone, so a run that resumes at some step sees what it would have seen; one that resumes
    with another batch size, the images of the epoch that it has not seen (see `Origin`).

    Attributes:
        source: labelled images.
        augment: from an RGB image and a generator of random numbers to pixels of the model's size.
        batch_size: rows over all processes.
        seed: of order and augmentation.
        workers: threads that read and decode.
        processes: processes with so many threads each; 0 = the threads are this process's own. Threads do
            for decoding and resizing, which release the interpreter lock; RandAugment gains from processes.
        on_bad_image: "skip": the next image that can be read takes a bad one's place; "error": stop.
        bad_limit: share of the source's images that may be bad.
        patience: seconds that a batch may take before the run stops.
        shard: (process index, number of processes): each reads a contiguous part of every batch's rows.
        per_class: each batch has so many images of each of its classes, both drawn anew for every step; an
            epoch is then as many steps as would show every image once. 0 = as said above.
        chosen: says what each step learns from, instead of all that.
        origin: from where on batches are counted.
        bad: images of this process that could not be read: position in the source -> reason.
    """

    source: ImageSource
    augment: Augment
    batch_size: int
    seed: int
    workers: int = 2
    processes: int = 0
    on_bad_image: str = "skip"
    bad_limit: float = 0.01
    patience: float = 600.0
    shard: tuple[int, int] = (0, 1)
    per_class: int = 0
    chosen: Sampler | None = None
    origin: Origin = field(default_factory=Origin)
    bad: dict[int, str] = field(default_factory=dict)
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source.class_names:
            raise UserError("training needs classes: put the images into one sub-folder for each.")
        if len(self.source) < self.batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}, but there are only {len(self.source)} images; "
                "set it lower."
            )
        if self.batch_size % self.shard[1]:
            raise UserError(
                f"batch_size {self.batch_size} is no multiple of the {self.shard[1]} processes; give one."
            )

        classes = np.unique(np.asarray(self.source.labels)) if self.per_class else ()
        self._members = [np.flatnonzero(np.asarray(self.source.labels) == c) for c in classes]
        if self.per_class and len(classes) * self.per_class < self.batch_size:
            raise UserError(
                f"batch_size {self.batch_size} is {self.batch_size // self.per_class} classes of "
                f"{self.per_class} images, but there are only {len(classes)} classes; set it lower."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches that an epoch fills."""
        return max(self.rows_per_epoch // self.batch_size, 1)

    @property
    def rows_per_epoch(self) -> int:
        """Images that an epoch has, those left out of it included."""
        return self.chosen.rows_per_epoch if self.chosen else len(self.source)

    def epochs(self, step: int) -> float:
        """Epochs that the steps before this one have seen."""
        epoch, images = self.origin.position(step, self.batch_size, self.rows_per_epoch)
        return epoch + images / (self.steps_per_epoch * self.batch_size)

    def index(self, step: int) -> Int32[np.ndarray, " b"]:
        """Positions in the source of all rows of a step, over all processes."""
        if self.chosen:
            return self.chosen.index(step)
        if self.per_class:
            return self._balanced(np.random.default_rng([self.seed, step, self.per_class]))
        epoch, first = self.origin.position(step, self.batch_size, len(self.source))
        return self._order(epoch)[first : first + self.batch_size]

    def batch(self, step: int) -> tuple[RawBatch, list[tuple[int, str]]]:
        """This process's rows of a step, and which images it could not read, with reasons."""
        rows = self.batch_size // self.shard[1]
        first = self.shard[0] * rows
        wanted = self.index(step)[first : first + rows]
        images, index, labels, bad = [], [], [], []
        for row, asked in enumerate(wanted):
            rng = np.random.default_rng([self.seed, step, first + row])
            image, found = self._read(int(asked), bad)
            images.append(self.augment(image, rng))
            index.append(found)
            labels.append(self._label(found))
        return RawBatch(np.stack(images), np.array(labels, np.int32), np.array(index, np.int32)), bad

    def steps(
        self, start: int, stop: int, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[RawBatch, None, None]:
        """Batches of the steps from `start` on, made in threads before they are asked for; see `_steps`.

        Where none comes and `stopped()` holds there are no more; a thread may then wait on, for ever.
        """
        while start < stop and not stopped():
            end = min(stop, self.chosen.end(start)) if self.chosen else stop
            yield from self._steps(start, end, stopped)
            start = end

    def _steps(self, start: int, stop: int, stopped: Callable[[], bool]) -> Generator[RawBatch, None, None]:
        """Batches of steps whose rows are known.

        Raises:
            ImageError: a bad image where that is an error.
            TooManyBadImages: more of them than `bad_limit`.
            StoppedFeed: none comes any more.
        """
        import grain  # takes a second, and nothing else of this module needs it

        items = grain.MapDataset.range(start, stop).map(lambda step: self.batch(int(step)))
        options = grain.ReadOptions(num_threads=self.workers, prefetch_buffer_size=_AHEAD * self.workers)
        made = items.to_iter_dataset(options)
        if self.processes:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # or grain's processes would not start
            options = grain.MultiprocessingOptions(num_workers=self.processes)
            made = made.mp_prefetch(options, worker_init_fn=_live_as_long_as_the_run)
        reader, waiter = iter(made), concurrent.futures.ThreadPoolExecutor(1, "feed")
        try:
            for step in range(start, stop):
                found = self._next(reader, waiter, step, stopped)
                if found is None:
                    return  # to close would wait for what does not come
                batch, bad = found
                self._note(bad)
                yield batch
        except StoppedFeed:
            raise  # to close would wait for what does not come
        except BaseException:  # the caller's early exit too: without it the threads would decode on
            reader.close()
            raise
        else:
            reader.close()
        finally:
            waiter.shutdown(wait=False)

    def _next(
        self,
        reader: Iterator[Any],
        waiter: concurrent.futures.Executor,
        step: int,
        stopped: Callable[[], bool],
    ) -> Any:
        """The next batch; None or, after all patience, an error where none comes: grain waits for ever."""
        coming = waiter.submit(next, reader)
        end = time.monotonic() + self.patience
        while not (coming.done() or stopped()) and (left := end - time.monotonic()) > 0:
            concurrent.futures.wait([coming], min(left, _LOOK))
        reason = f"no image came within the time-out of {self.patience:.0f} s: is the storage reachable?"
        try:
            if coming.done():
                return coming.result()
        except RuntimeError as error:
            if "Worker process" not in str(error):
                raise
            reason = f"a process that reads them has ended: {str(error).split('. ')[0]}; is memory short?"
        for child in multiprocessing.active_children():
            if child.name.startswith("grain"):
                child.kill()  # one that is stuck would outlive this process
        if stopped():
            return None
        raise StoppedFeed(
            f"data loader: no images of step {step}: {reason} The same command resumes from the last "
            "checkpoint."
        )

    def _order(self, epoch: int) -> Int32[np.ndarray, " n"]:
        """The source's positions in the order of an epoch; the last two are kept."""
        if epoch not in self._orders:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.source)).astype(np.int32)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
            return order
        return self._orders[epoch]

    def _balanced(self, rng: np.random.Generator) -> Int32[np.ndarray, " b"]:
        """Some classes, and some images of each; a class of too few gives some of them twice."""
        chosen = rng.choice(len(self._members), self.batch_size // self.per_class, replace=False)
        rows = [
            rng.choice(self._members[c], self.per_class, replace=len(self._members[c]) < self.per_class)
            for c in chosen
        ]
        return np.concatenate(rows).astype(np.int32)

    def _read(self, i: int, bad: list[tuple[int, str]]) -> tuple[Any, int]:
        """Image i, or what its source has in its place; or the next in order that can be read."""
        for _ in range(_TRIES):
            try:
                return self.source.read(i), i
            except ImageError as error:
                if self.on_bad_image == "error":
                    raise
                bad.append((i, str(error)))
                i = self._instead(i)
        raise TooManyBadImages(f"{_TRIES} images in a row cannot be read, the last: {bad[-1][1]}")

    def _label(self, i: int) -> int:
        """Class of an image; a source that would have to read all of them for it has a method for one."""
        one = getattr(self.source, "label", None)
        return one(i) if one is not None else int(np.asarray(self.source.labels)[i])

    def _instead(self, i: int) -> int:
        """The next image, where batches are balanced the next of the same class."""
        if self.chosen:
            return self.chosen.instead(i)
        if not self.per_class:
            return (i + 1) % len(self.source)
        members = next(m for m in self._members if i in m)
        return int(members[(np.searchsorted(members, i) + 1) % len(members)])

    def _note(self, bad: list[tuple[int, str]]) -> None:
        self.bad.update(bad)
        if len(self.bad) > self.bad_limit * len(self.source):
            some = "; ".join(list(self.bad.values())[:3])
            raise TooManyBadImages(
                f"{len(self.bad)} of {len(self.source)} images cannot be read, more than "
                f"bad_limit {self.bad_limit}: {some}"
            )


def _live_as_long_as_the_run(*_: int) -> None:
    """In a process that reads: it ends with the run, however that ends, and not by what stops the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run = multiprocessing.parent_process()

    def follow() -> None:
        if run is not None:
            run.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
