"""Start of a program: devices, the workdir and its lock, and the compilation cache."""

import contextlib
import os
import pathlib
import socket
import time
from collections.abc import Iterator

import jax

from vitjax import doctor, sharding
from vitjax.cli import flags, run_files
from vitjax.cli.console import say, warn
from vitjax.errors import UserError
from vitjax.system import disk_cache
from vitjax.system.files import expanded

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

LOCK = "run.lock"


def start(workdir: str) -> pathlib.Path:
    """Looks at the machine and opens the output folder, before any work is done."""
    sharding.initialize_distributed()
    out = flags.open_workdir(workdir, writes=sharding.is_main_process())
    if reason := doctor.idle_accelerator():
        raise UserError(reason)
    keep_compiled()
    device = run_files.device()
    say(f"computing on {device['count']} x {device['kind']}, {device['processes']} process(es)")
    return out


def keep_compiled() -> None:
    """Keeps compiled programs for later runs, in JAX_COMPILATION_CACHE_DIR or the cache folder, if any."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = disk_cache.writable_folder("compiled")
        if folder is None:
            warn("compiled programs are not kept: no cache folder can be written; set VITJAX_CACHE to one")
        jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def only_run(folder: pathlib.Path, *, holds: bool = True) -> Iterator[None]:
    """Holds the folder against other runs; the system lets go of it with the process, however that ends.

    Processes that this one starts do not inherit it. A file system without locks holds nothing.

    Args:
        folder: where the run writes.
        holds: whether this process is the one that does.

    Raises:
        UserError: another run is at work there.
    """
    if fcntl is None or not holds:
        yield
        return
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 1000).decode(errors="replace")
            raise UserError(
                f"--workdir {folder}: another run is at work there ({holder}); wait for it or choose "
                "another folder"
            ) from None
        except OSError as error:
            warn(f"--workdir {folder} cannot be held against other runs ({error.strerror})")
        os.truncate(handle, 0)
        os.write(handle, f"{socket.gethostname()}, process {os.getpid()}, since {time.ctime()}".encode())
        yield
    finally:
        os.close(handle)


def refuse_training_run(workdir: str) -> None:
    """Raises where train.py keeps a run: results of another kind would take the place of its own."""
    if (pathlib.Path(expanded(workdir)) / "run.json").is_file():
        raise UserError(
            f"--workdir {workdir} is a run of train.py, whose results.json would be lost; name another folder"
        )
