"""The command line of the programs: `--config NAME[:arg] --config.a.b=value --workdir DIR`."""

import dataclasses
import difflib
import pathlib
import re
import runpy
import sys
import warnings
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from vitjax.cli import builtin
from vitjax.cli.help import help_text, printed
from vitjax.config.fields import walk
from vitjax.config.old_names import OldNameWarning, current_path
from vitjax.errors import UsageError
from vitjax.system.files import expanded
from vitjax.system.terminal import clean

_HELP = ("--help", "-h", "-help", "--helpfull")


class Arguments(NamedTuple):
    """What a command line says.

    Attributes:
        config: of the experiment, with the flags given.
        workdir: output folder; empty where nothing runs.
        prints: what is printed instead of a run, None for a run.
    """

    config: Any
    workdir: str
    prints: str | None = None


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

    class Numbers(flags.ArgumentParser):
        """Reads fields of type Annotated[int | tuple[int, ...], ...]: 5, or 5,11."""

        syntactic_help = "a number, or several"

        def parse(self, argument: Any) -> int | tuple[int, ...]:
            if isinstance(argument, str):
                numbers = tuple(int(part) for part in argument.strip("()[] ").rstrip(",").split(","))
                return numbers[0] if len(numbers) == 1 else numbers
            return argument

        def flag_type(self) -> str:
            return self.syntactic_help

    for item in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(item.type) and isinstance(item.type, type):
            _register_types(item.type)
        elif get_origin(item.type) is Annotated:
            union = get_args(item.type)[:1]
            words = any(str in get_args(each) for each in union)
            config_flags.register_flag_parser_for_type(item.type, NumberOrWord() if words else Numbers())


def parse(argv: list[str], config_type: type, description: str = "") -> Arguments:
    """Reads the command line; ~ is the home folder.

    Args:
        argv: the program's name and its arguments.
        config_type: dataclass that the config file must return.
        description: first lines of `--help`.

    Raises:
        UsageError: an unknown flag, a value of another kind, no config file, or no output folder.
    """
    argv, words = take_help(argv)
    file, rest = _take_config_file(argv)
    if not file and words is None:
        raise UsageError("give a config: --config NAME, or a file (see --help)")
    config = _load(file, config_type) if file else config_type()
    if words is not None:
        config = _with_flags(config, rest)[0] if rest[1:] else config
        return Arguments(config, "", help_text(config, description, words))
    config, values = _with_flags(config, rest)
    if values["print_config"].value:
        return Arguments(config, "", printed(config))
    if not values["workdir"].value:
        raise UsageError("say where results go: --workdir DIR")
    return Arguments(config, _expanded("--workdir", values["workdir"].value))


def take_help(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """Splits `--help WORD ...` from the other arguments; None = no help is asked for."""
    at = next((i for i, arg in enumerate(argv) if arg.partition("=")[0] in _HELP), None)
    if at is None:
        return argv, None
    end = next((i for i in range(at + 1, len(argv)) if argv[i].startswith("-")), len(argv))
    words = [word for word in (argv[at].partition("=")[2], *argv[at + 1 : end]) if word]
    return [*argv[:at], *argv[end:]], words


def _with_flags(config: Any, argv: list[str]) -> tuple[Any, Any]:
    """The config with what the flags say, and the other flags."""
    # Not above: a program that is interrupted while it is imported ends quietly only once this module is.
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "output folder", flag_values=values)
    flags.DEFINE_bool("print_config", False, "print and stop", flag_values=values)
    _register_types(type(config))
    argv = [_with_current_name(arg, config) for arg in argv]
    try:
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=argv)
        extra = values(argv)[1:]
    except (flags.Error, LookupError, AttributeError, ValueError, TypeError, SyntaxError, ArithmeticError,
            MemoryError, RecursionError) as error:  # fmt: skip
        raise UsageError(_explain(error, config)) from None
    if extra:
        raise UsageError(f"unknown argument {extra[0]!r}; options look like --name=value (see --help)")
    config = values["config"].value
    expand_paths(config)
    return config, values


def _with_current_name(arg: str, config: Any) -> str:
    """A flag whose field has got a better name, under that name."""
    name, equals, value = arg.partition("=")
    prefix, dot, path = name.partition(".")
    if prefix.strip("-") != "config" or not dot or (now := current_path(config, path)) == path:
        return arg
    note(f"{name} is now called {prefix}.{now}; the old name goes with the next version")
    return f"{prefix}.{now}{equals}{value}"


def note(text: str) -> None:
    """Prints a line to stderr, before there is a console."""
    print(clean(" ".join(text.split())), file=sys.stderr)


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
    return file, rest


def _load(file: str, config_type: type) -> Any:
    """Runs `get_config(arg)` of a config file: `FILE` or `NAME` of a built-in one, either with `:arg`."""
    file = _expanded("--config", file)
    path, _, arg = (file, "", "") if pathlib.Path(file).is_file() else file.rpartition(":")
    path, arg = (path, arg) if path else (arg, "")
    if not pathlib.Path(path).is_file():
        path = _builtin(path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", OldNameWarning)
            config = runpy.run_path(path)["get_config"](arg)
    except Exception as error:  # noqa: BLE001  (a config file is the user's code: anything can happen in it)
        raise UsageError(f"--config {file}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    for each in caught:
        if issubclass(each.category, OldNameWarning):
            note(f"--config {file}: {each.message}")
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
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


def _explain(error: Exception, config: Any) -> str:
    text = " ".join(str(error).split()).strip('"')
    unknown = re.search(r"Field (\w+) not found", text)
    if unknown:
        leaf = {field.path.rsplit(".", 1)[1]: field.path for field in walk(config)}
        near = difflib.get_close_matches(unknown[1], leaf, n=1, cutoff=0.5)
        hint = f"; did you mean --{leaf[near[0]]}?" if near else "; see --help"
        return f"config has no field {unknown[1]!r}{hint}"
    return text or type(error).__name__
