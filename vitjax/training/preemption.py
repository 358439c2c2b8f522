"""Graceful preemption: on SIGTERM or SIGINT a run saves and stops between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

Result = TypeVar("Result")


class Stop:
    """Whether the run was asked to stop, by SIGTERM or the keyboard; the keyboard's second time is at once.

    Of several processes all stop at the same step, which JAX's coordinator settles; there it also listens for
    the signal itself.

    Attributes:
        reason: name of the signal; "" = none.
        busy: what cannot be interrupted still runs in a thread; the process must end by `os._exit`.
    """

    def __init__(self) -> None:
        self.reason: str = ""
        self.busy: bool = False

    def asked(self, step: int) -> bool:
        """Tells whether to stop before this step; every process calls it at the same steps."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.reason = self.reason or "SIGTERM"
        return bool(self.reason)

    def now(self) -> bool:
        """Tells whether to stop in the midst of something, which of several processes none may do alone."""
        return bool(self.reason) and jax.process_count() == 1

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Catches the signals inside the `with` block."""
        signals = () if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._heard) for number in signals}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name

    def unless(self, work: Callable[[], Result]) -> Result | None:
        """The result of work that cannot be interrupted, as compilation is; None if asked to stop."""
        if jax.process_count() > 1:
            return work()
        results: list[Result] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001  (raised again below)
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() and not self.reason:
            thread.join(0.05)
        self.busy = thread.is_alive()
        if errors:
            raise errors[0]
        return results[0] if results else None
