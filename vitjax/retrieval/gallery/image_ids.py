"""Ids of a gallery's images, whole numbers or texts of any length, as arrays and back."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitjax.errors import UserError

NUMBERS, ENDS, TEXT = "ids", "id_ends", "id_text"  # names of the arrays

RowIndex = slice | np.ndarray


class PackedIds(NamedTuple):
    """Ids as arrays.

    Attributes:
        kind: "none" (the row numbers), "int" or "str".
        numbers: (n,) int64, of kind "int".
        ends: (n,) int64, where each text ends in `text`, of kind "str".
        text: all texts in UTF-8, one behind the other.
    """

    kind: str
    numbers: np.ndarray
    ends: np.ndarray
    text: np.ndarray


def plain(ids: Any, what: str) -> list[int | str]:
    """Ids as Python has them, whatever library they come from: a list, NumPy, pandas, JAX.

    Args:
        ids: texts, paths, which become texts, or whole numbers.
        what: for messages.

    Raises:
        ValueError: one text instead of several, or an id that is something else.
    """
    if isinstance(ids, str | bytes):
        raise UserError(f"{what}: ids is one text, {ids!r}; give a list with a text for each image")
    found: list[int | str] = []
    for x in ids.tolist() if hasattr(ids, "tolist") else ids:
        value = os.fspath(x) if isinstance(x, os.PathLike) else x
        value = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise UserError(
                f"{what}: an id is {value!r}, a {type(value).__name__}; give texts only, or integers only"
            )
        found.append(value)
    return found


def pack(ids: Sequence[Any] | np.ndarray | None, count: int) -> PackedIds:
    """Checks the ids of `count` images and packs them.

    Raises:
        ValueError: another number of ids than images, a number beyond 64 bits, or ids that are neither all
            texts nor all whole numbers.
    """
    blank = np.zeros(0, np.int64)
    if ids is None:
        return PackedIds("none", blank, blank, blank.astype(np.uint8))
    found = plain(ids, "Gallery.add")
    if len(found) != count:
        raise UserError(f"Gallery.add: {len(found)} ids for {count} images; give one each")
    texts = [x for x in found if isinstance(x, str)]
    if texts and len(texts) == count:
        # Names of files may hold bytes that are no text; Python keeps them as lone surrogates.
        coded = [x.encode(errors="surrogatepass") for x in texts]
        ends = np.cumsum([len(x) for x in coded], dtype=np.int64)
        return PackedIds("str", blank, ends, np.frombuffer(b"".join(coded), np.uint8))
    if texts:
        raise UserError(f"Gallery.add: an id is {texts[0]!r}, a str; give texts only, or integers only")
    try:
        numbers = np.array(found, np.int64)
    except OverflowError:
        raise UserError("Gallery.add: an id does not fit into 64 bits; give it as a text") from None
    return PackedIds("int", numbers, blank, blank.astype(np.uint8))


def unpack(kind: str, read: Callable[[str, RowIndex], np.ndarray], rows: RowIndex) -> list[Any]:
    """Ids of some rows.

    Args:
        kind: of the gallery.
        read: array name, rows -> the rows.
        rows: a slice with a start and a stop, or row numbers that exist.
    """
    index = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    if kind == "int":
        return read(NUMBERS, rows).tolist()
    if kind != "str" or not len(index):
        return index.tolist()
    ends = read(ENDS, rows)
    starts = np.where(index > 0, read(ENDS, np.maximum(index - 1, 0)), 0)
    if (starts == ends).all():  # of nothing but empty texts nothing is stored
        return [""] * len(index)
    if isinstance(rows, slice):  # texts of rows that follow each other do so as well
        text = read(TEXT, slice(int(starts[0]), int(ends[-1])))
    else:
        spans = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        text = read(TEXT, np.concatenate(spans))
    coded, stops = text.tobytes(), np.cumsum(ends - starts)
    return [
        coded[stop - length : stop].decode(errors="surrogatepass")
        for stop, length in zip(stops, ends - starts, strict=True)
    ]
