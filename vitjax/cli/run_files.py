"""Output files of a run: results.json, results.csv, and their provenance."""

import contextlib
import csv
import errno
import io
import json
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vitjax.errors import UserError
from vitjax.system.files import read_text, replacing

# What eval.py leaves, apart from results.json and results.csv; not every run writes all of it.
OUTPUTS = ("report.html", "predictions.csv", "run.trec", "run_pooled.trec", "qrels.trec")
FIGURES = re.compile(r"\d{4,}_(ranking|matches|tokens)\.png")
BESIDE = 9  # files results.csv, results-2.csv, ... at most


def device() -> dict[str, Any]:
    """Returns what the run computes on."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def git_commit() -> str | None:
    """Returns the commit of the checkout this package runs from, None outside of one."""
    folder = pathlib.Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_json(path: pathlib.Path, data: Any) -> None:
    """Writes strict JSON; a figure that is not finite becomes null."""
    text = json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as file:
        file.write(text + "\n")


def remove_outputs(out: pathlib.Path) -> None:
    """Removes what an earlier run of eval.py left in its folder and this one may not write anew.

    Nothing else is touched: results.json is replaced before, results.csv is added to.
    """
    for name in OUTPUTS:
        (out / name).unlink(missing_ok=True)
    figures = out / "figures"
    for path in figures.iterdir() if figures.is_dir() else ():
        if FIGURES.fullmatch(path.name):
            path.unlink()


def append_row(path: pathlib.Path, row: dict[str, Any]) -> list[str]:
    """Appends one row to a CSV file; columns new to it are added to the older rows as empty cells.

    A file that another program left in another form, or that may not be written, stays as it is: the row goes
    to a file beside it, results-2.csv for instance.

    Returns:
        Nothing, or the line that says so.

    Raises:
        OSError: no file can be written there.
    """
    said: list[str] = []
    for i in range(1, BESIDE + 1):
        target = path if i == 1 else path.with_stem(f"{path.stem}-{i}")
        try:
            _append(target, row)
        except (OSError, ValueError, csv.Error) as error:
            if i == BESIDE:
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{target} ")
            said = said or [f"{path} is left as it is: {reason}"]
        else:
            return [f"{line}; the row of this run is in {target.name}" for line in said]
    raise AssertionError("the last file is written or raises")


def _append(path: pathlib.Path, row: dict[str, Any]) -> None:
    rows = []
    if path.exists() and (text := read_text(path)).strip():
        if not path.stat().st_mode & 0o222:
            raise PermissionError(errno.EACCES, "it may only be read")
        header, *lines = filter(None, csv.reader(io.StringIO(text, newline=""), strict=True))
        if not set(header) & set(row):
            raise UserError("its columns are others, or are not separated by commas")
        if len(set(header)) < len(header) or max(map(len, lines), default=0) > len(header):
            raise UserError("its rows do not fit its header")
        rows = [dict(zip(header, line, strict=False)) for line in lines]
    rows.append(row)
    columns = list(dict.fromkeys(name for each in rows for name in each))
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def plain(data: Any) -> Any:
    """Turns NumPy scalars and arrays, paths and tuples into what JSON and UTF-8 know."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(data).tolist())
    if isinstance(data, float):
        return data if np.isfinite(data) else None
    if isinstance(data, str | pathlib.Path):  # a path may hold bytes that are no text
        return str(data).encode(errors="backslashreplace").decode()
    return data


class Stopwatch:
    """Wall time of a run's stages, with what JAX spent compiling in each kept apart.

    Attributes:
        seconds: stage -> wall seconds without compilation.
        compile_seconds: stage -> seconds spent compiling, or fetching a compiled program from the cache.
        compiled: programs compiled, cached ones included.
        cached: of these, how many came from the persistent cache.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.compile_seconds: dict[str, float] = {}
        self.compiled: int = 0
        self.cached: int = 0
        self._compiling: list[tuple[float, float]] = []  # (start, seconds), none inside another
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside the `with` block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            wall = time.perf_counter() - started
            spent = sum(seconds for start, seconds in self._compiling if start >= started)
            self.seconds[name] = self.seconds.get(name, 0.0) + max(wall - spent, 0.0)
            self.compile_seconds[name] = self.compile_seconds.get(name, 0.0) + spent

    def close(self) -> None:
        """Stops listening to JAX."""
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if not event.startswith("/jax/core/compile/"):  # tracing, lowering, and the backend's compilation
            return
        start = time.perf_counter() - duration_secs
        # A function traced inside another reports first: the outer one's time holds it already.
        self._compiling = [item for item in self._compiling if item[0] < start] + [(start, duration_secs)]
        self.compiled += event.endswith("backend_compile_duration")

    def _on_event(self, event: str, **_: Any) -> None:
        self.cached += event == "/jax/compilation_cache/cache_hits"
