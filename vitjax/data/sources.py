"""Where pictures come from: anything with a length, names, perhaps labels, and read(i)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from vitjax.data.images import ImageError, list_images, read_image


@runtime_checkable
class ImageSource(Protocol):
    """Pictures by index.

    Attributes:
        names: one per picture, unique, printable as UTF-8; a relative POSIX path where there are files.
        labels: class of each picture, an index into `class_names`; None where nothing is known.
        class_names: names of the classes; empty where labels is None.
    """

    names: list[str]
    labels: np.ndarray | None
    class_names: list[str]

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def read(self, i: int) -> Image.Image:
        """Picture i as 8-bit RGB; raises ImageError where it cannot be read."""
        ...


class FolderSource:
    """Image files below a folder, in the order of their names; or one file.

    Where there are sub-folders, each folder that holds images is a class, named by its path relative to the
    root ("fruit/apple"); images that lie in the root itself then form the class ".". Without sub-folders
    there are no labels.

    Args:
        path: folder, or one image file, which gives a source of one.

    Raises:
        ValueError: the path does not exist, or no images are there.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.root = Path(path)
        if not os.fspath(path) or not self.root.exists():
            raise ValueError(f"{os.fspath(path)!r} does not exist; give a folder of images or an image file.")
        if self.root.is_dir():
            self._files = list_images(self.root)
        else:
            self._files, self.root = [self.root.name], self.root.parent
        self.names = [_printable(file) for file in self._files]
        folders = [_printable(Path(file).parent.as_posix()) for file in self._files]
        self.class_names: list[str] = []
        self.labels: np.ndarray | None = None
        if set(folders) != {"."}:
            self.class_names = sorted(set(folders))
            position = {name: i for i, name in enumerate(self.class_names)}
            self.labels = np.array([position[folder] for folder in folders], np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def path(self, i: int) -> Path:
        """The file of picture i, links resolved."""
        return (self.root / self._files[i]).resolve()

    def read(self, i: int) -> Image.Image:
        """Picture i as 8-bit RGB; raises ImageError where it cannot be read."""
        return read_image(self.root / self._files[i])


class ListSource:
    """Pictures from a list of paths, PIL images, uint8 arrays or bytes of image files, unlabelled.

    Names are "index: path" for paths and the index alone for the rest, so they are unique.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        if isinstance(items, (str, bytes, os.PathLike)):
            raise TypeError(
                f"ListSource takes a list of pictures, not {type(items).__name__}; wrap it in [ ]."
            )
        self._items = list(items)
        self.names = [
            f"{i}: {_printable(os.fspath(item))}" if isinstance(item, (str, os.PathLike)) else str(i)
            for i, item in enumerate(self._items)
        ]
        self.labels: np.ndarray | None = None
        self.class_names: list[str] = []

    def __len__(self) -> int:
        return len(self._items)

    def read(self, i: int) -> Image.Image:
        """Picture i as 8-bit RGB; raises ImageError where it cannot be read."""
        item = self._items[i]
        if not isinstance(item, (str, os.PathLike, bytes, Image.Image, np.ndarray)):
            raise ImageError(
                f"item {i} is a {type(item).__name__}; give a path, PIL image, uint8 array or bytes."
            )
        return read_image(item)


def align_labels(query: ImageSource, gallery: ImageSource) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels of two sources in one numbering, by class name; None where either has none.

    Classes of the query source that the gallery lacks get numbers no gallery picture has.
    """
    if query.labels is None or gallery.labels is None:
        return None
    number = {name: i for i, name in enumerate(dict.fromkeys([*gallery.class_names, *query.class_names]))}
    to_query = np.array([number[name] for name in query.class_names], np.int32)
    to_gallery = np.array([number[name] for name in gallery.class_names], np.int32)
    return to_query[query.labels], to_gallery[gallery.labels]


def _printable(name: str) -> str:
    """File names need not be UTF-8; what cannot be printed is escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
