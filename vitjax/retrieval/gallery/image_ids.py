"""Ids of a gallery's images, whole numbers or texts of any length, as arrays and back."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitjax.errors import UserError

NUMBERS, ENDS, TEXT = "ids", "id_ends", "id_text"  # names of the arrays

RowIndex = slice | np.ndarray


class PackedIds(NamedTuple):
    """Ids as arrays.

    Attributes:
        given: what is packed, as Python has it; empty of kind "none".
        kind: "none" (the row numbers), "int" or "str".
        numbers: (n,) int64, of kind "int".
        ends: (n,) int64, where each text ends in `text`, of kind "str".
        text: all texts in UTF-8, one behind the other.
    """

    given: list[int | str]
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
        ValueError: another number of ids than images, an id that comes twice, a number beyond 64 bits, or ids
            that are neither all texts nor all whole numbers.
    """
    blank = np.zeros(0, np.int64)
    if ids is None:
        return PackedIds([], "none", blank, blank, blank.astype(np.uint8))
    found = plain(ids, "Gallery.add")
    if len(found) != count:
        raise UserError(f"Gallery.add: {len(found)} ids for {count} images; give one each")
    if len(set(found)) < count:
        twice = [x for x, times in Counter(found).items() if times > 1]
        raise UserError(f"Gallery.add: {listed(twice)} given for several images; an id names one image")
    texts = [x for x in found if isinstance(x, str)]
    if texts and len(texts) == count:
        # Names of files may hold bytes that are no text; Python keeps them as lone surrogates.
        coded = [x.encode(errors="surrogatepass") for x in texts]
        ends = np.cumsum([len(x) for x in coded], dtype=np.int64)
        return PackedIds(found, "str", blank, ends, np.frombuffer(b"".join(coded), np.uint8))
    if texts:
        raise UserError(f"Gallery.add: an id is {texts[0]!r}, a str; give texts only, or integers only")
    try:
        numbers = np.array(found, np.int64)
    except OverflowError:
        raise UserError("Gallery.add: an id does not fit into 64 bits; give it as a text") from None
    return PackedIds(found, "int", numbers, blank, blank.astype(np.uint8))


def listed(ids: Sequence[int | str]) -> str:
    """The first of some ids, and how many there are, for messages."""
    first = ", ".join(repr(x if isinstance(x, int) else x[:80]) for x in ids[:3])
    return f"id {first} is" if len(ids) == 1 else f"{len(ids)} ids ({first}{', ...' if ids[3:] else ''}) are"


class SeenIds:
    """Which ids a gallery has, so that none comes again; in 8 bytes for each, however long they are.

    Whole numbers are kept as they are, of texts a hash. Where a hash is there already the ids are read again.

    Args:
        stored: gives the ids of the gallery's rows, in lists.
    """

    def __init__(self, stored: Callable[[], Iterable[list[Any]]]) -> None:
        self._stored = stored
        self._keys = np.sort(np.concatenate([np.zeros(0, np.int64), *map(_keys, stored())]))

    def repeated(self, ids: Sequence[int | str]) -> list[int | str]:
        """Those of some ids that are there, in their order."""
        if not len(self._keys):
            return []
        keys = _keys(ids)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        alike = {ids[i] for i in np.flatnonzero(self._keys[at] == keys).tolist()}
        there = {x for part in self._stored() for x in part if x in alike} if alike else alike
        return [x for x in ids if x in there]

    def extend(self, ids: Sequence[int | str]) -> None:
        """Counts ids that are stored by now."""
        self._keys = np.sort(np.concatenate([self._keys, _keys(ids)]), kind="stable")  # of two sorted runs


def _keys(ids: Sequence[int | str]) -> np.ndarray:
    return np.fromiter((x if isinstance(x, int) else hash(x) for x in ids), np.int64, len(ids))


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
