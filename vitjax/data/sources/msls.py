"""Mapillary Street-Level Sequences (Warburg et al., CVPR 2020), as downloaded: photos with their places.

What is in a search is decided as the released evaluation does it (image to image): rows of the subtask, no
panoramas. Nobody else's list of queries is needed for that.
"""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int32
from PIL import Image

from vitjax.data.sources.base import ListedSource
from vitjax.data.sources.spec import SUBTASKS
from vitjax.errors import UserError
from vitjax.system.files import expanded

VALIDATION = ("cph", "sf")
SIDES = ("query", "database")
_FILES = {
    "postprocessed.csv": ("key", "easting", "northing", "night"),
    "raw.csv": ("key", "ca", "pano"),
    "seq_info.csv": ("key",),
    "subtask_index.csv": ("key",),
}


class PlaceSource:
    """Photos whose places are known; their labels are their cities.

    Args:
        images: the photos, by city.
        places: easting and northing of each, in metres of its city's UTM zone.
        angles: compass direction of each, in degrees; NaN = unknown.
        night: whether each was taken at night.
    """

    def __init__(
        self,
        images: ListedSource,
        *,
        places: Float64[np.ndarray, "n 2"],
        angles: Float64[np.ndarray, " n"],
        night: np.ndarray,
    ) -> None:
        self._images = images
        self.names: list[str] = images.names
        self.class_names: list[str] = images.class_names
        self.labels: np.ndarray | None = images.labels
        self.places: np.ndarray = places
        self.angles: np.ndarray = angles
        self.night: np.ndarray = night

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """As `ListedSource` has it."""
        return self._images.fingerprint()

    def path(self, i: int) -> Path:
        """The file of photo i, links resolved."""
        return self._images.path(i)

    def read(self, i: int) -> Image.Image:
        """Photo i as 8-bit RGB; raises ImageError where it cannot be read."""
        return self._images.read(i)

    @property
    def cities(self) -> Int32[np.ndarray, " n"]:
        """City of each photo, an index into `class_names`."""
        return np.asarray(self.labels, np.int32)

    def take(self, rows: np.ndarray) -> "PlaceSource":
        """Some of the photos."""
        names = [self.names[i] for i in rows]
        return PlaceSource(
            ListedSource(self._images.root, names, self.cities[rows], self.class_names),
            places=self.places[rows],
            angles=self.angles[rows],
            night=self.night[rows],
        )


def read_msls(
    root: str | os.PathLike[str],
    side: str,
    *,
    cities: Sequence[str] = VALIDATION,
    subtask: str = "all",
) -> PlaceSource:
    """The photos of one side of a search in some cities, city by city, in the order of their files.

    Args:
        root: folder of the unpacked download, or train_val in it.
        side: "query" or "database".
        cities: of train_val; cph and sf are the validation set.
        subtask: "all"; or summer to winter ("s2w"), old to new, day to night, and the ways back; "" takes
            every row, as training does.

    Raises:
        ValueError: a file or column is missing, files disagree, or a line is malformed; the message says
            which.
    """
    if side not in SIDES or subtask not in ("", *SUBTASKS):
        raise UserError(
            f"read_msls: side is {side!r}, subtask {subtask!r}; they must be one of {SIDES} and of {SUBTASKS}"
        )
    root = Path(expanded(root))
    base = root / "train_val"
    base = base if base.is_dir() else root
    files, places, angles, night, labels = [], [], [], [], []
    for number, city in enumerate(cities):
        for row in _photos(base / city / side, subtask):
            files.append(f"{city}/{side}/images/{row['key']}.jpg")
            places.append((row["easting"], row["northing"]))
            angles.append(row["ca"])
            night.append(row["night"])
            labels.append(number)
    if not files:
        raise UserError(f"{base}: no photo of {', '.join(cities)} is in subtask {subtask!r}; take another")
    return PlaceSource(
        ListedSource(base, files, np.array(labels, np.int32), list(cities)),
        places=np.array(places, np.float64).reshape(-1, 2),
        angles=np.array(angles, np.float64),
        night=np.array(night, bool),
    )


def all_cities(root: str | os.PathLike[str]) -> list[str]:
    """Names of the cities that are there, sorted."""
    root = Path(expanded(root))
    base = root / "train_val"
    base = base if base.is_dir() else root
    return sorted(path.parent.parent.name for path in base.glob("*/query/postprocessed.csv"))


def _photos(folder: Path, subtask: str) -> Iterator[dict]:
    """The photos of a folder that are in a search: its four files side by side, row by row."""
    needed = {
        name: (*columns, subtask) if name.startswith("subtask") else columns
        for name, columns in _FILES.items()
    }
    if not subtask:
        del needed["subtask_index.csv"]
    tables = {name: _table(folder / name, columns) for name, columns in needed.items()}
    lengths = {name: len(rows) for name, rows in tables.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{folder}: the files have {lengths} rows; they must agree: is the download whole?")
    for i in range(next(iter(lengths.values()))):
        rows = {name: table[i] for name, table in tables.items()}
        found = _photo(folder, rows)
        asked = not subtask or _truth(folder / "subtask_index.csv", rows["subtask_index.csv"], subtask)
        if asked and not found["pano"]:
            yield found


def _photo(folder: Path, rows: dict[str, tuple[int, dict[str, str]]]) -> dict:
    keys = {name: row["key"] for name, (_, row) in rows.items()}
    line, post = rows["postprocessed.csv"]
    if len(set(keys.values())) > 1:
        raise UserError(
            f"{folder}, line {line}: the files name different photos, {keys}; download them again"
        )
    key = post["key"]
    if not key or not all(letter.isalnum() or letter in "-_" for letter in key):
        raise UserError(f"{folder / 'postprocessed.csv'}, line {line}: {key!r} is no key of a photo")
    found: dict = {"key": key}
    for column in ("easting", "northing"):
        found[column] = _number(folder / "postprocessed.csv", rows["postprocessed.csv"], column)
    found["ca"] = _number(folder / "raw.csv", rows["raw.csv"], "ca", empty=True)
    found["night"] = _truth(folder / "postprocessed.csv", rows["postprocessed.csv"], "night")
    found["pano"] = _truth(folder / "raw.csv", rows["raw.csv"], "pano")
    return found


def _number(path: Path, row: tuple[int, dict[str, str]], column: str, *, empty: bool = False) -> float:
    line, text = row[0], row[1][column].strip()
    if empty and text.lower() in ("", "nan"):
        return math.nan
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{path}, line {line}: {column} is {text[:40]!r}; expected a number")
    return found


def _truth(path: Path, row: tuple[int, dict[str, str]], column: str) -> bool:
    text = row[1][column].strip()
    if text not in ("True", "False"):
        raise UserError(f"{path}, line {row[0]}: {column} is {text[:40]!r}; expected True or False")
    return text == "True"


def _table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and columns of each row of a CSV file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: there is no column {missing[0]!r}; is it the published file?")
            rows = []
            for row in reader:
                if any(row[name] is None for name in columns):
                    raise UserError(f"{path}, line {reader.line_num}: too few columns; download it again")
                rows.append((reader.line_num, {name: row[name] for name in columns}))
            return rows
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is the download whole?") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file ({error}); download it again") from None
