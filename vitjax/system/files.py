"""Files written whole or not at all, and text that other programs may have written."""

import codecs
import contextlib
import json
import os
import pathlib
import tempfile
import unicodedata
from collections.abc import Iterator
from typing import IO, Any

from vitjax.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the place of `path` once it is whole.

    A reader never sees half of it; a failure, a full disk for instance, leaves the older file as it was. Both
    the file and its name are on the disk when this ends, so a power cut leaves one of the two, whole.

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
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync_folder(target.parent)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expanded(path: str | os.PathLike[str]) -> str:
    """A path whose ~ is a home folder, as a shell reads it; every other path or address as it is.

    Shells leave the ~ of `--workdir=~/x` alone. A file whose own name begins with ~ is itself.

    Raises:
        ValueError: the home folder is not known.
    """
    name = os.fspath(path)
    full = os.path.expanduser(name)
    if not full.startswith("~") or (name[1:2] not in ("", "/") and os.path.lexists(name)):
        return full
    raise UserError(
        f"{name!r} begins with a home folder that is not known (is HOME set?); give the full path, or "
        f"{'./' + name!r} for a name that begins with ~"
    )


def read_text(path: str | os.PathLike[str]) -> str:
    """Text of a file that any program may have written: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        ValueError: it cannot be opened, or holds other bytes; one line names the file and says why.
    """
    name = expanded(path)
    try:
        data = pathlib.Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{name!r} is no path ({error})") from None
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        at = text.find("\0")  # of UTF-16 without its mark, or of no text at all
    except UnicodeDecodeError as error:
        text, at = "", error.start
    if at >= 0:
        raise UserError(f"{name} is not UTF-8 text (byte {at}); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str | bytes) -> Any:
    """JSON as its standard has it; `json.loads`, which is called here only, takes NaN and names that repeat.

    Raises:
        UserError: not JSON, nested too deep, NaN or an infinity, or a name that comes twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise UserError("it is nested too deep") from None
    except UserError:
        raise
    except ValueError as error:  # of the decoding of bytes as well
        raise UserError(f"it is not JSON ({error})") from None


def parse_collection(text: str, what: str, expected: str) -> dict[str, Any] | list[Any]:
    """A JSON object or list.

    Args:
        text: JSON.
        what: it is of, which begins the line of an error.
        expected: what such a file says, for a text that is no JSON, or another kind of it.

    Raises:
        UserError: a name comes twice, or what `expected` is for.
    """
    try:
        data = parse_json(text)
    except RepeatedName as error:
        raise UserError(f"{what}: {error}") from None
    except ValueError:
        data = None
    if not isinstance(data, dict | list):
        raise UserError(f"{what}: expected {expected}")
    return data


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file says, see `parse_json`.

    Raises:
        UserError: it cannot be opened or is not JSON; one line names the file and says why.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except UserError as error:
        raise type(error)(f"{expanded(path)}: {error}") from None


def read_number(path: str | os.PathLike[str], name: str) -> int | float:
    """A number of a file that holds a JSON object; 0 where none can be read, or one that is not finite."""
    try:
        value = read_json(path)[name]
    except (ValueError, LookupError, TypeError):
        return 0
    return value if isinstance(value, int | float) and abs(value) < 2**53 else 0


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RepeatedName(f"the name {name!r} comes twice in one object; keep one of them")
        found[name] = value
    return found


def _refuse_constant(name: str) -> None:
    raise UserError(f"{name} is no number of JSON; give a finite one, or null")


class RepeatedName(UserError):
    """A name that an object of a JSON file has twice."""


def canonical(name: str) -> str:
    """The Unicode form NFC, in which names of files and classes are compared.

    macOS hands out file names decomposed (NFD), Linux as they were written: "e" and an accent, or one letter.
    """
    return unicodedata.normalize("NFC", name)
