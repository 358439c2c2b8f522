"""ILIAS core (Kordopatis-Zilos et al., CVPR 2025): 1,000 objects, each with query and positive images."""

import os
from pathlib import Path, PurePosixPath

import numpy as np

from vitjax.data.sources.base import ListedSource
from vitjax.data.sources.folders import list_folder
from vitjax.data.sources.judged import JudgedSource, Setup
from vitjax.errors import UserError
from vitjax.system.files import expanded


def read_ilias(root: str | os.PathLike[str]) -> tuple[ListedSource, JudgedSource]:
    """Gallery and queries: OBJECT/pos/P*.jpg and OBJECT/query/Q*.jpg, whole images, in order of name.

    Positives of an object are its images in pos/. Distractors of YFCC100M are no part of it.

    Args:
        root: the folder ilias_core, or the one it lies in.

    Raises:
        UserError: no such folders, or an object without positives.
    """
    root = Path(expanded(root))
    folder = root / "ilias_core" if (root / "ilias_core").is_dir() else root
    if not folder.is_dir():
        raise UserError(f"{os.fspath(root)!r} does not exist; give the unpacked download")
    sides: dict[str, list[str]] = {"pos": [], "query": []}
    for file in list_folder(folder).images:
        parts = PurePosixPath(file).parts
        if len(parts) == 3 and parts[1] in sides:
            sides[parts[1]].append(file)
    if not sides["pos"] or not sides["query"]:
        raise UserError(
            f"{folder} holds no OBJECT/pos and OBJECT/query with images; give the unpacked download"
        )
    objects: dict[str, list[int]] = {}
    for i, file in enumerate(sides["pos"]):
        objects.setdefault(PurePosixPath(file).parts[0], []).append(i)
    positives = []
    for file in sides["query"]:
        name = PurePosixPath(file).parts[0]
        if name not in objects:
            raise UserError(f"{folder}/{name} has a query, but no image in pos/; is the download whole?")
        positives.append(np.array(objects[name], np.int64))
    nothing = [np.zeros(0, np.int64)] * len(positives)
    return ListedSource(folder, sides["pos"]), JudgedSource(
        folder, sides["query"], {"": Setup(positives, nothing)}
    )
