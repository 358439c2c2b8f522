"""A folder on a disk or in an object store as a key-value store, with errors as one line each."""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorstore as ts

from vitjax.errors import GalleryError
from vitjax.system.files import expanded

CACHE_BYTES = 2**26  # of chunks read from any gallery, kept for the next read
RETRIES: dict[str, int | str] = {
    "max_retries": 6,
    "initial_delay": "500ms",
    "max_delay": "16s",
}  # half a minute together
REMEDY = "put that file back from a copy of the same commit, or delete the gallery and build it again"
_STORES = {"gs": "gcs", "s3": "s3"}
_BROKEN = {"DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "OUT_OF_RANGE"}


@dataclass(frozen=True)
class Location:
    """Where a gallery lies.

    Attributes:
        name: as the user gave it, for messages.
        kvstore: what TensorStore opens.
        folder: on the local disk; None in an object store.
    """

    name: str
    kvstore: dict[str, Any]
    folder: pathlib.Path | None

    def keys(self) -> ts.KvStore:
        """The files of the location by name."""
        return ts.KvStore.open(self.kvstore, context=context()).result()

    def listing(self) -> list[str]:
        """Names of what lies there; below the first level only in an object store."""
        if self.folder is None:
            with plain_errors(self, "listing"):
                return [key.decode(errors="replace") for key in self.keys().list().result()]
        if self.folder.is_dir():
            return os.listdir(self.folder)
        return [self.folder.name] if self.folder.exists() else []

    def below(self, name: str) -> dict[str, Any]:
        """What TensorStore opens for a sub-folder."""
        return self.kvstore | {"path": f"{self.kvstore['path']}{name}/"}


def write_whole(place: Location, name: str, data: bytes) -> str:
    """Writes a file that never changes into a gallery, and returns its SHA-256."""
    with plain_errors(place, name):
        place.keys().write(name, data).result()
    return hashlib.sha256(data).hexdigest()


def read_whole(place: Location, name: str, digest: str) -> bytes:
    """Reads such a file; raises GalleryError where it is not the one that was written."""
    with plain_errors(place, name):
        found = place.keys().read(name).result()
    if found.state != "value" or hashlib.sha256(found.value).hexdigest() != digest:
        raise GalleryError(f"gallery {place.name}: {name} is damaged or missing; {REMEDY}")
    return found.value


def locate(path: str | os.PathLike[str]) -> Location:
    """Reads a local path, or gs://bucket/folder, s3://bucket/folder, memory://name (of this process).

    Nothing is opened. Credentials of an object store come from its usual environment variables and files. A
    store that is like S3 but not Amazon's is named by AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and its region
    by AWS_REGION or AWS_DEFAULT_REGION.

    Raises:
        GalleryError: another scheme, no bucket, or a path that no file can have.
    """
    name = os.fspath(path)
    scheme, colon, rest = name.partition("://")
    if not name or "\0" in name or _not_utf8(name):
        raise GalleryError(f"gallery {name!r}: this is no path; give a folder, gs://... or s3://...")
    if not colon:
        try:
            folder = pathlib.Path(os.path.abspath(expanded(name)))
        except ValueError as error:
            raise GalleryError(f"gallery {error}") from None
        return Location(name, {"driver": "file", "path": f"{folder}/"}, folder)
    bucket, _, key = rest.partition("/")
    if scheme == "memory" and rest:
        return Location(name, {"driver": "memory", "path": rest.strip("/") + "/"}, None)
    if scheme not in _STORES or not bucket or not key.strip("/"):
        raise GalleryError(
            f"gallery {name!r}: expected a folder, gs://bucket/folder or s3://bucket/folder; "
            "a file system that is mounted is a folder"
        )
    found = {"driver": _STORES[scheme], "bucket": bucket, "path": key.strip("/") + "/"}
    return Location(name, found | (_s3_access() if scheme == "s3" else {}), None)


def _s3_access() -> dict[str, Any]:
    """What the usual variables of S3's clients say and TensorStore does not read by itself."""
    set_ = {name: value for name, value in os.environ.items() if value}
    found: dict[str, Any] = {"use_conditional_write": True}  # of two writers one is told
    endpoint = set_.get("AWS_ENDPOINT_URL_S3") or set_.get("AWS_ENDPOINT_URL")
    region = set_.get("AWS_REGION") or set_.get("AWS_DEFAULT_REGION")
    if endpoint:  # without one, TensorStore asks Amazon where the bucket is
        found |= {"endpoint": endpoint.rstrip("/"), "aws_region": region or "us-east-1"}
    if "AWS_ACCESS_KEY_ID" in set_:
        found["aws_credentials"] = {"type": "environment"}
    return found


def _not_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


@functools.cache
def context() -> ts.Context:
    """What all galleries of this process share: the cache, and the threads that read."""
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES},
            "s3_request_retries": RETRIES,
            "gcs_request_retries": RETRIES,
        }
    )


@contextlib.contextmanager
def plain_errors(location: Location, what: str) -> Iterator[None]:
    """Turns TensorStore's errors into a GalleryError.

    Args:
        location: named in the message.
        what: the part that is being read or written, for instance "tokens".
    """
    try:
        yield
    except GalleryError:
        raise
    except ValueError as error:
        code, text = _taken_apart(str(error))
        where = f"gallery {location.name}: {what}"
        if code in _BROKEN:
            raise GalleryError(f"{where} is damaged; {REMEDY} ({text})") from error
        if "NoSuchBucket" in text or "bucket does not exist" in text:
            raise GalleryError(
                f"gallery {location.name}: there is no such bucket; make it, or check its name"
            ) from error
        if location.folder is None and (code == "PERMISSION_DENIED" or "credentials" in text):
            raise GalleryError(f"{where}: no permission; check the store's credentials ({text})") from error
        if code == "ABORTED" and "retry" in text:
            raise GalleryError(
                f"{where}: the store does not answer; check the endpoint and the network ({text})"
            ) from error
        if code == "NOT_FOUND":
            raise GalleryError(f"{where} has a file missing; {REMEDY} ({text})") from error
        if code == "RESOURCE_EXHAUSTED":
            raise GalleryError(
                f"{where} could not be written: no space left; free some and add again, "
                f"the rows added before are whole ({text})"
            ) from error
        if code == "PERMISSION_DENIED":
            raise GalleryError(f"{where}: permission denied; check who owns it ({text})") from error
        if code:
            raise GalleryError(f"{where}: {code} ({text})") from error
        raise


def write_if(keys: ts.KvStore, name: str, value: bytes, replaces: bytes) -> bytes | None:
    """Writes an object whose version is still the given one; returns the new version, None if it is not.

    A store whose answer is lost is asked again, and then finds that the version has changed: by us. So the
    object itself decides. No two writers may write the same bytes.
    """
    try:
        written = keys.write(name, value, if_equal=replaces).result().generation
    except ValueError:
        found = keys.read(name).result()
        if not _holds(found, value):
            raise
        return found.stamp.generation
    if written:
        return written
    found = keys.read(name).result()
    return found.stamp.generation if _holds(found, value) else None


def _holds(found: Any, value: bytes) -> bool:
    return found.state == "value" and found.value == value


def _taken_apart(text: str) -> tuple[str, str]:
    """Status code and message of an error of TensorStore; no code for any other error."""
    found = re.match(r"([A-Z_]{5,}): (.*?)(?: \[\w+='.*)?$", text, re.DOTALL)
    return (found[1], found[2]) if found else ("", text)


class Pending:
    """Arrays that are being opened, read or written.

    Args:
        location: for messages.
        futures: of TensorStore, by the name of the array.
        check: raises GalleryError where what was read is not what was committed.
    """

    def __init__(
        self,
        location: Location,
        futures: Mapping[str, Any],
        check: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._location, self._futures, self._check = location, futures, check

    def result(self) -> dict[str, Any]:
        """Waits for all; then raises GalleryError where one is damaged or cannot be written."""
        self.wait()
        found = {}
        for name, future in self._futures.items():
            with plain_errors(self._location, name):
                found[name] = future.result()
        if self._check is not None:
            self._check(found)
        return found

    def wait(self) -> None:
        """Waits until all have ended, whether or not they failed."""
        for future in self._futures.values():
            future.exception()
