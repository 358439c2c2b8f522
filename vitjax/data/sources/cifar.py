"""CIFAR-10 and CIFAR-100 in their plain binary form; the pickled form is never read: it can hold programs."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from vitjax.data.sources.base import class_numbers
from vitjax.errors import UserError
from vitjax.system.files import expanded, read_text

_PIXELS = 3 * 32 * 32
_FILES = {
    # number of label bytes, class names, files by split
    10: (
        1,
        "batches.meta.txt",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    ),
    100: (2, "fine_label_names.txt", {"train": ["train.bin"], "test": ["test.bin"]}),
}


class CifarSource:
    """60,000 images of 32 x 32 pixels in 10 or 100 classes, from the files of the "binary version".

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images. Of CIFAR-100 the fine
    labels count.

    Args:
        path: folder with data_batch_1.bin or train.bin.
        split: "train" or "test".

    Raises:
        ValueError: files that are missing or of the wrong length, or a class name that comes twice.
    """

    def __init__(self, path: str | os.PathLike[str], split: str) -> None:
        folder = Path(expanded(path))
        classes = 10 if (folder / "test_batch.bin").exists() else 100
        label_bytes, names, files = _FILES[classes]
        records = np.concatenate([_read(folder / name, label_bytes + _PIXELS) for name in files[split]])
        self._pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32)
        self.labels: np.ndarray | None = records[:, label_bytes - 1].astype(np.int32)
        if self.labels.max() >= classes:
            raise UserError(f"{folder} holds a label {self.labels.max()}; expected 0 to {classes - 1}.")
        self.class_names: list[str] = _names(folder / names, classes)
        self.names: list[str] = [f"{split}/{i:05d}" for i in range(len(self._pixels))]

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB."""
        return Image.fromarray(np.ascontiguousarray(self._pixels[i].transpose(1, 2, 0)))


def _read(path: Path, length: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the folder of CIFAR's binary version (files *.bin).")
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % length:
        raise UserError(f"{path} has {len(content)} bytes, no multiple of {length}: it is damaged.")
    return content.reshape(-1, length)


def _names(path: Path, classes: int) -> list[str]:
    """Class names of the file beside the images; numbers where it is not there, or has not one for each."""
    lines = [x.strip() for x in read_text(path).splitlines() if x.strip()] if path.is_file() else []
    class_numbers(lines, str(path))
    return lines if len(lines) == classes else [f"{i:03d}" for i in range(classes)]
