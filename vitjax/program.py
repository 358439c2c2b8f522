"""What the programs share on the command line: flags, help, and how errors reach a person.

The flags are the field's usual ones (`--config FILE[:arg] --config.a.b=value --workdir DIR`). Exit codes:
0 done, 1 an error of the user's (one plain line, no traceback), 2 wrong flags, 130 stopped by the keyboard.
A traceback means a bug.
"""

import dataclasses
import difflib
import inspect
import os
import pathlib
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin

from absl import flags
from ml_collections import config_flags

from vitjax import doctor

_LARGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


class UserError(Exception):
    """Something the user can mend; its text is the one line that is printed."""


def use_large_pages(switch: pathlib.Path = _LARGE_PAGES) -> None:
    """Starts this process anew, once, so that its memory comes in large pages.

    On a CPU, XLA asks the C library for its temporaries anew in every step, and the kernel zeroes them page
    by page: with pages of 2 MiB instead of 4 KiB a step takes a third less time. The C library reads the
    setting only when a process starts: call this before JAX is imported. Nothing happens where there is an
    accelerator, where the kernel gives large pages to all or to none who ask, or where GLIBC_TUNABLES is set,
    be it to nothing.

    Args:
        switch: the kernel's file that says who gets large pages.
    """
    asked = switch.is_file() and "[madvise]" in switch.read_text(encoding="ascii")
    if not asked or "GLIBC_TUNABLES" in os.environ:
        return
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu" or not doctor.present_accelerator():
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run(main: Callable[[Any, str], None], config_type: type, description: str) -> None:
    """Parses the command line, calls `main(config, workdir)` and exits with the right code.

    Args:
        main: the program; a `UserError`, `ValueError` or `OSError` it raises is printed as one line.
        config_type: dataclass that the config file's `get_config` must return.
        description: first lines of `--help`.
    """
    code = _run(main, config_type, description, sys.argv)
    if code == 1:  # threads of a library, of a save that failed for instance, would keep the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(main: Callable[[Any, str], None], config_type: type, description: str, argv: list[str]) -> int:
    if any(arg in {"--help", "-h", "-help", "--helpfull"} for arg in argv[1:]):
        print(_help(config_type, description))
        return 0
    try:
        config, workdir, only_print = _parse(argv, config_type)
    except UserError as error:
        print(f"{argv[0]}: {error}", file=sys.stderr)
        return 2
    if only_print:
        print(
            "\n".join(f"{path} = {value!r}  # {kind}; {text}" for path, kind, value, text in fields(config))
        )
        return 0
    return _guarded(lambda: main(config, workdir), argv[0])


def run_benchmark(main: Callable[[], None]) -> None:
    """Calls a benchmark's `main` and exits with the right code; what the user can mend is one line."""
    sys.exit(_guarded(main, sys.argv[0]))


def _guarded(main: Callable[[], None], name: str) -> int:
    try:
        main()
    except KeyboardInterrupt:
        print(f"{name}: stopped by the keyboard", file=sys.stderr)
        return 130
    except (UserError, ValueError, OSError) as error:
        if not _is_for_the_user(error):
            raise
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def open_workdir(workdir: str, *, writes: bool = True) -> pathlib.Path:
    """Makes the output folder and proves that it can be written to, before any work is done.

    Args:
        workdir: the folder.
        writes: whether this process is the one that writes.

    Raises:
        UserError: it cannot be.
    """
    out = pathlib.Path(workdir)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if writes:
            with tempfile.TemporaryFile(dir=out) as file:
                file.write(b"x")
    except OSError as error:
        raise UserError(
            f"--workdir {workdir}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    return out


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


class _NumberOrWord(flags.ArgumentParser):
    """Reads fields of type Annotated[float | int | str, ...]: a number where it is one."""

    syntactic_help = "a number or a word"

    def parse(self, argument: Any) -> float | str:
        try:
            return float(argument)
        except ValueError:
            return argument

    def flag_type(self) -> str:
        return self.syntactic_help


def _register_types(config_type: type) -> None:
    """Tells the flags how to read the annotated types of a config and of those inside it."""
    for item in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(item.type) and isinstance(item.type, type):
            _register_types(item.type)
        elif get_origin(item.type) is Annotated and str in get_args(get_args(item.type)[0]):
            config_flags.register_flag_parser_for_type(item.type, _NumberOrWord())


def _parse(argv: list[str], config_type: type) -> tuple[Any, str, bool]:
    file, rest = _take_config_file(argv)
    config = _load(file, config_type)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "output folder", flag_values=values)
    flags.DEFINE_bool("print_config", False, "print and stop", flag_values=values)
    _register_types(config_type)
    try:
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=rest)
        extra = values(rest)[1:]
    except (flags.Error, KeyError, AttributeError, ValueError, TypeError) as error:
        raise UserError(_explain(error, config_type)) from None
    if extra:
        raise UserError(f"unknown argument {extra[0]!r}; options look like --name=value (see --help)")
    if not values["workdir"].value and not values["print_config"].value:
        raise UserError("say where results go: --workdir DIR")
    return values["config"].value, values["workdir"].value or "", bool(values["print_config"].value)


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
        raise UserError("give a config file: --config configs/NAME.py (see --help)")
    return file, rest


def _load(file: str, config_type: type) -> Any:
    """Runs `get_config(arg)` of a config file named `FILE` or `FILE:arg`."""
    path, _, arg = (file, "", "") if pathlib.Path(file).is_file() else file.rpartition(":")
    path, arg = (path, arg) if path else (arg, "")
    if not pathlib.Path(path).is_file():
        raise UserError(f"--config: there is no file {path!r}")
    try:
        config = runpy.run_path(path)["get_config"](arg)
    except Exception as error:  # noqa: BLE001  (a config file is the user's code: anything can happen in it)
        raise UserError(f"--config {file}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    if not isinstance(config, config_type):
        raise UserError(f"--config {file}: get_config() must return {config_type.__name__}")
    return config


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


def _help(config_type: type, description: str) -> str:
    rows = list(fields(config_type()))
    left = [f"  --{path}={value if value != '' else chr(39) * 2}" for path, _, value, _ in rows]
    width = max(map(len, left)) + 2
    lines = [f"{shown:<{width}}{text} ({kind})" for shown, (_, kind, _, text) in zip(left, rows, strict=True)]
    head = [
        description.strip(),
        "",
        "  --config FILE[:arg]   the experiment: a file under configs/ (required)",
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


def _is_for_the_user(error: Exception) -> bool:
    """Tells an error this package raised on purpose from one that escaped from a library's depths."""
    if isinstance(error, UserError | OSError):
        return True
    last = inspect.getinnerframes(error.__traceback__)[-1] if error.__traceback__ else None
    return last is not None and str(last.frame.f_globals.get("__name__", "")).split(".")[0] in {
        "vitjax",
        "benchmarks",
        "__main__",
    }
