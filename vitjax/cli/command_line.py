"""The command line of the programs: `--config FILE[:arg] --config.a.b=value --workdir DIR`."""

import dataclasses
import difflib
import inspect
import pathlib
import re
import runpy
import sys
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from vitjax.cli import builtin
from vitjax.errors import UsageError
from vitjax.system.files import expanded


def fields(config: Any, prefix: str = "config") -> Iterator[tuple[str, str, Any, str]]:
    """Yields (dotted path, type, value, comment) of every field, nested ones included."""
    comments = _comments(type(config))
    for item in dataclasses.fields(config):
        value, path = getattr(config, item.name), f"{prefix}.{item.name}"
        if dataclasses.is_dataclass(value):
            yield from fields(value, path)
        else:
            yield path, _kind(item.type), value, comments.get(item.name, "")


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return "a number or a word"
    return getattr(annotation, "__name__", str(annotation))


def _register_types(config_type: type) -> None:
    """Tells the flags how to read the annotated types of a config and of those inside it."""
    from absl import flags
    from ml_collections import config_flags

    class NumberOrWord(flags.ArgumentParser):
        """Reads fields of type Annotated[float | int | str, ...]: a number where it is one."""

        syntactic_help = "a number or a word"

        def parse(self, argument: Any) -> float | str:
            try:
                return float(argument)
            except ValueError:
                return argument

        def flag_type(self) -> str:
            return self.syntactic_help

    for item in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(item.type) and isinstance(item.type, type):
            _register_types(item.type)
        elif get_origin(item.type) is Annotated and str in get_args(get_args(item.type)[0]):
            config_flags.register_flag_parser_for_type(item.type, NumberOrWord())


def parse(argv: list[str], config_type: type) -> tuple[Any, str, bool]:
    """The config, the output folder, and whether only the config is to be printed; ~ is the home folder.

    Raises:
        UsageError: an unknown flag, a value of another kind, no config file, or no output folder.
    """
    # Not above: a program that is interrupted while it is imported ends quietly only once this module is.
    from absl import flags
    from ml_collections import config_flags

    file, rest = _take_config_file(argv)
    config = _load(file, config_type)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "output folder", flag_values=values)
    flags.DEFINE_bool("print_config", False, "print and stop", flag_values=values)
    _register_types(config_type)
    try:
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=rest)
        extra = values(rest)[1:]
    except (flags.Error, LookupError, AttributeError, ValueError, TypeError, SyntaxError, ArithmeticError,
            MemoryError, RecursionError) as error:  # fmt: skip
        raise UsageError(_explain(error, config_type)) from None
    if extra:
        raise UsageError(f"unknown argument {extra[0]!r}; options look like --name=value (see --help)")
    if not values["workdir"].value and not values["print_config"].value:
        raise UsageError("say where results go: --workdir DIR")
    config, workdir = values["config"].value, values["workdir"].value or ""
    expand_paths(config)
    return config, _expanded("--workdir", workdir), bool(values["print_config"].value)


def expand_paths(config: Any, prefix: str = "--config") -> None:
    """Puts the home folder for ~ in every text of a config: nothing that begins so is anything but a path.

    Raises:
        UsageError: that folder is not known.
    """
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), f"{prefix}.{item.name}"
        if dataclasses.is_dataclass(value):
            expand_paths(value, name)
        elif isinstance(value, str) and value.startswith("~"):
            setattr(config, item.name, _expanded(name, value))


def _expanded(name: str, path: str) -> str:
    try:
        return expanded(path)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _take_config_file(argv: list[str]) -> tuple[str, list[str]]:
    """Splits `--config FILE` (or `--config=FILE`) from the other arguments; the last one counts."""
    file, rest, i = "", [], 0
    while i < len(argv):
        name, _, value = argv[i].partition("=")
        if name not in {"--config", "-config"}:
            rest.append(argv[i])
        elif value:
            file = value
        else:
            i += 1
            file = argv[i] if i < len(argv) else ""
        i += 1
    if not file:
        raise UsageError("give a config file: --config configs/NAME.py (see --help)")
    return file, rest


def _load(file: str, config_type: type) -> Any:
    """Runs `get_config(arg)` of a config file: `FILE` or `NAME` of a built-in one, either with `:arg`."""
    file = _expanded("--config", file)
    path, _, arg = (file, "", "") if pathlib.Path(file).is_file() else file.rpartition(":")
    path, arg = (path, arg) if path else (arg, "")
    if not pathlib.Path(path).is_file():
        path = _builtin(path)
    try:
        config = runpy.run_path(path)["get_config"](arg)
    except Exception as error:  # noqa: BLE001  (a config file is the user's code: anything can happen in it)
        raise UsageError(f"--config {file}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    if not isinstance(config, config_type):
        raise UsageError(f"--config {file}: get_config() must return {config_type.__name__}")
    return config


def _builtin(name: str) -> str:
    """The file of a built-in config, which may import what others of them share."""
    if file := builtin.config_file(name):
        if str(builtin.folder()) not in sys.path:
            sys.path.insert(0, str(builtin.folder()))
        return str(file)
    near = builtin.nearest_configs(pathlib.Path(name).stem)
    hint = f"; the nearest built-in configs: {', '.join(near)}" if near else ""
    raise UsageError(f"--config: there is no file {name!r} and no built-in config of that name{hint}")


def _explain(error: Exception, config_type: type) -> str:
    text = " ".join(str(error).split()).strip('"')
    unknown = re.search(r"Field (\w+) not found", text)
    if unknown:
        known = [path for path, *_ in fields(config_type())]
        leaf = {path.rsplit(".", 1)[1]: path for path in known}
        near = difflib.get_close_matches(unknown[1], leaf, n=1, cutoff=0.5)
        hint = f"; did you mean --{leaf[near[0]]}?" if near else "; see --help"
        return f"config has no field {unknown[1]!r}{hint}"
    return text or type(error).__name__


def help_text(config_type: type, description: str) -> str:
    """What `--help` prints: every field with its default."""
    rows = list(fields(config_type()))
    left = [f"  --{path}={value if value != '' else chr(39) * 2}" for path, _, value, _ in rows]
    width = max(map(len, left)) + 2
    lines = [f"{shown:<{width}}{text} ({kind})" for shown, (_, kind, _, text) in zip(left, rows, strict=True)]
    head = [
        description.strip(),
        "",
        "  --config NAME[:arg]   the experiment: a built-in config, or a file (required)",
        "  --workdir DIR         where results go; made if it is not there (required)",
        "  --print_config        print every field with its value, and stop",
        "",
        "Every field of the config, with its default (a config file may choose another):",
    ]
    return "\n".join(head + lines)


def _comments(config_type: type) -> dict[str, str]:
    """Reads the comment behind each field in the source of its dataclass."""
    pattern = re.compile(r"^\s+(\w+):[^#]*#\s*(.*)$", re.MULTILINE)
    return dict(pattern.findall(inspect.getsource(config_type)))
