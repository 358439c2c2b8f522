"""A split of a folder of classes: so many images of each to learn from, others held out, kept as names."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitjax.data.sources.base import ImageSource, RowsSource
from vitjax.errors import UserError
from vitjax.system.files import parse_json, read_text, replacing


class Split(NamedTuple):
    """Names of images, as their source has them.

    Attributes:
        train: to learn from.
        test: held out.
    """

    train: list[str]
    test: list[str]


def draw_split(source: ImageSource, per_class: int, most: int, seed: int) -> Split:
    """Draws images of each class to learn from, and of its others some to hold out.

    Args:
        source: labelled images.
        per_class: images of a class to learn from.
        most: images of a class that are held out, where there are so many; 0 = all others.
        seed: another one gives another split.

    Raises:
        UserError: a class of too few images, or images without classes.
    """
    if source.labels is None:
        raise UserError("images without classes cannot be split by class; use one sub-folder for each.")
    rng, labels = np.random.default_rng(seed), np.asarray(source.labels)
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for number, name in enumerate(source.class_names):
        members = rng.permutation(np.flatnonzero(labels == number)).tolist()
        if len(members) <= per_class:
            raise UserError(
                f"class {name!r} has {len(members)} images, too few to learn from {per_class} and hold out "
                "others: choose fewer, or leave the class out."
            )
        rows["train"] += members[:per_class]
        rows["test"] += members[per_class : per_class + most if most else None]
    return Split(*([source.names[i] for i in sorted(found)] for found in rows.values()))


def write_split(path: Path, split: Split) -> None:
    """Writes a split as JSON: {"train": [names], "test": [names]}."""
    with replacing(path, "w") as file:
        json.dump(split._asdict(), file, indent=1, ensure_ascii=False)


def read_split(path: str | os.PathLike[str]) -> Split:
    """Reads what `write_split` wrote.

    Raises:
        UserError: not such a file, or an image in both lists or twice in one.
    """
    text = read_text(path)
    try:
        found = parse_json(text)
        split = Split(found["train"], found["test"])
        sound = all(isinstance(name, str) for names in split for name in names)
    except (ValueError, KeyError, TypeError):
        sound, split = False, Split([], [])
    if not sound or not all(split):
        raise UserError(
            f'{os.fspath(path)} is not a split: JSON {{"train": [names], "test": [names]}}, neither empty.'
        )
    every = split.train + split.test
    if len(set(every)) < len(every):
        seen: set[str] = set()
        again = next(name for name in every if name in seen or seen.add(name))
        raise UserError(f"{os.fspath(path)}: image {again!r} comes twice; an image is learned or held out.")
    return split


def take(source: ImageSource, names: list[str]) -> RowsSource:
    """The images of these names, all classes of the source keeping their numbers.

    Raises:
        UserError: names that the source has not.
    """
    row = {name: i for i, name in enumerate(source.names)}
    missing = [name for name in names if name not in row]
    if missing:
        raise UserError(
            f"the split names {missing[0]!r} and {len(missing) - 1} more images that are not in the folder; "
            "give the folder that it was made of."
        )
    return RowsSource(source, np.array([row[name] for name in names]))
