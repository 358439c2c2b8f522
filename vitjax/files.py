"""Files written whole or not at all, and text that other programs may have written."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the place of `path` once it is whole.

    A reader never sees half of it; a failure, a full disk for instance, leaves the older file as it was.

    Args:
        path: the file; its folder must exist.
        mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
        OSError: the folder cannot be written to.
    """
    target = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def read_text(path: str | os.PathLike[str]) -> str:
    """Text of a file that any program may have written: UTF-8, with a byte order mark or without.

    Raises:
        ValueError: it cannot be opened, or holds other bytes; one line names the file and says why.
    """
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{os.fspath(path)}: {error.strerror or error}") from None
    except ValueError as error:
        reason = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ValueError(f"{os.fspath(path)} is not UTF-8 text ({reason}); save it as UTF-8") from None


def parse_json(text: str | bytes) -> Any:
    """JSON in which no object has a name twice: of two values `json.loads` would keep the last.

    Raises:
        ValueError: not JSON, nested too deep, or a name that comes twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RepeatedName(f"the name {name!r} comes twice in one object; keep one of them")
        found[name] = value
    return found


class RepeatedName(ValueError):
    """A name that an object of a JSON file has twice."""
