"""Writing a file whole or not at all."""

import contextlib
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
