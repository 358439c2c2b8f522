"""Which files below a folder are its images, and what is left out of them, counted and named."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitjax.errors import UserError
from vitjax.system.files import canonical, expanded

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
UNREAD = (
    ".apng", ".arw", ".avif", ".bmp", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".heic", ".heif", ".ico",
    ".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".nef", ".orf", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf",
    ".raw", ".rw2", ".svg", ".tga", ".tif", ".tiff",
)  # fmt: skip
NO_CLASS = "."  # of images that lie beside the folders of classes
_NAMED = 3  # folders that a line names; the rest are counted


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        root: the folder.
        images: relative POSIX paths, in the order of these names.
        kinds: of each folder below, itself ".", how many files of each suffix it holds.
        again: folders that are links to folders listed elsewhere.
        closed: folders that may not be read.
    """

    root: Path
    images: list[str]
    kinds: dict[str, Counter[str]]
    again: list[str]
    closed: list[str]

    def unread(self) -> str:
        """One line about files that are images by their suffix, but of formats that are not read; or ""."""
        counts = sum(self.kinds.values(), Counter())
        each = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()) if suffix in UNREAD)
        return each and f"left out as only JPEG, PNG and WebP are read, convert them: {each}"

    def notes(self, *, classes: bool) -> list[str]:
        """Lines about all that is in no list of the images.

        Args:
            classes: sub-folders are classes; those that hold no image, and so are none, are named too.
        """
        empty = self._without_images() if classes else []
        lines = [
            self.unread(),
            _folders(self.again, "linked to folders that are listed already", "left out"),
            _folders(self.closed, "not readable, check the permissions", "left out"),
            _folders(empty, "without a JPEG, PNG or WebP image", "no class"),
        ]
        return [f"{self.root}: {line}" for line in lines if line]

    def _without_images(self) -> list[str]:
        """The highest folders that hold no image at any depth, with what they hold instead."""
        holding = {"."}
        for folder in {file.rpartition("/")[0] for file in self.images}:
            parts = folder.split("/")
            holding |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
        found = []
        for folder in sorted(set(self.kinds) - holding):
            if (folder.rpartition("/")[0] or ".") in holding:
                inside = (kinds for name, kinds in self.kinds.items() if f"{name}/".startswith(f"{folder}/"))
                counts = sorted(sum(inside, Counter()).items())
                what = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in counts)
                found.append(f"{folder} ({what or 'empty'})")
        return found


def _folders(names: Sequence[str], which: str, verdict: str) -> str:
    if not names:
        return ""
    some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")
    count = "1 sub-folder" if len(names) == 1 else f"{len(names)} sub-folders"
    return f"{count} {which}, {verdict}: {some}"


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Image files below a folder, as relative POSIX paths in the order of these names.

    An image's index anywhere in vitjax is its position in this list; names are sorted in the Unicode form
    NFC, so the order is one on every file system. Files are chosen by suffix (.jpg, .jpeg, .png, .webp in any
    case); names that start with a dot are left out. Links to folders are followed, each real folder is listed
    once, so loops end.

    Raises:
        ValueError: no folder there, or no images in it.
    """
    return list_folder(folder).images


def list_folder(folder: str | os.PathLike[str]) -> Listing:
    """The images of `list_images`, and what is left out of them.

    Raises:
        ValueError: as for `list_images`.
    """
    root = Path(expanded(folder))
    if not root.is_dir():
        raise UserError(f"{os.fspath(folder)!r} is not a folder; give a folder of images.")
    listing = _walk(root)
    if not listing.images:
        others = f" ({note})" if (note := listing.unread()) else ""
        raise UserError(
            f"no JPEG, PNG or WebP images under {os.fspath(folder)!r}{others}; give another folder."
        )
    return listing


def _walk(root: Path) -> Listing:
    seen: set[tuple[int, int]] = set()
    found = Listing(root, [], {}, [], [])

    def closed(error: OSError) -> None:
        found.closed.append(Path(error.filename).relative_to(root).as_posix())

    for parent, folders, files in os.walk(root, followlinks=True, onerror=closed):
        relative, status = Path(parent).relative_to(root), os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            found.again.append(relative.as_posix())
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in files if not name.startswith(".")]
        found.kinds[relative.as_posix()] = Counter(os.path.splitext(name)[1].lower() for name in names)
        found.images.extend((relative / name).as_posix() for name in names if name.lower().endswith(SUFFIXES))
    found.images.sort(key=lambda name: (canonical(name), name))
    return found
