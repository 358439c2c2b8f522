"""Ids of a gallery's images, whole numbers or texts of any length, as arrays and back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

NUMBERS, ENDS, TEXT = "ids", "id_ends", "id_text"  # names of the arrays

Rows = slice | np.ndarray


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


def pack(ids: Sequence[Any] | np.ndarray | None, count: int) -> PackedIds:
    """Checks the ids of `count` images and packs them.

    Raises:
        ValueError: another number of ids than images, a number beyond 64 bits, or ids that are neither all
            texts nor all whole numbers.
    """
    blank = np.zeros(0, np.int64)
    if ids is None:
        return PackedIds("none", blank, blank, blank.astype(np.uint8))
    if isinstance(ids, str):
        raise ValueError(f"Gallery.add: ids is one text, {ids!r}; give a list with a text for each image")
    plain: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if len(plain) != count:
        raise ValueError(f"Gallery.add: {len(plain)} ids for {count} images; give one each")
    if plain and all(isinstance(x, str) for x in plain):
        # Names of files may hold bytes that are no text; Python keeps them as lone surrogates.
        coded = [x.encode(errors="surrogatepass") for x in plain]
        ends = np.cumsum([len(x) for x in coded], dtype=np.int64)
        return PackedIds("str", blank, ends, np.frombuffer(b"".join(coded), np.uint8))
    odd = [x for x in plain if not isinstance(x, int | np.integer) or isinstance(x, bool)]
    if odd:
        raise ValueError(
            f"Gallery.add: an id is {odd[0]!r}, a {type(odd[0]).__name__}; give texts only, or integers only"
        )
    try:
        numbers = np.array(plain, np.int64)
    except OverflowError:
        raise ValueError("Gallery.add: an id does not fit into 64 bits; give it as a text") from None
    return PackedIds("int", numbers, blank, blank.astype(np.uint8))


def unpack(kind: str, read: Callable[[str, Rows], np.ndarray], rows: Rows) -> list[Any]:
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
