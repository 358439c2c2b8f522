r"""Raw downloads written once as datasets of TFDS, without TensorFlow.

python -m vitjax.data.prepare cub --raw DIR --out DIR

then `--config.data.source=tfds --config.data.name=vitjax/cub --config.data.images=OUT` for eval.py,
`--config.data.dir=OUT` for train.py, or `tfds.data_source("vitjax/cub", data_dir=OUT)`. Names: cub, cars, sop
(splits train and test, those of zero-shot retrieval), msls (query and database of the validation cities,
train_query and train_database of the others that are there), folder (sub-folders are classes; or folders
train, test, validation of such). Image files are copied byte for byte, in the order of the raw download; the
files are array_record. Needs the extra: pip install -e '.[tfds]'.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitjax.data.sources.base import FolderSource, notes_of
from vitjax.data.sources.cub_cars_sop import Listing, read_cars, read_cub, read_cub_parts, read_sop
from vitjax.data.sources.msls import VALIDATION, PlaceSource, all_cities, read_msls
from vitjax.data.sources.tfds import own_features_only
from vitjax.errors import UserError
from vitjax.system.files import expanded, read_json
from vitjax.system.terminal import clean, protect

NAMES = ("cub", "cars", "sop", "msls", "folder")
_VERSION = "1.0.0"
_SPLITS = ("train", "test", "validation", "val")


@dataclass(frozen=True, eq=False)
class Columns:
    """One split: a file for each image, and what is known of it.

    Attributes:
        files: of the images.
        names: relative paths, as the download has them.
        labels: positions in the dataset's class names.
        more: name -> a value for each image: arrays, or lists of text.
    """

    files: list[Path]
    names: list[str]
    labels: np.ndarray
    more: Mapping[str, Any]


def prepare(
    name: str, raw: str, out: str, *, dataset: str = "", say: Callable[[str], None] = lambda line: None
) -> Path:
    """Writes a dataset; one that is there already, of the same files and labels, is left as it is.

    Args:
        name: of `NAMES`.
        raw: folder of the download.
        out: folder that datasets are kept in, TFDS's `data_dir`.
        dataset: it will be called vitjax/DATASET; empty = `name`.
        say: told each line about what is left out, as images beside the sub-folders of classes are.

    Returns:
        The dataset's own folder.

    Raises:
        ValueError: the extra is not installed, the download is not as it is published, an image that it lists
            is missing, or a dataset of other images or labels is there; one line says which.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            "this needs the package of TFDS: pip install tensorflow-datasets importlib-resources "
            "(in a checkout: pip install -e '.[tfds]')."
        ) from None
    raw, out, dataset = expanded(raw), expanded(out), dataset or name
    if name not in NAMES or not re.fullmatch(r"\w[\w-]*", dataset):
        raise UserError(
            f"{name!r} as vitjax/{dataset!r}: names are {', '.join(NAMES)}, and letters after vitjax/"
        )
    if not Path(raw).is_dir():
        raise UserError(f"{raw!r} is not a folder; give the unpacked download")
    classes, splits = _read(name, Path(raw), say)
    for columns in splits.values():
        missing = next((file for file in columns.files if not file.is_file()), None)
        if missing is not None:
            raise UserError(f"{str(missing)!r} is listed, and is not there; is the download whole?")
    with own_features_only(tfds):  # a dataset that is there already is read
        made_of = _fingerprint(classes, splits)
        builder = _builder(tfds, dataset, out, classes, splits, made_of)
        folder = Path(builder.data_path)
        if folder.is_dir() and _made_of(folder) not in ("", made_of):
            raise UserError(
                f"{folder} was prepared from other files, labels or classes than {raw!r} holds now; "
                "remove it, or give another --dataset"
            )
        builder.download_and_prepare()
    return folder


def _fingerprint(classes: list[str], splits: Mapping[str, Columns]) -> str:
    """Hash of everything that decides a dataset; of image files their sizes and times of change."""
    whole = hashlib.sha256(repr(classes).encode(errors="surrogatepass"))
    for split, columns in splits.items():
        states = ((file.stat().st_size, file.stat().st_mtime_ns) for file in columns.files)
        for row in zip(columns.names, columns.labels.tolist(), states, strict=True):
            whole.update(repr((split, *row)).encode(errors="surrogatepass"))
        for key, values in columns.more.items():
            text = repr(values) if isinstance(values, list) else values.tobytes().hex()
            whole.update(f"{split} {key} {text}".encode())
    return whole.hexdigest()


def _made_of(folder: Path) -> str:
    """The fingerprint that a dataset was written with; "" where it says none, as older ones do."""
    path = folder / "metadata.json"
    found = read_json(path) if path.is_file() else {}
    return str(found.get("made_of", "")) if isinstance(found, dict) else ""


def _read(name: str, raw: Path, say: Callable[[str], None]) -> tuple[list[str], dict[str, Columns]]:
    """Class names, and the splits that hold an image."""
    if name == "folder":
        return _folders(raw, say)
    if name == "msls":
        return _places(raw)
    listing = {"cub": read_cub, "cars": read_cars, "sop": read_sop}[name](raw)
    more = {} if listing.boxes is None else {"box": listing.boxes}
    if name == "cub":
        more["parts"] = read_cub_parts(raw)[1]
    halves = {"train": _half(listing, more, test=False), "test": _half(listing, more, test=True)}
    return listing.class_names, {split: columns for split, columns in halves.items() if columns.files}


def _half(listing: Listing, more: Mapping[str, np.ndarray], *, test: bool) -> Columns:
    rows = np.flatnonzero(listing.test == test)
    names = [listing.files[i] for i in rows]
    files = [listing.root / name for name in names]
    return Columns(files, names, listing.labels[rows], {key: values[rows] for key, values in more.items()})


def _places(raw: Path) -> tuple[list[str], dict[str, Columns]]:
    cities = all_cities(raw)
    validation = [city for city in VALIDATION if city in cities]
    others = [city for city in cities if city not in validation]
    classes, found = [*validation, *others], {}
    for prefix, part, subtask in (("", validation, "all"), ("train_", others, "")):
        for side in ("query", "database") if part else ():
            source = read_msls(raw, side, cities=part, subtask=subtask)
            found[prefix + side] = _photos(source, len(validation) if prefix else 0)
    if not found:
        raise UserError(
            f"{str(raw)!r} holds no train_val/CITY/query/postprocessed.csv; give the unpacked download"
        )
    return classes, found


def _photos(source: PlaceSource, first: int) -> Columns:
    more = {
        # Records hold float32, which would round a northing to half a metre: so text, every digit of it.
        "easting": [repr(float(x)) for x in source.places[:, 0]],
        "northing": [repr(float(x)) for x in source.places[:, 1]],
        "angle": source.angles.astype(np.float32),
        "night": source.night,
    }
    files = [source.path(i) for i in range(len(source))]
    return Columns(files, source.names, source.cities + first, more)


def _folders(raw: Path, say: Callable[[str], None]) -> tuple[list[str], dict[str, Columns]]:
    inside = sorted(path.name for path in raw.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = {name: raw / name for name in inside} if set(inside) <= set(_SPLITS) else {"train": raw}
    parts = parts or {"train": raw}
    sources = {split: FolderSource(folder, loose=False) for split, folder in parts.items()}
    for line in notes_of(*sources.values()):
        say(line)
    classes = sorted({name for source in sources.values() for name in source.class_names})
    found = {}
    for split, source in sources.items():
        if source.labels is None:
            raise UserError(f"{str(source.root)!r} has no sub-folders, which would be classes; make some")
        number = np.array([classes.index(name) for name in source.class_names], np.int32)
        files = [source.path(i) for i in range(len(source))]
        found[split] = Columns(files, source.names, number[source.labels], {})
    return classes, found


def _builder(
    tfds: Any, dataset: str, out: str, classes: list[str], splits: Mapping[str, Columns], made_of: str
) -> Any:
    """A TFDS builder of these splits, for this process only: the files are read without its code."""

    def features() -> Any:
        more = next(iter(splits.values())).more
        kinds = {key: _feature(tfds, values) for key, values in more.items()}
        label, text = tfds.features.ClassLabel(names=classes), tfds.features.Text()
        return tfds.features.FeaturesDict(
            {"image": tfds.features.Image(), "label": label, "file": text, **kinds}
        )

    def examples(columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (file, name, label) in enumerate(
            zip(columns.files, columns.names, columns.labels, strict=True)
        ):
            more = {key: values[i] for key, values in columns.more.items()}
            yield i, {"image": str(file), "label": int(label), "file": name, **more}

    with tfds.core.registered.skip_registration():

        class Vitjax(tfds.core.GeneratorBasedBuilder):
            """Images of a raw download."""

            VERSION = tfds.core.Version(_VERSION)
            name = "vitjax"

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=features(),
                    disable_shuffling=True,
                    metadata=tfds.core.MetadataDict(made_of=made_of),
                )

            def _split_generators(self, dl_manager: Any) -> Any:
                return {split: examples(columns) for split, columns in splits.items()}

            def _generate_examples(self) -> Any:
                raise NotImplementedError("the splits are made above; TFDS only asks that this is here")

    config = tfds.core.BuilderConfig(name=dataset, description="Written by vitjax.data.prepare.")
    return Vitjax(data_dir=out, config=config, file_format="array_record")


def _feature(tfds: Any, values: Any) -> Any:
    if isinstance(values, list):
        return tfds.features.Text()
    return tfds.features.Tensor(shape=values.shape[1:], dtype=values.dtype.type)


def _warn(line: str) -> None:
    print(clean(f"note: {line}"), file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser("python -m vitjax.data.prepare", description="Raw download -> TFDS.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--raw", required=True, help="folder of the unpacked download")
    parser.add_argument("--out", required=True, help="folder that datasets are kept in (TFDS: data_dir)")
    parser.add_argument("--dataset", default="", help="it will be called vitjax/DATASET; default: NAME")
    asked = parser.parse_args(arguments)
    try:
        folder = prepare(asked.name, asked.raw, asked.out, dataset=asked.dataset, say=_warn)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {clean(' '.join(str(error).split()))}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    protect()
    sys.exit(main())
