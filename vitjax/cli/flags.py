"""What the programs share on the command line: flags, help, and how errors are printed.

The flags are the field's usual ones (`--config FILE[:arg] --config.a.b=value --workdir DIR`). Exit codes:
0 done, 1 an error of the user's or another process of the run that has died (one plain line, no traceback),
2 wrong flags, 130 stopped by the keyboard. A traceback means a bug.
"""

import os
import pathlib
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from vitjax import doctor
from vitjax.cli import builtin
from vitjax.cli.command_line import Arguments, parse, take_help
from vitjax.cli.help import fields
from vitjax.config.fields import walk
from vitjax.errors import EntryError, UsageError, UserError
from vitjax.system.files import expanded
from vitjax.system.terminal import clean, protect

__all__ = ["UserError", "begin", "fields", "open_workdir", "run", "run_benchmark", "use_large_pages"]

_READ: dict[type, Arguments] = {}  # by `begin`, for `run`: a config file runs once
_LARGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def begin(config_type: type | None = None, description: str | None = None) -> None:
    """What a program does before it imports anything that takes long.

    The keyboard ends it with exit code 130 and without a traceback while it imports, nothing it prints steers
    a terminal, and its memory comes in large pages (see `use_large_pages`). `--help`, `--print_config` and
    wrong flags are answered at once, and end it.

    Args:
        config_type: dataclass that the config file's `get_config` must return; None = the program has none.
        description: first lines of `--help`.
    """
    signal.signal(signal.SIGINT, _interrupted)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the process before this one
    protect()
    if config_type is None or take_help(sys.argv)[1] is None:
        use_large_pages()
    if config_type is not None:
        given = _read(config_type, description or "", sys.argv)
        if isinstance(given, int):
            sys.exit(given)
        _READ[config_type] = given


def _interrupted(*_: Any) -> None:
    os._exit(130)


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
        if signal.getsignal(signal.SIGINT) is _interrupted:  # until `begin` listens again
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run(main: Callable[[Any, str], None], config_type: type, description: str) -> None:
    """Parses the command line, calls `main(config, workdir)` and exits with its exit code.

    Args:
        main: the program; a `UserError` or `OSError` it raises is printed as one line.
        config_type: dataclass that the config file's `get_config` must return.
        description: first lines of `--help`.
    """
    protect()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _run(main, config_type, description, sys.argv)
        signal.signal(signal.SIGINT, _interrupted)  # what is left to do has nothing to say
    except KeyboardInterrupt:  # before main, or after it
        code = _say_interrupted(sys.argv[0])
    except Exception:  # noqa: BLE001  (a bug: other processes of the run would wait for this one to shut down)
        traceback.print_exc()
        code = 1
    if code == 1:  # threads of a library, of a save that failed for instance, would keep the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(main: Callable[[Any, str], None], config_type: type, description: str, argv: list[str]) -> int:
    given = _READ.pop(config_type, None) or _read(config_type, description, argv)
    if isinstance(given, int):
        return given
    return _guarded(lambda: main(given.config, given.workdir), argv[0], given.config)


def _read(config_type: type, description: str, argv: list[str]) -> Arguments | int:
    """What the command line says; an exit code where that ends the program."""
    try:
        given = parse(argv, config_type, description)
    except UsageError as error:
        _complain(argv[0], str(error))
        return 2
    if given.prints is None:
        return given
    try:
        print(given.prints, flush=True)
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_benchmark(main: Callable[[], None]) -> None:
    """Calls a benchmark's `main` and exits with its exit code; what the user can mend is one line."""
    protect()
    sys.exit(_guarded(main, sys.argv[0]))


def _guarded(main: Callable[[], None], name: str, config: Any = None) -> int:
    try:
        main()
    except KeyboardInterrupt:
        return _say_interrupted(name)
    except Exception as error:
        if _is_of_another_process(error):
            from vitjax.system import peers

            peers.leave()
        if not isinstance(error, UserError | OSError):
            raise
        _complain(name, f"{error}{_hint(error, config)}")
        return 1
    return 0


def _hint(error: Exception, config: Any) -> str:
    """The flags that decide what is wrong, or that say which of several sets of weights is meant."""
    if config is None:
        return ""
    if isinstance(error, EntryError):
        paths = [field.path for field in walk(config) if field.path.endswith(".entry")]
        flags = [f"--{path}=ENTRY" for path in [f"config.{x}" for x in error.fields] or paths]
        return f" Here: {' or '.join(flags)}" if flags else ""
    flags = [f"--config.{field}" for field in getattr(error, "fields", ())]
    return f" ({', '.join(flags)})" if flags else ""


def _say_interrupted(name: str) -> int:
    print(f"{name}: stopped by the keyboard", file=sys.stderr)
    return 130


def _complain(name: str, text: str) -> None:
    if builtin.folder() in pathlib.Path(name).parents and builtin.is_installed():
        name = pathlib.Path(name).name  # run as `vitjax eval`: where the wheel keeps it is of no interest
    print(f"{name}: {clean(' '.join(text.split()))}", file=sys.stderr)


def open_workdir(workdir: str, *, writes: bool = True) -> pathlib.Path:
    """Makes the output folder and proves that it can be written to, before any work is done.

    Args:
        workdir: the folder.
        writes: whether this process is the one that writes.

    Raises:
        UserError: it cannot be.
    """
    try:
        out = pathlib.Path(expanded(workdir))
    except ValueError as error:
        raise UserError(f"--workdir: {error}") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        if writes:
            with tempfile.TemporaryFile(dir=out) as file:
                file.write(b"x")
    except OSError as error:
        raise UserError(
            f"--workdir {workdir}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    if (out / "results.json").is_dir():
        raise UserError(f"--workdir {workdir}: results.json is a folder there; choose another folder")
    return out


def _is_of_another_process(error: Exception) -> bool:
    """Tells an exchange that failed because another process of the run is gone."""
    if "vitjax.sharding" not in sys.modules:
        return False
    from vitjax.system import peers

    return peers.lost(error)
