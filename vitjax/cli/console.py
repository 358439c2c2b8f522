"""Console output, all on stderr: lines, tables, and the progress of loops, as bars or as lines of a log."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from vitjax import sharding
from vitjax.system.terminal import clean

FIRST, LONGEST = 5.0, 60.0  # seconds before the first line of progress, and between later ones at most


class _CleanConsole(Console):
    """Cleans every text before it is coloured, of lines and of cells alike: rich asks for texts here only."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(clean(text), **options)


# Paths and names are printed as they are, whatever brackets and colons are in them.
console: Console = _CleanConsole(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str, *, style: str | None = None) -> None:
    """Prints a line on stderr, once per run."""
    if sharding.is_main_process():
        console.print(text, style=style, soft_wrap=True)  # a log reads one line as one


def warn(*lines: str) -> None:
    """Prints warnings, once per run."""
    for text in lines:
        say(text, style="yellow")


def bar(
    items: Iterable[Any],
    count: int,
    what: str,
    *,
    total: int | None = None,
    unit: str = "images",
    ends: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Any]:
    """Yields items with a progress bar on a terminal, and lines now and then elsewhere.

    Args:
        items: what is gone through.
        count: how many there are.
        what: is done with them.
        total: of what they hold, where an item is a batch of it; None = `count`.
        unit: what that is.
        ends: a line of a log says at the end how long it took; else only where others came before.
        clock: seconds, for the lines.
    """
    if not count or not sharding.is_main_process():
        yield from items
    elif not console.file.isatty() or console.is_dumb_terminal:
        yield from _lines(items, what, _Rate(count, total or count, unit, clock), ends=ends)
    else:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Streams stay as they are: rich would write its own escapes through what cleans those of others.
        with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
            yield from progress.track(items, total=count, description=clean(what))


def _lines(items: Iterable[Any], what: str, rate: "_Rate", *, ends: bool) -> Iterator[Any]:
    """Yields items with a progress line after some seconds, then less and less often, and one at the end."""
    wait = FIRST
    due = rate.began + wait
    for done, item in enumerate(items):
        now = rate.at(done)
        if done and now >= due:
            say(f"{what}: {rate.text(done, now)}")
            wait = min(2 * wait, LONGEST)
            due = now + wait
        yield item
    if ends or wait > FIRST:
        say(f"{what}: done in {_duration(rate.clock() - rate.began)}")


class _Rate:
    """How far a loop is and how fast it goes; its first item, which compiles, counts only until others do."""

    def __init__(self, count: int, total: int, unit: str, clock: Callable[[], float]) -> None:
        self.count, self.total, self.unit, self.clock = count, total, unit, clock
        self.began = self._first = clock()

    def at(self, done: int) -> float:
        """The time, noted where one item is done."""
        now = self.clock()
        if done == 1:
            self._first = now
        return now

    def text(self, done: int, now: float) -> str:
        """Done of total, the rate, and the time left."""
        items, seconds = (done - 1, now - self._first) if done > 1 else (done, now - self.began)
        each = max(seconds, 1e-9) / items
        rate = self.total / self.count / each
        reached = self.total * done // self.count
        left = _duration((self.count - done) * each)
        return f"{reached}/{self.total} {self.unit}, {rate:.3g} {self.unit}/s, {left} left"


def _duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> _duration(7.3), _duration(65.0), _duration(7300.0)
    ('7.3 s', '1:05 min', '2:01 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    small, unit = (seconds, "min") if seconds < 3600 else (seconds / 60, "h")
    return f"{int(small // 60)}:{int(small % 60):02d} {unit}"


def count_of(number: int, one: str, many: str) -> str:
    """A number with its noun.

    >>> count_of(1, "query", "queries"), count_of(111, "query", "queries")
    ('1 query', '111 queries')
    """
    return f"{number} {one if number == 1 else many}"
