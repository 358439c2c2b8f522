"""What readers of weights raise on damaged files, turned into one line that names the file."""

import contextlib
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator

from vitjax.errors import UserError, WeightsError

# Of zipfile, pickletools, json, struct, protobuf and numpy; OSError stands for the disk and is told apart.
DAMAGE = (
    ValueError, TypeError, LookupError, EOFError, ArithmeticError, AssertionError, AttributeError,
    MemoryError, NotImplementedError, RuntimeError, SyntaxError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into one line that names it.

    Args:
        path: the file.
        kind: what it should be, for the message: "a whole ... of plain arrays".

    Raises:
        WeightsError: in place of everything in DAMAGE and of OSError.
    """
    source = f"weights file {os.fspath(path)!r}"
    try:
        yield
    except WeightsError as error:
        text = str(error)
        raise type(error)(text if text.startswith("weights ") else f"{source}: {text}") from error
    except OSError as error:
        raise WeightsError(f"{source} cannot be read: {error.strerror or error}.") from error
    except DAMAGE as error:
        text = " ".join(str(error)[:120].split())
        why = text if isinstance(error, UserError) else f"{type(error).__name__}: {text!r}"
        raise WeightsError(
            f"{source} is not a whole {kind} of plain arrays ({why}); fetch it again."
        ) from error
