"""Zip archives, which PyTorch checkpoints and .npz files are; judged before anything is unpacked."""

import os
import struct
import zipfile
from typing import Any

from vitjax.errors import WeightsError

_MAX_DIRECTORY = 64 * 2**20  # bytes; enough for half a million members


def open_archive(file: Any) -> zipfile.ZipFile:
    """Archive of an open file.

    Raises:
        WeightsError: a list of members beyond reason, or a name in it twice.
        BadZipFile: no archive.
    """
    size = _directory_bytes(file)
    if size > _MAX_DIRECTORY:
        raise WeightsError(f"its list of members has {size} bytes; refused.")
    archive = zipfile.ZipFile(file)
    if len(set(archive.namelist())) < len(archive.namelist()):
        raise WeightsError("it holds a name twice; refused.")
    return archive


def _directory_bytes(file: Any) -> int:
    """Claimed size of the list of members, which zipfile reads at once; 0 where there is none."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - 22 - 65_535 - 20)
    file.seek(tail_at)
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        return 0
    (claimed,) = struct.unpack_from("<L", tail, end + 12)
    if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":
        (at,) = struct.unpack_from("<Q", tail, end - 12)
        if at + 48 <= size:
            file.seek(at + 40)
            claimed = max(claimed % 0xFFFFFFFF, *struct.unpack("<Q", file.read(8)))
    return claimed
