"""Batches of model input from a source: decoded in threads, in order, every batch of the same shape."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from PIL import Image

from vitjax.data.images import ImageError
from vitjax.data.sources.base import ImageSource
from vitjax.errors import UserError

_NAMED = 3  # images of a line; the rest are counted


class Batch(NamedTuple):
    """One batch; rows that are padding or could not be read have valid = False and hold zeros.

    Attributes:
        images: normalised pixels.
        index: position of each image in its source; -1 = padding.
        valid: True = a real image.
    """

    images: Float32[np.ndarray, "b h w 3"]
    index: Int32[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that was left out, and why."""

    index: int
    name: str
    reason: str


class Batches:
    """What `batches` returns: iterate over it as often as wanted.

    Attributes:
        skipped: images of this process that could not be read, in order; complete once an iteration has
            ended, and started anew by the next.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[Image.Image], np.ndarray],
        batch_size: int,
        *,
        workers: int,
        on_bad_image: str,
        shard: tuple[int, int],
    ) -> None:
        process, processes = shard
        if batch_size < 1 or batch_size % processes:
            raise UserError(
                f"batches: batch_size {batch_size} is no multiple of the {processes} processes; give one."
            )
        if workers < 1:
            raise UserError(f"batches: workers is {workers}; give 1 or more.")
        if on_bad_image not in ("skip", "error"):
            raise UserError(f"batches: on_bad_image {on_bad_image!r} is neither 'skip' nor 'error'.")
        if not 0 <= process < processes:
            raise UserError(f"batches: shard {shard} is not (process index, number of processes).")
        self._source, self._transform = source, transform
        self._batch_size, self._rows = batch_size, batch_size // processes
        self._workers, self._strict = workers, on_bad_image == "error"
        self._first = process * self._rows
        self.skipped: list[Skipped] = []

    def __len__(self) -> int:
        """Number of batches, the same on every process."""
        return (len(self._source) + self._batch_size - 1) // self._batch_size

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        ahead = 2 * self._rows + self._workers
        rows = iter(range(len(self) * self._rows))
        pool = ThreadPoolExecutor(self._workers, "prefetch")
        try:
            reading = deque(pool.submit(self._read, row) for row in islice(rows, ahead))
            for _ in range(len(self)):
                items = []
                while len(items) < self._rows:
                    items.append(reading.popleft().result())
                    reading.extend(pool.submit(self._read, row) for row in islice(rows, 1))
                yield self._collect(items)
        finally:
            # Also on an early exit of the caller: without it the threads would decode on.
            pool.shutdown(cancel_futures=True)

    def nothing_read(self, what: str) -> str:
        """One line for the case that no image could be read: how many there are, and the first with reasons.

        Args:
            what: the images are.
        """
        return nothing_read(self.skipped, len(self._source), what)

    def _read(self, row: int) -> tuple[int, np.ndarray | None, ImageError | None]:
        """Runs in a thread: index (-1 = padding), pixels, error."""
        batch, offset = divmod(row, self._rows)
        index = batch * self._batch_size + self._first + offset
        if index >= len(self._source):
            return -1, None, None
        try:
            return index, self._transform(self._source.read(index)), None
        except ImageError as error:
            return index, None, error

    def _collect(self, items: list[tuple[int, np.ndarray | None, ImageError | None]]) -> Batch:
        for index, _, error in items:
            if error is not None:
                if self._strict:
                    raise error
                self.skipped.append(Skipped(index, self._source.names[index], str(error)))
        images = np.zeros((self._rows, *self._shape(items)), np.float32)
        for offset, (_, pixels, _) in enumerate(items):
            if pixels is not None:
                images[offset] = pixels
        index = np.array([i for i, _, _ in items], np.int32)
        return Batch(images, index, np.array([pixels is not None for _, pixels, _ in items]))

    def _shape(self, items: list[tuple[int, np.ndarray | None, ImageError | None]]) -> tuple[int, ...]:
        for _, pixels, _ in items:
            if pixels is not None:
                return pixels.shape
        # No image of this batch could be read: the shape is that of any image.
        return self._transform(Image.new("RGB", (64, 64))).shape


def nothing_read(skipped: Sequence[Skipped], count: int, what: str) -> str:
    """One line for the case that no image could be read: how many, the first that were skipped, and why."""
    some = [item.reason.rstrip(".") for item in skipped[:_NAMED]]
    named = [
        reason if item.name.rpartition("/")[2] in reason else f"{item.name}: {reason}"
        for item, reason in zip(skipped, some, strict=False)
    ]
    more = [f"and {len(skipped) - _NAMED} more"] if skipped[_NAMED:] else []
    whole = f"none of {count} {what} could be read" if count else f"there are no {what}"
    return ": ".join([whole, *(["; ".join([*named, *more])] if named else [])])


def batches(
    source: ImageSource,
    transform: Callable[[Image.Image], np.ndarray],
    batch_size: int,
    *,
    workers: int = 2,
    on_bad_image: str = "skip",
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Batches of a source, in order, the last one padded: every batch has the same shape, so one compilation.

    Args:
        source: the images.
        transform: from an RGB image to float32 (h, w, 3), the same h and w for every image.
        batch_size: rows of a batch over all processes.
        workers: threads that read and decode. They are threads and not processes: decoding and resizing
            release the interpreter lock, and nothing is copied.
        on_bad_image: "skip" makes an image that cannot be read an invalid row and notes it in `.skipped`;
            "error" raises its ImageError.
        shard: (process index, number of processes): each gets a contiguous part of every batch's rows.

    Returns:
        Iterable with a length; `.skipped` afterwards. Only what this process needs is read.

    Raises:
        ValueError: a batch size that does not divide over the processes, or another value out of range.
    """
    return Batches(source, transform, batch_size, workers=workers, on_bad_image=on_bad_image, shard=shard)
