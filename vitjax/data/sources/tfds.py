"""Datasets of TensorFlow Datasets by name, without TensorFlow, where they were prepared as array_record."""

import contextlib
import functools
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitjax.data.images import read_image
from vitjax.errors import UserError
from vitjax.system import disk_cache
from vitjax.system.files import expanded


class TfdsSource:
    """Images of a prepared dataset; they are decoded by our own reader, within its limits.

    Labels are read one by one with the images; where all are asked for at once, every record is read, once:
    they are kept in the cache folder, for these very files.

    Nothing of a dataset's folder is run: TFDS imports the modules that features.json names, so features of
    classes that are not its own are refused.

    Args:
        name: as TFDS has it: "imagenet2012", "cars196:2.1.0", ...
        split: "train", "validation", "train[:10%]", ...
        data_dir: folder of prepared datasets; "" = TFDS's own.

    Raises:
        ValueError: the extra is not installed, the dataset is not there in a form without TensorFlow, or
            its folder names classes that are not of TFDS.
    """

    def __init__(self, name: str, split: str, data_dir: str = "") -> None:
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise UserError(
                "TFDS names need its package: pip install tensorflow-datasets importlib-resources "
                "(in a checkout: pip install -e '.[tfds]')."
            ) from None
        if re.match(r"\w+:[^\d*]", name):
            raise UserError(
                f"TFDS dataset {name!r} is of a namespace, whose code would be fetched and run; prepare it "
                "with file_format='array_record' and give its own name."
            )
        data_dir = expanded(data_dir)
        try:
            with own_features_only(tfds):
                builder: Any = tfds.builder(name, data_dir=data_dir or None)
            decoders: Any = {"image": tfds.decode.SkipDecoding()}
            self._records: Any = builder.as_data_source(split, decoders=decoders)
        except ForeignFeature as error:
            raise UserError(
                f"TFDS dataset {name!r} in {data_dir or 'its own folder'!r} {error}, which would be imported "
                "and run; only features of tensorflow_datasets are read: prepare the dataset with those."
            ) from None
        except Exception as error:  # noqa: BLE001  (TFDS raises many kinds for what is not there)
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"TFDS dataset {name!r}, split {split!r}, in {data_dir or 'its own folder'!r} cannot be read "
                f"({reason}); prepare it with file_format='array_record' and give its data_dir."
            ) from None
        features = builder.info.features or {}
        if "image" not in features or "label" not in features:
            raise UserError(f"TFDS dataset {name!r} has no features 'image' and 'label'.")
        self.class_names: list[str] = list(features["label"].names)
        self.names: list[str] = [f"{split}/{i:07d}" for i in range(len(self._records))]
        self._folder, self._split = Path(os.fspath(builder.data_path)), split
        self._last: dict[int, tuple[int, dict]] = {}

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Class of every image."""
        key = hashlib.sha256(f"{self._folder.resolve()}\0{self._split}".encode()).hexdigest()[:32]
        try:
            path = disk_cache.cache_dir() / "tfds-labels" / f"{key}.npz"
            made_of = _state(self._folder)
        except ValueError:  # there is no cache
            path, made_of = key, ""
        kept = disk_cache.load(path, made_of) if made_of else None
        if kept is not None and kept.shape == (len(self),):
            return kept
        found = np.array([record["label"] for record in self._records], np.int32)
        if made_of:
            with contextlib.suppress(OSError):  # the next run reads them again, and they are as right
                disk_cache.save(path, made_of, found)
        return found

    def label(self, i: int) -> int:
        """Class of image i, without reading all."""
        return int(self._record(i)["label"])

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB; raises ImageError where it cannot be read."""
        return read_image(bytes(self._record(i)["image"]))

    def _record(self, i: int) -> dict:
        """Record i; the last one of each thread is kept, as its label follows its image."""
        thread = threading.get_ident()
        last, record = self._last.get(thread, (-1, {}))
        if last != i:
            record = self._records[i]
            self._last[thread] = (i, record)
        return record


class ForeignFeature(UserError):
    """A feature whose class is not one of TFDS."""


@contextlib.contextmanager
def own_features_only(tfds: Any) -> Iterator[None]:
    """Within it TFDS makes features of its own classes only, instead of importing whatever a folder names.

    The names stand in features.json or dataset_info.json, nested, in either of two spellings, and in JSON
    inside of JSON. So they are checked where TFDS looks up the class, before it imports the module.

    Args:
        tfds: the package.

    Raises:
        ForeignFeature: another class is named.
    """
    connector, foreign = tfds.features.FeatureConnector, []
    found = vars(connector)["cls_from_name"]

    def checked(cls: Any, name: str) -> Any:
        if not re.fullmatch(r"tensorflow_datasets(\.[A-Za-z_]\w*)+", name):
            foreign.append(ForeignFeature(f"names a feature of the class {name[:80]!r}"))
            raise foreign[-1]
        return found.__func__(cls, name)

    connector.cls_from_name = classmethod(checked)
    try:
        yield
    except Exception:
        if foreign:  # TFDS may have wrapped it
            raise foreign[0] from None
        raise
    finally:
        connector.cls_from_name = found


def _state(folder: Path) -> str:
    """Key of a prepared dataset's files: what they say of it, and when each was written; "" for remote ones.

    Times of change of the file system are among them: those of writing survive a copy, and records of
    different labels may have one length.
    """
    if not folder.is_dir():
        return ""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        status = path.stat()
        whole.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n".encode())
        if path.suffix == ".json":
            whole.update(path.read_bytes())
    return whole.hexdigest()
