"""Datasets of TensorFlow Datasets by name, without TensorFlow, where they were prepared as array_record."""

import functools
import hashlib
import threading
from typing import Any

import numpy as np
from PIL import Image

from vitjax.data.images import read_image
from vitjax.weights import cache_dir


class TfdsSource:
    """Pictures of a prepared dataset; they are decoded by our own reader, within its limits.

    Labels are read one by one with the pictures; where all are asked for at once, every record is read, once:
    they are kept in the cache folder.

    Args:
        name: as TFDS has it: "imagenet2012", "cars196:2.1.0", ...
        split: "train", "validation", "train[:10%]", ...
        data_dir: folder of prepared datasets; "" = TFDS's own.

    Raises:
        ValueError: the extra is not installed, or the dataset is not there in a form without TensorFlow.
    """

    def __init__(self, name: str, split: str, data_dir: str = "") -> None:
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise ValueError(
                "TFDS names need its package: pip install tensorflow-datasets importlib-resources "
                "(in a checkout: pip install -e '.[tfds]')."
            ) from None
        try:
            builder: Any = tfds.builder(name, data_dir=data_dir or None)
            decoders: Any = {"image": tfds.decode.SkipDecoding()}
            self._records: Any = builder.as_data_source(split, decoders=decoders)
        except Exception as error:  # noqa: BLE001  (TFDS raises many kinds for what is not there)
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"TFDS dataset {name!r}, split {split!r}, in {data_dir or 'its own folder'!r} cannot be read "
                f"({reason}); prepare it with file_format='array_record' and set config.data.dir."
            ) from None
        features = builder.info.features or {}
        if "image" not in features or "label" not in features:
            raise ValueError(f"TFDS dataset {name!r} has no features 'image' and 'label'.")
        self.class_names: list[str] = list(features["label"].names)
        self.names = [f"{split}/{i:07d}" for i in range(len(self._records))]
        self._key = hashlib.sha256(f"{builder.data_path}\0{split}".encode()).hexdigest()[:32]
        self._last: dict[int, tuple[int, dict]] = {}

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Class of every picture."""
        path = cache_dir() / "tfds-labels" / f"{self._key}.npy"
        if path.is_file():
            kept = np.load(path, allow_pickle=False)
            if len(kept) == len(self):
                return kept
        found = np.array([record["label"] for record in self._records], np.int32)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
        return found

    def label(self, i: int) -> int:
        """Class of picture i, without reading all."""
        return int(self._record(i)["label"])

    def read(self, i: int) -> Image.Image:
        """Picture i as 8-bit RGB; raises ImageError where it cannot be read."""
        return read_image(bytes(self._record(i)["image"]))

    def _record(self, i: int) -> dict:
        """Record i; the last one of each thread is kept, as its label follows its picture."""
        thread = threading.get_ident()
        place, record = self._last.get(thread, (-1, {}))
        if place != i:
            record = self._records[i]
            self._last[thread] = (i, record)
        return record
