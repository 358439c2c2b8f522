"""How fast a run goes."""

import contextlib
import time
from collections.abc import Iterator


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
