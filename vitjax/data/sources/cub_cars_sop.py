"""Published retrieval sets as they are downloaded: CUB-200-2011, Cars196, Stanford Online Products.

Each is read from its own index files, whose lines are checked one by one: an error names the file and the
line. Images are not touched here. Their halves are those of zero-shot retrieval, by class, and not the ones
for classification that the same downloads hold.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32

from vitjax.data.sources.base import ListedSource, class_numbers
from vitjax.data.sources.folders import SUFFIXES
from vitjax.data.sources.mat_file import read_mat
from vitjax.errors import UserError
from vitjax.system.files import expanded

T = TypeVar("T")
CUB_TRAIN_CLASSES = 100  # class ids up to here are learned from, those above are searched
CARS_TRAIN_CLASSES = 98


@dataclass(frozen=True, eq=False)
class Listing:
    """Images of a published set, in the order of its files.

    Attributes:
        root: folder that `files` are relative to.
        files: relative POSIX paths.
        labels: class of each image, an index into `class_names`.
        class_names: of both halves.
        test: True = of the half that is searched, whose classes are not learned from.
        boxes: x0, y0, x1, y1 of the object in pixels; None where the set has none.
    """

    root: Path
    files: list[str]
    labels: Int32[np.ndarray, " n"]
    class_names: list[str]
    test: Bool[np.ndarray, " n"]
    boxes: Float32[np.ndarray, "n 4"] | None = None

    def source(self, *, test: bool) -> ListedSource:
        """The images of one half."""
        rows = np.flatnonzero(self.test == test)
        if not len(rows):
            half = "that is searched" if test else "to learn from"
            raise UserError(f"{self.root}: no image is of the half {half}; is the download whole?")
        return ListedSource(self.root, [self.files[i] for i in rows], self.labels[rows], self.class_names)


def read_cub(root: str | os.PathLike[str]) -> Listing:
    """CUB-200-2011 (Wah et al. 2011): classes 1 to 100 are learned from, 101 to 200 are searched.

    Args:
        root: the folder CUB_200_2011, or the one it lies in.

    Raises:
        ValueError: a file is missing, or a line of it is malformed; the message names both.
    """
    folder = _folder(root, "images.txt", "CUB_200_2011")
    names = dict(_numbered(folder / "images.txt", _image))
    classes = _of_each(names, folder / "image_class_labels.txt", int)
    titles = dict(_numbered(folder / "classes.txt", str))
    boxes = np.array(_of_each(names, folder / "bounding_boxes.txt", _floats(4)), np.float32).reshape(-1, 4)
    labels = _labels(classes, titles, folder / "classes.txt")
    return Listing(
        root=folder / "images",
        files=list(names.values()),
        labels=labels,
        class_names=[titles[key] for key in sorted(titles)],
        test=np.array(classes) > CUB_TRAIN_CLASSES,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    )


def read_cub_parts(root: str | os.PathLike[str]) -> tuple[list[str], Float32[np.ndarray, "n parts 3"]]:
    """Where the parts of CUB-200-2011's birds are, for the images of `read_cub` in their order.

    Args:
        root: as for `read_cub`.

    Returns:
        names of the parts; and x, y in pixels and 1 = visible, 0 = not, for each image and part.

    Raises:
        ValueError: as for `read_cub`.
    """
    folder = _folder(root, "images.txt", "CUB_200_2011")
    ids = {key: i for i, (key, _) in enumerate(_numbered(folder / "images.txt", _image))}
    parts = dict(_numbered(folder / "parts" / "parts.txt", str))
    column = {key: i for i, key in enumerate(sorted(parts))}
    path = folder / "parts" / "part_locs.txt"
    found = np.zeros((len(ids), len(parts), 3), np.float32)
    seen = np.zeros(found.shape[:2], bool)
    for number, line in _lines(path):
        with _line_of(path, number, line):
            image, part, *point = line.split()
            row, where = ids[int(image)], column[int(part)]
            found[row, where] = _floats(3)(" ".join(point))
            seen[row, where] = True
    if not seen.all():
        row, where = np.argwhere(~seen)[0]
        raise UserError(
            f"{path}: no line for image {list(ids)[row]}, part {sorted(parts)[where]}; is the download whole?"
        )
    return [parts[key] for key in column], found


def read_cars(root: str | os.PathLike[str]) -> Listing:
    """Cars196 (Krause et al. 2013): classes 1 to 98 are learned from, 99 to 196 are searched, by class id.

    Args:
        root: folder of either download: cars_annos.mat and car_ims/; or cars_train/, cars_test/, and beside
            them or in devkit/ the files cars_meta.mat, cars_train_annos.mat, cars_test_annos_withlabels.mat.

    Raises:
        ValueError: a file is missing, not a MATLAB 5 file, or an entry of it is malformed.
    """
    folder = Path(expanded(root))
    if (folder / "cars_annos.mat").is_file():
        sheets = [(folder / "cars_annos.mat", "relative_im_path", "")]
        titles = _cells(folder / "cars_annos.mat", "class_names")
    else:
        folders = [folder, folder / "devkit"]
        train, test, meta = (
            _first(folders, f"cars_{name}.mat") for name in ("train_annos", "test_annos_withlabels", "meta")
        )
        sheets = [(train, "fname", "cars_train/"), (test, "fname", "cars_test/")]
        titles = _cells(meta, "class_names")
    files, classes, boxes = [], [], []
    for path, field, prefix in sheets:
        for number, entry in enumerate(_mat(path, "annotations"), start=1):
            with _line_of(path, number, "", "entry"):
                files.append(_image(prefix + str(entry[field])))
                classes.append(int(entry["class"]))
                boxes.append([float(entry[f"bbox_{corner}"]) for corner in ("x1", "y1", "x2", "y2")])
    names = dict(enumerate(titles, start=1))
    return Listing(
        root=folder,
        files=files,
        labels=_labels(classes, names, sheets[0][0]),
        class_names=titles,
        test=np.array(classes) > CARS_TRAIN_CLASSES,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
    )


def read_sop(root: str | os.PathLike[str]) -> Listing:
    """Stanford Online Products (Song et al. 2016), whose halves are in two files, Ebay_train and Ebay_test.

    Args:
        root: the folder Stanford_Online_Products, or the one it lies in.

    Raises:
        ValueError: a file is missing, or a line of it is malformed; the message names both.
    """
    folder = _folder(root, "Ebay_test.txt", "Stanford_Online_Products")
    files, classes, test, titles = [], [], [], {}
    for half in ("train", "test"):
        path = folder / f"Ebay_{half}.txt"
        for number, line in _lines(path):
            if number == 1 and line.startswith("image_id"):
                continue
            with _line_of(path, number, line):
                _, product, _, file = line.split(maxsplit=3)
                files.append(_image(file))
                classes.append(int(product))
                test.append(half == "test")
                kind = PurePosixPath(file).parent.name.removesuffix("_final")
                titles[int(product)] = f"{kind}/{int(product)}"
    return Listing(
        root=folder,
        files=files,
        labels=_labels(classes, titles, folder / "Ebay_test.txt"),
        class_names=[titles[key] for key in sorted(titles)],
        test=np.array(test, bool),
    )


def _folder(root: str | os.PathLike[str], file: str, name: str) -> Path:
    """The folder that holds an index file: `root` itself, or `name` in it."""
    root = Path(expanded(root))
    for folder in (root, root / name):
        if (folder / file).is_file():
            return folder
    raise UserError(f"{os.fspath(root)!r} holds neither {file} nor {name}/{file}; give the unpacked download")


def _first(folders: list[Path], file: str) -> Path:
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise UserError(
        f"{folders[0]}: there is no cars_annos.mat, and no {file}, also not in devkit/; download it"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, numbered from 1; any line ends."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is the download whole?") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file ({error.reason}); download it again") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


@contextlib.contextmanager
def _line_of(path: Path, number: int, line: str, what: str = "line") -> Iterator[None]:
    """Turns what goes wrong with a line into one message that names the file and the line."""
    where = f"{path}, {what} {number}" + (f" {line[:80]!r}" if line else "")
    try:
        yield
    except KeyError as error:
        raise UserError(f"{where}: {error.args[0]!r} is not known; is the download whole?") from None
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"{where} is malformed ({' '.join(str(error).split())}); download it again") from None


def _numbered(path: Path, convert: Callable[[str], T]) -> Iterator[tuple[int, T]]:
    """Number and converted rest of each line; a number that comes twice is an error."""
    seen = set()
    for number, line in _lines(path):
        with _line_of(path, number, line):
            key, rest = line.split(maxsplit=1)
            if int(key) in seen:
                raise UserError(f"number {key} comes twice")
            seen.add(int(key))
            found = int(key), convert(rest)
        yield found


def _of_each(names: Mapping[int, str], path: Path, convert: Callable[[str], T]) -> list[T]:
    """What a file says of each of the images, in their order."""
    table = dict(_numbered(path, convert))
    missing = next((key for key in names if key not in table), None)
    if missing is not None:
        raise UserError(f"{path}: no line for image {missing}; is the download whole?")
    return [table[key] for key in names]


def _labels(classes: list[int], titles: Mapping[int, str], path: Path) -> np.ndarray:
    """Class ids as positions among the sorted ids."""
    number = {key: i for i, key in enumerate(sorted(titles))}
    class_numbers([titles[key] for key in sorted(titles)], f"{path}: class names")
    unknown = next((key for key in classes if key not in number), None)
    if unknown is not None:
        raise UserError(f"{path}: there is no class {unknown}, which an image is of; is the download whole?")
    return np.array([number[key] for key in classes], np.int32)


def _image(file: str) -> str:
    """The relative path of an image, as an index file may name it."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file:
        raise UserError(f"{file!r} is no relative path inside of the download")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file!r} does not end in one of {', '.join(SUFFIXES)}")
    return path.as_posix()


def _floats(count: int) -> Callable[[str], list[float]]:
    def convert(text: str) -> list[float]:
        found = [float(part) for part in text.split()]
        if len(found) != count or not np.isfinite(found).all():
            raise UserError(f"expected {count} finite numbers")
        return found

    return convert


def _mat(path: Path, variable: str) -> np.ndarray:
    """One variable of a MATLAB 5 file; records where it is an array of structs."""
    return read_mat(path, variable)[variable]


def _cells(path: Path, variable: str) -> list[str]:
    return [str(cell) for cell in _mat(path, variable)]
