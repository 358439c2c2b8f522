"""Datasets by name: one plain dictionary of what opens them.

A dataset of your own is one entry, made where the config is: `SOURCES["my_photos"] = MyPhotos`, of which
`MyPhotos(spec, split)` is an `ImageSource`. Importing this module imports no reader.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from vitjax.data.sources.spec import DataSpec
from vitjax.errors import UserError

if TYPE_CHECKING:
    from vitjax.data.sources.base import ImageSource

SEARCHED, LEARNED = ("gallery", "query"), ("train", "test")
SPLITS = SEARCHED + LEARNED

# (spec, split) -> the images; None for "query" where the gallery is searched in itself, and for "test" where
# no images are held out: the caller then holds out some classes of "train".
Opener = Callable[[DataSpec, str], "ImageSource | None"]


def _folder(spec: DataSpec, split: str) -> ImageSource | None:
    from vitjax.data.sources.base import FolderSource

    if split == "gallery":
        return FolderSource(spec.folder("gallery"))
    if split == "query":
        same = not spec.query or os.path.realpath(spec.query) == os.path.realpath(spec.gallery)
        return None if same else FolderSource(spec.query)
    if spec.split_file:
        from vitjax.data.sources.split import read_split, take

        whole = FolderSource(spec.folder("train" if spec.train else "path"), loose=False)
        return take(whole, getattr(read_split(spec.split_file), split))
    if split == "test" and not spec.test and spec.train:
        return None
    field = "train" if split == "train" else "test" if spec.test else "path"
    return FolderSource(spec.folder(field), loose=False)


def _scenes(spec: DataSpec, split: str) -> ImageSource:
    from vitjax.data.sources.demo_scenes import SceneSource

    return SceneSource(split)


def _half(reader: str) -> Opener:
    """Opens the half of a dataset whose classes nobody learns from; it is searched in itself."""

    def opened(spec: DataSpec, split: str) -> ImageSource | None:
        from vitjax.data.sources import cub_cars_sop

        if split == "query":
            return None
        return getattr(cub_cars_sop, reader)(spec.folder("path")).source(test=True)

    return opened


def _msls(spec: DataSpec, split: str) -> ImageSource:
    from vitjax.data.sources.geo import Places
    from vitjax.data.sources.msls import SIDES, VALIDATION, all_cities, read_msls

    root = spec.folder("path")
    if split in SEARCHED:
        side = "query" if split == "query" else "database"
        return read_msls(root, side, cities=spec.cities, subtask=spec.subtask)
    held_out = spec.test.split(",") if spec.test else list(VALIDATION)
    cities = spec.train.split(",") if spec.train else all_cities(root)
    cities = [city for city in cities if city not in held_out] if split == "train" else held_out
    subtask = "" if split == "train" else "all"
    return Places(*(read_msls(root, side, cities=cities, subtask=subtask) for side in SIDES))


def _sides(module: str, reader: str, *names: str) -> Opener:
    """Opens one side of a benchmark whose reader gives both."""

    def opened(spec: DataSpec, split: str) -> ImageSource:
        read = getattr(importlib.import_module(f"vitjax.data.sources.{module}"), reader)
        return read(spec.folder("path"), *names)[SEARCHED.index(split)]

    return opened


def _tfds(spec: DataSpec, split: str) -> ImageSource | None:
    from vitjax.data.sources.tfds import TfdsSource

    if split == "query":
        return None
    part = {"train": spec.train, "test": spec.test}.get(split) or spec.split
    return TfdsSource(spec.name, part, spec.path)  # pyright: ignore[reportReturnType]  (labels: when asked for)


def _idx(spec: DataSpec, split: str) -> ImageSource:
    from vitjax.data.sources.mnist import IdxSource

    return IdxSource(spec.folder("path"), split)


def _cifar(spec: DataSpec, split: str) -> ImageSource:
    from vitjax.data.sources.cifar import CifarSource

    return CifarSource(spec.folder("path"), split)


def _digits(spec: DataSpec, split: str) -> ImageSource:
    from vitjax.data.sources.digits import DigitsSource

    return DigitsSource(split)


_JUDGED: dict[str, Opener] = {
    "roxford5k": _sides("oxford_paris_instre", "read_revisited", "roxford5k"),
    "rparis6k": _sides("oxford_paris_instre", "read_revisited", "rparis6k"),
    "pitts30k": _sides("pitts_nordland_amstertime", "read_pittsburgh", "pitts30k"),
    "pitts250k": _sides("pitts_nordland_amstertime", "read_pittsburgh", "pitts250k"),
    "nordland": _sides("pitts_nordland_amstertime", "read_nordland"),
    "amstertime": _sides("pitts_nordland_amstertime", "read_amstertime"),
    "gldv2": _sides("gldv2", "read_gldv2"),
    "instre": _sides("oxford_paris_instre", "read_instre"),
    "ilias": _sides("ilias", "read_ilias"),
}
SOURCES: dict[str, Opener] = {
    "folder": _folder,
    "scenes": _scenes,
    "cub": _half("read_cub"),
    "cars": _half("read_cars"),
    "sop": _half("read_sop"),
    "msls": _msls,
    **_JUDGED,
    "tfds": _tfds,
    "idx": _idx,
    "cifar": _cifar,
    "digits": _digits,
}
# Splits of those that have not all four.
_SPLITS = {
    "scenes": SEARCHED,
    "cub": SEARCHED,
    "cars": SEARCHED,
    "sop": SEARCHED,
    **dict.fromkeys(_JUDGED, SEARCHED),
    "idx": LEARNED,
    "cifar": LEARNED,
    "digits": LEARNED,
}


def sources_with(*splits: str) -> list[str]:
    """Names of the datasets that have all these splits, in the order of `SOURCES`."""
    return [name for name in SOURCES if set(splits) <= set(_SPLITS.get(name, SPLITS))]


def open_source(name: str, spec: DataSpec, split: str) -> ImageSource | None:
    """Opens a split of a dataset of `SOURCES`.

    Args:
        name: of the dataset.
        spec: which images are meant.
        split: "gallery" and "query" of a search; "train" to learn from, "test" to judge what was learned.

    Returns:
        The images. None for "query": the gallery is searched in itself. None for "test": none are held out.

    Raises:
        UserError: no such dataset or split; or its files are not there, or not as published.
    """
    if name not in SOURCES:
        raise UserError(f"source {name!r} is unknown; those are {', '.join(SOURCES)}, and what you add")
    if name not in sources_with(split):
        raise UserError(f"source {name!r} has no split {split!r}; it has {', '.join(_SPLITS[name])}")
    return SOURCES[name](spec, split)
