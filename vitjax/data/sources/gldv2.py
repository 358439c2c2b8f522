"""Google Landmarks Dataset v2, retrieval: the index set searched for test images, as downloaded."""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitjax.data.sources.base import ListedSource
from vitjax.data.sources.judged import JudgedSource, Setup
from vitjax.errors import UserError
from vitjax.system.files import expanded

SOLUTION = "retrieval_solution_v2.1.csv"
USAGES = ("Private", "Public")
_ID = re.compile(r"[0-9a-f]{16}")


def read_gldv2(root: str | os.PathLike[str]) -> tuple[ListedSource, JudgedSource]:
    """GLDv2 (Weyand et al., CVPR 2020), retrieval: gallery, and the test images that are not ignored.

    Args:
        root: folder with index/ and test/, whose images lie at a/b/c/abc....jpg, and index.csv and
            retrieval_solution_v2.1.csv in it, in metadata/ or in ground_truth/.

    Raises:
        UserError: a file is missing, or a line of it is malformed; the message names both.
    """
    folder = Path(expanded(root))
    index = _file(folder, "index.csv")
    images = [row["id"] for _, row in _rows(index, "id")]
    position = {image: i for i, image in enumerate(images)}
    if len(position) < len(images):
        raise UserError(f"{index} names an image twice; download it again")
    path, asked = _file(folder, SOLUTION), []
    positives: dict[str, list[np.ndarray]] = {usage: [] for usage in USAGES}
    for line, row in _rows(path, "id", "images", "Usage"):
        if row["Usage"] == "Ignored":
            continue
        if row["Usage"] not in USAGES:
            raise UserError(f"{path}, line {line}: Usage is {row['Usage'][:40]!r}; download it again")
        asked.append(row["id"])
        unknown = [image for image in row["images"].split() if image not in position]
        if unknown or not row["images"].split():
            raise UserError(f"{path}, line {line}: {''.join(unknown[:1])!r} is no image of {index.name}")
        found = np.array([position[image] for image in row["images"].split()], np.int64)
        for usage in USAGES:
            positives[usage].append(found if row["Usage"] == usage else found[:0])
    if not asked:
        raise UserError(f"{path} names no query; is it the published file?")
    nothing = [np.zeros(0, np.int64)] * len(asked)
    setups = {usage.lower(): Setup(positives[usage], nothing) for usage in USAGES}
    return (
        ListedSource(folder, [_path("index", image) for image in images]),
        JudgedSource(folder, [_path("test", image) for image in asked], setups),
    )


def _path(side: str, image: str) -> str:
    return f"{side}/{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def _file(folder: Path, name: str) -> Path:
    for at in (".", "metadata", "ground_truth"):
        if (folder / at / name).is_file():
            return folder / at / name
    raise UserError(f"{folder} holds no {name}, also not in metadata/ or ground_truth/; download it")


def _rows(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns of each row, whose id is checked."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path}: there is no column {missing[0]!r}; is it the published file?")
            for row in reader:
                if any(row[name] is None for name in columns) or not _ID.fullmatch(row["id"]):
                    raise UserError(f"{path}, line {reader.line_num} is malformed; download it again")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file ({error}); download it again") from None
