"""Which gallery images are relevant to each query, as a JSON file says it: by position or by name."""

import difflib
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from vitjax.errors import UserError
from vitjax.system.files import canonical, parse_collection, read_text


def read_ground_truth(
    path: str | os.PathLike[str], queries: int | Sequence[str], gallery: int | Sequence[str]
) -> dict[int, list[int]]:
    """Reads which gallery images are relevant to each query.

    Args:
        path: JSON, `{"0": [3, 4], "1": [5]}` or `[[3, 4], [5]]`, numbers being positions in file-name order;
            or `{"a.jpg": ["x/b.jpg"]}`, names being relative paths, or file names where only one image has
            it. A file holds positions or names, not both.
        queries: how many there are; or their names, without which a file may hold positions alone.
        gallery: the same of the gallery's images.

    Raises:
        ValueError: not such a file, it names images that do not exist, or a query twice; one line says what
            to do.
    """
    data = _read(path)
    entries = list(data.items() if isinstance(data, dict) else enumerate(data))
    asked, held = _Side(queries, "queries"), _Side(gallery, "gallery images")
    given: dict[int, Any] = {}
    truth: dict[int, list[int]] = {}
    try:
        by_name = bool(asked.names and held.names) and _check_kinds(entries)
        for query, relevant in entries:
            where = f"query {query!r}" if isinstance(query, str) else f"query {query}"
            row = asked.named(str(query), where) if by_name else asked.position(query, where)
            if row in truth:
                raise UserError(f"{where} is the same as query {given[row]!r}; give each query once")
            if not isinstance(relevant, list):
                raise UserError(
                    f"query {query}: {relevant!r} is no list; give a list of gallery images: {held.order}"
                )
            find = held.named if by_name else held.position
            truth[row] = [find(image, f"query {query}: {image!r}") for image in relevant]
            given[row] = query
    except ValueError as error:
        raise UserError(f"ground truth {path}: {error}") from None
    return truth


def find_named(listed: Mapping[str, Sequence[str]], gallery: Sequence[str]) -> list[list[int]]:
    """Positions of the gallery images that are listed for each text query.

    Args:
        listed: text -> names, as `read_ground_truth` takes them.
        gallery: names of the gallery's images.

    Raises:
        ValueError: a name that no image, or more than one, has.
    """
    held = _Side(gallery, "gallery images")
    return [
        [held.named(name, f"text {text!r}: {name!r}") for name in names] for text, names in listed.items()
    ]


def _read(path: str | os.PathLike[str]) -> dict[str, Any] | list[Any]:
    try:
        text = read_text(path)
    except ValueError as error:
        raise UserError(f"ground truth {error}; give a JSON file") from None
    expected = (
        'JSON like {"0": [3, 4], "1": [5]}, or like '
        '{"query.jpg": ["a.jpg", "b.jpg"]}: query -> relevant images'
    )
    return parse_collection(text, f"ground truth {path}", expected)


def _check_kinds(entries: Sequence[tuple[int | str, Any]]) -> bool:
    """Whether a file speaks of images by name; one that does so here and there is refused."""
    names, positions = [], []
    for query, relevant in entries:
        is_position = isinstance(query, int) or (query.isascii() and query.isdecimal())
        (positions if is_position else names).append(f"query {query!r}")
        for image in relevant if isinstance(relevant, list) else ():
            (names if isinstance(image, str) else positions).append(f"query {query!r}: {image!r}")
    if names and positions:
        raise UserError(f"{names[0]} is a name, {positions[0]} is a position; give names alone or positions")
    return bool(names)


class _Side:
    """The images of one side, found by position or by name."""

    def __init__(self, images: int | Sequence[str], what: str) -> None:
        self.names = [] if isinstance(images, int) else [canonical(name) for name in images]
        self.count, self.what = images if isinstance(images, int) else len(images), what
        self.order = f"positions in file-name order, from 0 to {self.count - 1}"
        self._rows: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            for known in {name, name.rpartition("/")[2]}:
                self._rows.setdefault(known, []).append(i)

    def position(self, given: Any, where: str) -> int:
        """Row of a position; `where` begins the sentence of an error."""
        text = str(given) if type(given) is int or self.what == "queries" else ""  # True is no position
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < self.count):
            raise UserError(f"{where} is none of the {self.count} {self.what}; give {self.order}")
        return int(text)

    def named(self, given: str, where: str) -> int:
        """Row of a name: a relative path, or a file name that one image alone has."""
        name = canonical(given)
        if name not in self._rows:
            name = posixpath.normpath(name.replace("\\", "/"))  # ./a.jpg, or as Windows writes paths
        rows = self._rows.get(name, [])
        rows = [i for i in rows if self.names[i] == name] or rows
        if len(rows) > 1:
            some = " or ".join(repr(self.names[i]) for i in rows[:2])
            raise UserError(f"{where} may be {some}; give the relative path")
        if not rows:
            near = difflib.get_close_matches(name, self._rows, 1, 0.4)
            nearest = f"; the nearest name is {near[0]!r}" if near else ""
            raise UserError(f"{where} is none of the {self.count} {self.what}{nearest}")
        return rows[0]
