"""One description of each field of a config: validation, --help, --print_config and completion read it."""

import dataclasses
import difflib
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from vitjax.config.field_types import wrong_kinds
from vitjax.errors import UserError

Config = TypeVar("Config")

_KEY = "option"


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field means and may hold.

    Attributes:
        help: what it means, in a line or two.
        choices: allowed words, or a function that gives them; empty = any text.
        low: smallest number.
        high: largest number.
        above: number that it must exceed.
        below: number that it must stay under.
        odd: whether it must be odd.
        unit: of its number.
    """

    help: str = ""
    choices: Sequence[str] | Callable[[], Sequence[str]] = ()
    low: int | float | None = None
    high: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    odd: bool = False
    unit: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The allowed words; empty = any text."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    @property
    def numbers(self) -> str:
        """The allowed numbers in words, such as "in (0, 1]" or "at least 0, in metres"; empty = any."""
        least = self.low if self.above is None else self.above
        most = self.high if self.below is None else self.below
        if most is not None:
            opens, closes = "[("[self.above is not None], "])"[self.below is not None]
            text = f"in {opens}{'-inf' if least is None else f'{least:g}'}, {most:g}{closes}"
        elif least is not None:
            text = f"above {least:g}" if self.above is not None else f"at least {least:g}"
        else:
            text = ""
        text = " and ".join(part for part in (text, "odd" * self.odd) if part)
        return ", in ".join(part for part in (text, self.unit) if part) if text else ""

    def mistake(self, value: Any) -> str:
        """What the value must be where it is not; empty where it may stand.

        Numbers of any library are compared in float32, in which they are computed: 1e-50 is 0 there.
        """
        if isinstance(value, tuple | list):
            return next((wrong for each in value if (wrong := self.mistake(each))), "")
        words = self.words
        if isinstance(value, str | os.PathLike):
            if not words or value in words:
                return ""
            if self.numbers:
                return f"it must be a number {self.numbers}, or {' or '.join(map(repr, words))}"
            near = difflib.get_close_matches(str(value), words, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"it must be one of {', '.join(map(repr, words))}{hint}"
        return "" if not self.numbers or self._holds(value) else f"it must be {self.numbers}"

    def _holds(self, value: Any) -> bool:
        number = _float32(value)
        return (
            (self.low is None or number >= _float32(self.low))
            and (self.high is None or number <= _float32(self.high))
            and (self.above is None or number > _float32(self.above))
            and (self.below is None or number < _float32(self.below))
            and (not self.odd or bool(value % 2 == 1))
        )


class Field(NamedTuple):
    """A field of a config: its dotted path, the name of its type, its value, and its option."""

    path: str
    kind: str
    value: Any
    option: Option


def option(default: Any, text: str, **limits: Any) -> Any:
    """A dataclass field with its description; `limits` are those of `Option`.

    >>> @dataclass
    ... class Example:
    ...     share: float = option(0.5, "share of the tokens that stays", above=0, high=1)
    >>> wrong_values(Example(share=2.0))
    ['config.share is 2.0; it must be in (0, 1]']
    """
    return dataclasses.field(default=default, metadata={_KEY: Option(help=text, **limits)})


def open_names(builtin: Sequence[str], module: str, table: str) -> Callable[[], tuple[str, ...]]:
    """Words that come with vitjax and those that a program has added to the table they are looked up in.

    The module of that table imports JAX, so it is not imported here: where nobody else has imported it,
    nobody has added to it.

    Args:
        builtin: words that come with vitjax.
        module: name of the module of the table.
        table: name of the table there, a dictionary from names to objects.
    """
    return lambda: tuple(dict.fromkeys((*builtin, *getattr(sys.modules.get(module), table, ()))))


def walk(config: Any, prefix: str = "config") -> Iterator[Field]:
    """Yields every field, nested ones included, in the order of the classes."""
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), f"{prefix}.{item.name}"
        if dataclasses.is_dataclass(value):
            yield from walk(value, path)
        else:
            yield Field(path, _kind(item.type), value, item.metadata.get(_KEY, Option()))


def check(config: Config, rules: Callable[[Config], list[str]]) -> None:
    """Raises one UserError that names every field that cannot be as it is.

    Args:
        config: of any class.
        rules: gives a line for each combination of fields that cannot be; it is asked only where each field
            is sensible in itself.
    """
    wrong = wrong_kinds(config) or wrong_values(config) or rules(config)
    if wrong:
        raise UserError("; ".join(wrong))


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain nested data."""
    return dataclasses.asdict(config)


def wrong_values(config: Any) -> list[str]:
    """A line for each field whose value is out of its range, or none of its words."""
    return [
        f"{path} is {value!r}; {wrong}"
        for path, _, value, chosen in walk(config)
        if (wrong := chosen.mistake(value))
    ]


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return "a number or a word" if str in get_args(get_args(annotation)[0]) else "a number, or several"
    return str(annotation) if get_origin(annotation) else getattr(annotation, "__name__", str(annotation))


def _float32(value: Any) -> float:
    """A number as float32 has it, without NumPy: `--help` would wait for its import."""
    return struct.unpack("f", struct.pack("f", value))[0]
