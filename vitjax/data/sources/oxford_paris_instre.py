"""Revisited Oxford and Paris, and INSTRE: gnd_NAME.pkl or gnd_NAME.mat, and images below its folder.

A pickle is read as data (`vitjax.weights.pickle_plain`): nothing in it is run. Images are found by name,
wherever they lie below the folder, as the archives of Oxford and Paris differ in their sub-folders.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vitjax.data.sources.base import ListedSource
from vitjax.data.sources.folders import SUFFIXES
from vitjax.data.sources.judged import Box, JudgedSource, Setup, box_of, rows_of
from vitjax.data.sources.mat_file import read_mat
from vitjax.errors import UserError
from vitjax.system.files import expanded
from vitjax.weights.pickle_plain import read_plain_pickle

# What counts, and what is taken out of the ranking, in each setup (Radenovic et al., CVPR 2018).
SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def read_revisited(root: str | os.PathLike[str], name: str) -> tuple[ListedSource, JudgedSource]:
    """Revisited Oxford or Paris (Radenovic et al., CVPR 2018): gallery, and 70 queries, cut to their boxes.

    Args:
        root: folder that holds the ground truth and, below it, the images of the archives; or the folder
            with `name` in it.
        name: "roxford5k" or "rparis6k".

    Raises:
        UserError: the ground truth is missing, or not as published; the message says what is wrong.
    """
    folder, truth, path, first = _ground_truth(root, name)
    images, asked = (_names(truth, key, path) for key in ("imlist", "qimlist"))
    entries = _entries(truth, len(asked), path)
    setups = {}
    for setup, parts in SETUPS.items():
        listed = [
            [
                np.concatenate(
                    [
                        rows_of(entry.get(key, ()), len(images), f"{path}, query {q}: {key}", first=first)
                        for key in keys
                    ]
                )
                for q, entry in enumerate(entries)
            ]
            for keys in parts
        ]
        setups[setup] = Setup(*listed)
    return _sources(folder, images, asked, setups, _boxes(entries, path))


def read_instre(root: str | os.PathLike[str]) -> tuple[ListedSource, JudgedSource]:
    """INSTRE (Wang and Jiang 2015) by the protocol of Iscen et al., CVPR 2017: 1,250 queries, cut to boxes.

    Args:
        root: folder that holds gnd_instre.mat or gnd_instre.pkl and the folders INSTRE-S1, -S2 and -M.

    Raises:
        UserError: as for `read_revisited`.
    """
    folder, truth, path, first = _ground_truth(root, "instre")
    images, asked = (_names(truth, key, path) for key in ("imlist", "qimlist"))
    entries = _entries(truth, len(asked), path)
    positives = [
        rows_of(entry.get("ok", ()), len(images), f"{path}, query {q}: ok", first=first)
        for q, entry in enumerate(entries)
    ]
    nothing = [np.zeros(0, np.int64)] * len(asked)
    return _sources(folder, images, asked, {"": Setup(positives, nothing)}, _boxes(entries, path))


def _ground_truth(root: str | os.PathLike[str], name: str) -> tuple[Path, Mapping[str, Any], Path, int]:
    """Folder, ground truth, its file, and the number of its first image: 1 where MATLAB counted."""
    root = Path(expanded(root))
    for folder in (root, root / name):
        for suffix in (".pkl", ".mat"):
            path = folder / f"gnd_{name}{suffix}"
            if path.is_file():
                found = (
                    read_plain_pickle(path)
                    if suffix == ".pkl"
                    else read_mat(path, "imlist", "qimlist", "gnd")
                )
                if not isinstance(found, dict):
                    raise UserError(f"{path} holds a {type(found).__name__}; is it the published file?")
                return folder, found, path, int(suffix == ".mat")
    raise UserError(
        f"{os.fspath(root)!r} holds neither gnd_{name}.pkl nor gnd_{name}.mat, nor does {name}/; download it"
    )


def _names(truth: Mapping[str, Any], key: str, path: Path) -> list[str]:
    names = truth.get(key)
    if isinstance(names, np.ndarray):
        names = names.ravel().tolist()
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} holds no list of names {key!r}; is it the published file?")
    for name in names:
        if (
            PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
            or "\\" in name
            or "\0" in name
        ):
            raise UserError(f"{path}: {name!r} is no relative path inside of the download")
    return list(names)


def _entries(truth: Mapping[str, Any], count: int, path: Path) -> list[Mapping[str, Any]]:
    """What the ground truth says of each query, by name."""
    found = truth.get("gnd")
    if isinstance(found, np.ndarray) and found.dtype.names:  # MATLAB's structs
        found = [dict(zip(found.dtype.names, entry, strict=True)) for entry in found.ravel().tolist()]
    if not isinstance(found, list | tuple) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{path} holds no list of queries 'gnd'; is it the published file?")
    if len(found) != count:
        raise UserError(f"{path} names {count} queries and judges {len(found)}; is it the published file?")
    return list(found)


def _boxes(entries: Sequence[Mapping[str, Any]], path: Path) -> list[Box]:
    return [
        box_of(entry.get("bbx", entry.get("bbox")), f"{path}, query {q}: bbx")
        for q, entry in enumerate(entries)
    ]


def _sources(
    folder: Path, images: list[str], asked: list[str], setups: dict[str, Setup], boxes: list[Box]
) -> tuple[ListedSource, JudgedSource]:
    """Both sides, their names given the paths at which files of that name lie."""
    at: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if PurePosixPath(file).suffix.lower() in SUFFIXES:
                path = Path(parent, file).relative_to(folder).as_posix()
                for key in (path, path.removesuffix(PurePosixPath(file).suffix), PurePosixPath(file).stem):
                    at.setdefault(key, path)

    def found(name: str) -> str:
        # Where it should be, so that the error of an image that is missing names the usual place.
        usual = name if PurePosixPath(name).suffix.lower() in SUFFIXES else f"jpg/{name}.jpg"
        return at.get(name, at.get(f"jpg/{name}", usual))

    return (
        ListedSource(folder, [found(name) for name in images]),
        JudgedSource(folder, [found(name) for name in asked], setups, boxes),
    )
