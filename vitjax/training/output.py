"""Output of a run: lines, warnings and progress."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


def _nothing(*_: str) -> None:
    pass


def _items(items: Iterable[Any], count: int, what: str, **_: Any) -> Iterator[Any]:
    yield from items


@dataclass(frozen=True)
class Output:
    """Functions that a run reports to; by default they do nothing.

    Attributes:
        say: (line), what happens.
        warn: (*lines), what the user may want to change.
        bar: (items, count, what) -> the items, with progress; options as of `vitjax.cli.console.bar`.
    """

    say: Callable[[str], None] = _nothing
    warn: Callable[..., None] = _nothing
    bar: Callable[..., Iterator[Any]] = _items


SILENT = Output()
