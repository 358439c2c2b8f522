"""Fields that have got a better name: their old names are read for one version, with a warning."""

import dataclasses
import functools
import warnings
from typing import Any, TypeVar

# section class -> {old name: name}
OLD_NAMES: dict[str, dict[str, str]] = {
    "TrainDataConfig": {"patience": "timeout"},
    "DistillConfig": {"name": "teacher"},
}

Class = TypeVar("Class", bound=type)


class OldNameWarning(DeprecationWarning):
    """A field of a config is still called by its old name."""


def reads_old_names(cls: Class) -> Class:
    """Lets a section of a config be made with, and be read and written by, the old names of its fields."""
    names, init = OLD_NAMES.get(cls.__name__, {}), cls.__init__

    @functools.wraps(init)
    def made(self: Any, *args: Any, **given: Any) -> None:
        for old in names.keys() & given.keys():
            if names[old] in given:
                raise TypeError(
                    f"{cls.__name__}: {old!r} is the old name of {names[old]!r}; give one of them"
                )
            _warn(cls, old, names[old])
            given[names[old]] = given.pop(old)
        init(self, *args, **given)

    if names:
        cls.__init__ = made
    for old, new in names.items():
        setattr(cls, old, _alias(cls, old, new))
    return cls


def current_path(config: Any, path: str) -> str:
    """The dotted path of a field, such as "data.timeout", also where its old name is given."""
    *sections, name = path.split(".")
    for section in sections:
        config = getattr(config, section, None)
    return ".".join((*sections, OLD_NAMES.get(type(config).__name__, {}).get(name, name)))


def with_current_names(config: Any, tree: dict[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote of such a config, as nested data, with the names of today."""
    names = OLD_NAMES.get(type(config).__name__, {})
    sections = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    found = {}
    for name, value in tree.items():
        nested = isinstance(value, dict) and dataclasses.is_dataclass(sections.get(name))
        found[names.get(name, name)] = with_current_names(sections[name], value) if nested else value
    return found


def _alias(cls: type, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        _warn(cls, old, new)
        return getattr(self, new)

    def write(self: Any, value: Any) -> None:
        _warn(cls, old, new)
        setattr(self, new, value)

    return property(read, write, doc=f"The old name of `{new}`.")


def _warn(cls: type, old: str, new: str) -> None:
    warnings.warn(
        f"{cls.__name__}.{old} is now called {new}; the old name goes with the next version",
        OldNameWarning,
        stacklevel=3,
    )
