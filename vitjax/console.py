"""Lines and progress bars for people, all on stderr."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitjax import parallel

# Paths and names are printed as they are, whatever brackets and colons are in them.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(text: str, *, style: str | None = None) -> None:
    """Prints a line for people, once per run."""
    if parallel.is_main_process():
        console.print(text, style=style, soft_wrap=True)  # a log reads one line as one


def warn(*lines: str) -> None:
    """Prints warnings, once per run."""
    for text in lines:
        say(text, style="yellow")


def bar(items: Iterable[Any], count: int, what: str) -> Iterator[Any]:
    """Yields items with a progress bar."""
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not parallel.is_main_process()) as progress:
        yield from progress.track(items, total=count, description=what)


def count_of(number: int, one: str, many: str) -> str:
    """A number with its noun.

    >>> count_of(1, "query", "queries"), count_of(111, "query", "queries")
    ('1 query', '111 queries')
    """
    return f"{number} {one if number == 1 else many}"
