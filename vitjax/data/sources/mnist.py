"""Images in MNIST's own file format: Fashion-MNIST, MNIST, KMNIST, EMNIST as they are published."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from vitjax.errors import UserError
from vitjax.system.files import expanded

_MOST = 2**31  # bytes of one file, unpacked
_NAMES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}


class IdxSource:
    """Images and labels of a folder with `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, .gz or not.

    Args:
        path: the folder.
        split: "test" (the files named t10k) or "train".

    Raises:
        ValueError: files that are missing, damaged, or do not belong together.
    """

    def __init__(self, path: str | os.PathLike[str], split: str = "test") -> None:
        images, labels = (_find(Path(expanded(path)), stem) for stem in _NAMES[split])
        self._pixels = _read(images, dimensions=3)
        self.labels: np.ndarray | None = _read(labels, dimensions=1).astype(np.int32)
        if len(self._pixels) != len(self.labels):
            raise UserError(f"{images} has {len(self._pixels)} images, {labels} {len(self.labels)} labels.")
        self.class_names: list[str] = [str(i) for i in range(int(self.labels.max(initial=-1)) + 1)]
        self.names: list[str] = [f"{images.name.split('.')[0]}/{i:05d}" for i in range(len(self._pixels))]

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB."""
        return Image.fromarray(self._pixels[i]).convert("RGB")


def _find(folder: Path, stem: str) -> Path:
    found = sorted(folder.glob(f"{stem}*")) if folder.is_dir() else []
    if not found:
        raise UserError(
            f"{str(folder)!r} has no file {stem}-idx*-ubyte or .gz; give the folder of the published files."
        )
    return found[0]


def _read(path: Path, *, dimensions: int) -> np.ndarray:
    """An unsigned 8-bit array; the header tells its shape, and the file must be exactly as long."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) != 4 + 4 * dimensions:
                raise UserError(f"{path} is no idx file of {dimensions} dimensions of bytes.")
            sizes = np.frombuffer(header[4:], ">u4").tolist()
            count = math.prod(sizes)
            content = file.read(min(count, _MOST) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if len(content) != count:
        raise UserError(f"{path} is damaged: its header tells of {count} bytes, it holds others.")
    return np.frombuffer(content, np.uint8).reshape(sizes)
