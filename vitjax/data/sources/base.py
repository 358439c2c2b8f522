"""Where images come from: anything with a length, names, perhaps labels, and read(i)."""

import hashlib
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from vitjax.data.images import ImageError, read_image
from vitjax.data.sources.folders import NO_CLASS, list_folder
from vitjax.errors import UserError
from vitjax.system.files import canonical, expanded, read_text


@runtime_checkable
class ImageSource(Protocol):
    """Images by index.

    Attributes:
        names: one per image, unique, printable as UTF-8; a relative POSIX path where there are files, in
            the Unicode form NFC, whichever form the file system keeps.
        labels: class of each image, an index into `class_names`; None where nothing is known.
        class_names: names of the classes; empty where labels is None.
    """

    names: list[str]
    labels: np.ndarray | None
    class_names: list[str]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB; raises ImageError where it cannot be read."""
        ...


class ListedSource:
    """Image files that somebody else's list names, in its order.

    Args:
        root: folder that the paths are relative to.
        files: relative POSIX paths; whether the images are there is seen when they are read.
        labels: class of each, an index into `class_names`; None = unknown.
        class_names: names of the classes.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        files: Sequence[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.root: Path = Path(expanded(root))
        self._files = list(files)
        self.names: list[str] = _unique(self._files)
        self.labels: np.ndarray | None = labels
        self.class_names: list[str] = list(class_names)

    def __len__(self) -> int:
        return len(self._files)

    def fingerprint(self) -> str:
        """Hash of names, sizes and times of change: another one means that the images may be others."""
        files = ((name, self.root / file) for name, file in zip(self.names, self._files, strict=True))
        return _hash(f"{name}\0{_state(file)}" for name, file in files)

    def content(self) -> str:
        """Hash of names and files, which are read: copies and times of change do not count."""
        files = ((name, self.root / file) for name, file in zip(self.names, self._files, strict=True))
        return _hash(f"{name}\0{_bytes(file)}" for name, file in files)

    def path(self, i: int) -> Path:
        """The file of image i, links resolved."""
        return (self.root / self._files[i]).resolve()

    def identity(self, i: int) -> Hashable:
        """What two names of one file share, be they links, hard links or paths."""
        try:
            status = os.stat(self.root / self._files[i])
        except OSError:
            return self.path(i)
        return status.st_dev, status.st_ino

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB; raises ImageError where it cannot be read."""
        return read_image(self.root / self._files[i])


class FolderSource(ListedSource):
    """Image files below a folder, in the order of their names; or one file.

    Where there are sub-folders, each folder that holds images is a class, named by its path relative to the
    root ("fruit/apple") in the Unicode form NFC, so that names written in either form are one class. Images
    that lie in the root itself then have none: they stand under the name ".", and `align_labels` lets them
    meet no other. Without sub-folders there are no labels.

    Args:
        path: folder, or one image file, which gives a source of one.
        loose: keep images that lie beside the sub-folders of classes; False leaves them out, as where each
            image needs a class.

    Raises:
        ValueError: the path does not exist, or no images are there.
    """

    def __init__(self, path: str | os.PathLike[str], *, loose: bool = True) -> None:
        root = Path(expanded(path))
        if not os.fspath(path) or not root.exists():
            raise UserError(f"{os.fspath(path)!r} does not exist; give a folder of images or an image file.")
        listing = list_folder(root) if root.is_dir() else None
        files, root = (listing.images, root) if listing else ([root.name], root.parent)
        folders = [canonical(_printable(Path(file).parent.as_posix())) for file in files]
        has_classes, count = set(folders) != {NO_CLASS}, folders.count(NO_CLASS)
        self._notes = listing.notes(classes=has_classes) if listing else []
        if not has_classes:
            super().__init__(root, files)
            return
        if count:
            kept = "they have no class, so nothing is relevant to them" if loose else "left out"
            self._notes.append(
                f"{root}: {count} of {len(files)} images lie beside the sub-folders of classes: {kept}"
            )
        if not loose:
            files = [file for file, name in zip(files, folders, strict=True) if name != NO_CLASS]
            folders = [name for name in folders if name != NO_CLASS]
        classes = sorted(set(folders))
        if other := sum(canonical(name) != name for name in {os.path.dirname(file) for file in files}):
            self._notes.append(
                f"{root}: {other} of {len(classes)} class names are not in the Unicode form NFC, in which "
                "names are compared"
            )
        position = {name: i for i, name in enumerate(classes)}
        super().__init__(root, files, np.array([position[name] for name in folders], np.int32), classes)

    def notes(self) -> list[str]:
        """Lines about what is left out, and about images beside the folders of classes."""
        return self._notes


class RowsSource:
    """Some images of a source.

    Args:
        source: the images.
        rows: their positions in it, in the order wanted.
    """

    def __init__(self, source: ImageSource, rows: np.ndarray) -> None:
        self._source, self._rows = source, rows
        self.names: list[str] = [source.names[i] for i in rows]
        self.labels: np.ndarray | None = None if source.labels is None else source.labels[rows]
        self.class_names: list[str] = source.class_names

    def __len__(self) -> int:
        return len(self.names)

    def notes(self) -> list[str]:
        """Those of the source."""
        return notes_of(self._source)

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB; raises ImageError where it cannot be read."""
        return self._source.read(int(self._rows[i]))


class SourceTail(RowsSource):
    """The images of a source from one on.

    Args:
        source: the images.
        start: image of the source that is image 0 here.
    """

    def __init__(self, source: ImageSource, start: int) -> None:
        super().__init__(source, np.arange(start, len(source)))


class ClassesSource(RowsSource):
    """The images of some classes of a source, which are numbered anew.

    Args:
        source: labelled images.
        keep: positions in its `class_names`, rising.
    """

    def __init__(self, source: ImageSource, keep: Sequence[int]) -> None:
        if source.labels is None:
            raise UserError("images without classes cannot be split by class; use one sub-folder for each.")
        super().__init__(source, np.flatnonzero(np.isin(source.labels, list(keep))))
        self.labels: np.ndarray | None = np.searchsorted(list(keep), source.labels[self._rows]).astype(
            np.int32
        )
        self.class_names: list[str] = [source.class_names[c] for c in keep]


class ListSource:
    """Images from a list of paths, PIL images, uint8 arrays or bytes of image files, unlabelled.

    Names are "index: path" for paths and the index alone for the rest, so they are unique.

    Args:
        items: the images.
        what: the call and its argument that an error names.

    Raises:
        TypeError: one image alone, which is no list of its letters or rows.
    """

    def __init__(self, items: Iterable[Any], *, what: str = "ListSource: items") -> None:
        alone = isinstance(items, str | bytes | os.PathLike | Image.Image)
        alone = alone or (isinstance(items, np.ndarray) and items.ndim in (0, 2, 3))
        if alone or not isinstance(items, Iterable):
            raise TypeError(f"{what} is one {type(items).__name__}; give a list of images, [ ] around one.")
        self._items = list(items)
        self.names: list[str] = [
            f"{i}: {_printable(os.fspath(item))}" if isinstance(item, (str, os.PathLike)) else str(i)
            for i, item in enumerate(self._items)
        ]
        self.labels: np.ndarray | None = None
        self.class_names: list[str] = []

    def fingerprint(self) -> str:
        """Hash of files' sizes and times of change, and of all other images' content."""
        return _hash(f"{name}\0{_state(item)}" for name, item in zip(self.names, self._items, strict=True))

    def __len__(self) -> int:
        return len(self._items)

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB; raises ImageError where it cannot be read."""
        item = self._items[i]
        if not isinstance(item, (str, os.PathLike, bytes, Image.Image, np.ndarray)):
            raise ImageError(
                f"item {i} is a {type(item).__name__}; give a path, PIL image, uint8 array or bytes."
            )
        return read_image(item)


def fingerprint(source: ImageSource) -> str:
    """Hash that tells whether a source holds what it held before.

    From the source's own `fingerprint()` where it has one, as folders and lists do; otherwise its names are
    all that counts.
    """
    own = getattr(source, "fingerprint", None)
    return own() if own is not None else _hash([type(source).__name__, *source.names])


def notes_of(*sources: ImageSource) -> list[str]:
    """What sources say of images that they leave out, each line once; most say nothing."""
    each = (getattr(source, "notes", list)() for source in sources)
    return list(dict.fromkeys(line for lines in each for line in lines))


def _hash(parts: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode(errors="surrogatepass") + b"\n")
    return whole.hexdigest()[:32]


def _bytes(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return "not there"


def _state(item: Any) -> str:
    """What changes when an image does."""
    if isinstance(item, str | os.PathLike):
        try:
            found = os.stat(item)
        except (OSError, ValueError):
            return "not there"
        return f"{found.st_size} {found.st_mtime_ns}"
    if isinstance(item, Image.Image):
        try:
            item = np.asarray(read_image(item).convert("RGBA"))  # by a copy: the caller's own is not loaded
        except ImageError:
            return "unreadable"
    if isinstance(item, np.ndarray):
        pixels = np.ascontiguousarray(item)
        return f"{pixels.dtype} {pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"
    return hashlib.sha256(item).hexdigest() if isinstance(item, bytes) else type(item).__name__


def align_labels(query: ImageSource, gallery: ImageSource) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels of two sources in one numbering, by class name; None where either has none.

    Classes of the query source that the gallery lacks get numbers no gallery image has. So does every image
    without a class, one beside the folders of classes: a number of its own.

    Raises:
        ValueError: a source has a class name twice.
    """
    if query.labels is None or gallery.labels is None:
        return None
    number: dict[str, int] = {}
    for source in (gallery, query):
        for name in class_numbers(source.class_names, "class names"):
            number.setdefault(name, len(number))
    of_gallery = _numbered(gallery, number, len(number))
    if query is gallery:
        return of_gallery, of_gallery
    return _numbered(query, number, len(number) + len(gallery)), of_gallery


def _numbered(source: ImageSource, number: Mapping[str, int], first: int) -> np.ndarray:
    """Numbers of the classes of all images, and of those without a class from `first` on."""
    table = np.array([number[canonical(name)] for name in source.class_names], np.int32)
    labels = table[source.labels]
    loose = np.flatnonzero(labels == number.get(NO_CLASS, -1))
    labels[loose] = first + np.arange(len(loose))
    return labels


def class_numbers(names: Sequence[str], where: str) -> dict[str, int]:
    """Position of each class name, by its Unicode form NFC.

    Args:
        names: of the classes, in order.
        where: what an error says they are.

    Raises:
        ValueError: a name comes twice; it and its positions are named.
    """
    found: dict[str, int] = {}
    for i, name in enumerate(map(canonical, names)):
        if name in found:
            raise UserError(
                f"{where}: {name!r} comes twice, as numbers {found[name]} and {i}; give each class one name"
            )
        found[name] = i
    return found


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Class names of a text file: line i, from 0, names class i; a line may be empty.

    Raises:
        ValueError: not a text file, or a name comes twice; the name and its lines are named.
    """
    lines = [canonical(line.strip()) for line in read_text(path).rstrip().split("\n")]
    seen: dict[str, int] = {}
    for number, name in enumerate(lines, start=1):
        if name in seen:
            raise UserError(
                f"{os.fspath(path)}: class {name!r} comes twice, in lines {seen[name]} and {number}; give "
                "each class its own name"
            )
        if name:
            seen[name] = number
    return lines


def _unique(files: Sequence[str]) -> list[str]:
    """Printable names in the form NFC; of all their bytes, escaped, where two would be the same."""
    names = [canonical(_printable(file)) for file in files]
    if len(set(names)) == len(names):
        return names
    return [
        file.encode("utf-8", "surrogatepass").decode("latin-1").encode("unicode_escape").decode()
        for file in files
    ]


def _printable(name: str) -> str:
    """File names need not be UTF-8; what cannot be printed is escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
