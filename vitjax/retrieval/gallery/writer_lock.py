"""One writer at a time: a file lock that ends with its process, or in an object store a file that is there.

A lock of the operating system cannot outlive the process that holds it, so after a kill the next writer
needs nothing. Object stores have none: there the file is created only if it does not exist, and after a
kill it has to be deleted by hand; the error says which.
"""

import contextlib
import functools
import os
import pathlib
import socket
import time
import uuid
from collections.abc import Callable

import tensorstore as ts

from vitjax.retrieval.gallery.storage import GalleryError, Location, plain_errors, write_if

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

FILE = "writer.lock"


def acquire(location: Location) -> Callable[[], None]:
    """Makes this process the writer of a place; returns what gives the lock back.

    Raises:
        GalleryError: another writer is at work; the text says which.
    """
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    me = f"{socket.gethostname()}, process {os.getpid()}, since {since}"
    if location.folder is not None and fcntl is not None:
        return _lock_file(location, location.folder / FILE, me)
    mine = f"{me}, {uuid.uuid4().hex}".encode()  # no other lock has this text
    with plain_errors(location, FILE):
        keys = location.keys()
        found = keys.read(FILE).result()
        if found.state == "value":
            raise _taken(location, found.value)
        try:
            held = write_if(keys, FILE, mine, found.stamp.generation)
        except BaseException:
            _give_back(keys, mine)
            raise
        if held is None:
            raise _taken(location, keys.read(FILE).result().value)
    return functools.partial(_give_back, keys, mine)


def _give_back(keys: ts.KvStore, mine: bytes) -> None:
    """Deletes the lock if it is ours; a store that does not answer keeps it, and who comes next is told."""
    with contextlib.suppress(ValueError):
        found = keys.read(FILE).result()
        if found.state == "value" and found.value == mine:
            keys.write(FILE, None, if_equal=found.stamp.generation).result()


def _lock_file(location: Location, path: pathlib.Path, me: str) -> Callable[[], None]:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise GalleryError(
                f"gallery {location.name}: cannot write there ({error.strerror}); choose another folder"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # pyright: ignore[reportOptionalMemberAccess]
        except OSError:
            holder = os.read(handle, 1000)
            os.close(handle)
            raise _taken(location, holder) from None
        if _is_still(path, handle):
            break
        os.close(handle)  # the writer before removed the file as we opened it
    os.truncate(handle, 0)
    os.write(handle, me.encode())

    def release() -> None:
        if _is_still(path, handle):
            path.unlink()
        os.close(handle)

    return release


def _is_still(path: pathlib.Path, handle: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def _taken(location: Location, holder: bytes) -> GalleryError:
    who, remedy = holder.decode(errors="replace") or "another program", ""
    if location.folder is None or fcntl is None:
        remedy = f"; if that process is gone, delete {location.name.rstrip('/')}/{FILE}"
    return GalleryError(
        f"gallery {location.name}: it has a writer already: {who}; wait for it to finish{remedy}"
    )
