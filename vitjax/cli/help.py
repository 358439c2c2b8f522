"""What `--help` and `--print_config` print: the fields of a config, with their values, in 80 columns."""

import dataclasses
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from vitjax.config.fields import Field, walk
from vitjax.errors import UsageError

WIDTH = 80
_INDENT = 34  # where the meaning of a field begins

_HEAD = """\
  --config NAME[:arg]  the experiment: a built-in config, or a file (required)
  --workdir DIR        where results go; made if it is not there (required)
  --print_config       print every field with its value, and stop
  --help [WORD ...]    this text, or only the sections and fields of those words
"""


def fields(config: Any) -> Iterator[tuple[str, str, Any, str]]:
    """Yields (dotted path, type, value, description) of every field, nested ones included."""
    for field in walk(config):
        yield field.path, field.kind, field.value, _described(field)


def help_text(config: Any, description: str, words: Sequence[str] = ()) -> str:
    """Returns what `--help` prints: every field with its value in this config.

    Args:
        config: whose values are shown.
        description: first lines.
        words: names of sections, or words in the path or meaning of a field; empty = everything.

    Raises:
        UsageError: no section or field for one of the words.
    """
    chosen = _chosen(config, words)
    lines = [] if words else [*_wrapped(description), "", *_HEAD.splitlines(), ""]
    for name, section in sections(config):
        shown = [field for field in walk(section, name) if field.path in chosen and _owner(field) == name]
        if shown:
            lines += [*_wrapped(f"{name}: {_first_line(section)}"), *map(_help_of, shown), ""]
    return "\n".join(lines).rstrip()


def sections(config: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the value of a config and of every section in it."""
    yield name, config
    for item in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, item.name)):
            yield from sections(value, f"{name}.{item.name}")


def printed(config: Any) -> str:
    """Returns what `--print_config` prints: a line for each field."""
    return "\n".join(f"{path} = {value!r}  # {text}" for path, _, value, text in fields(config))


def _chosen(config: Any, words: Sequence[str]) -> set[str]:
    every = list(walk(config))
    found = set() if words else {field.path for field in every}
    for word in words:
        asked = word.strip("-").removeprefix("config.").casefold()
        inside = [field.path for field in every if _owner(field) == f"config.{asked}"]
        inside = inside or [f.path for f in every if asked in f"{f.path} {_described(f)}".casefold()]
        if not inside:
            known = {part for field in every for part in field.path.split(".")[1:]}
            near = difflib.get_close_matches(asked, known, n=1, cutoff=0.5)
            hint = f"; did you mean --help {near[0]}?" if near else ""
            raise UsageError(f"--help {word}: no section or field of the config has that word{hint}")
        found.update(inside)
    return found


def _owner(field: Field) -> str:
    return field.path.rpartition(".")[0]


def _described(field: Field) -> str:
    """The meaning of a field, then what it may hold."""
    words = ", ".join(word or "''" for word in field.option.words)
    limits = " or ".join(part for part in (field.option.numbers, words) if part)
    return f"{field.option.help} ({field.kind}{': ' if limits else ''}{limits})"


def _help_of(field: Field) -> str:
    value = "''" if field.value == "" else str(field.value)
    flag = f"  --{field.path}="
    if len(flag) + len(value) > WIDTH:
        value = f"{value[: WIDTH - len(flag) - 3]}..."
    left, meaning = flag + value, _wrapped(_described(field), WIDTH - _INDENT)
    if len(left) > _INDENT - 2:
        return "\n".join([left, *(" " * _INDENT + line for line in meaning)])
    first, *rest = meaning
    return "\n".join([f"{left:<{_INDENT}}{first}", *(" " * _INDENT + line for line in rest)])


def _first_line(section: Any) -> str:
    return (type(section).__doc__ or "").strip().splitlines()[0]


def _wrapped(text: str, width: int = WIDTH) -> list[str]:
    lines = text.strip().splitlines()
    return [part for line in lines for part in textwrap.wrap(line, width, break_on_hyphens=False) or [""]]
