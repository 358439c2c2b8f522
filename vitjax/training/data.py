"""Training images and held-out images of a run."""

import pathlib

import numpy as np

from vitjax import sharding
from vitjax.config.train_config import TrainConfig
from vitjax.data import transforms
from vitjax.data.augment import Augment
from vitjax.data.sources.base import ClassesSource, FolderSource, ImageSource, class_numbers, notes_of
from vitjax.data.sources.geo import Places
from vitjax.data.sources.open import open_source
from vitjax.data.sources.spec import DataSpec
from vitjax.data.sources.split import draw_split, read_split, write_split
from vitjax.data.sources.views import Views
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.training.mining import FAR

SPLIT = "split.json"


def model_input(config: TrainConfig) -> Preprocess:
    """How images become input for the model that is trained."""
    model, data = config.model, config.data
    return transforms.model_input(
        model.weights,
        model.name,
        img_size=model.img_size,
        resize=data.resize,
        interpolation=data.interpolation,
    )


def open_sources(config: TrainConfig, out: pathlib.Path | None = None) -> tuple[ImageSource, ImageSource]:
    """Training images and held-out images; `notes_of` says what is left out of them.

    Args:
        config: of the run.
        out: the run's folder, where a split of a folder is kept, and read again by the next start.
    """
    data = config.data
    spec = DataSpec(
        path=data.dir, name=data.name, train=data.train, test=data.test, split_file=_split_file(config, out),
        fields={"path": "data.dir", "train": "data.train"},
    )  # fmt: skip
    learn, held_out = (open_source(data.source, spec, split) for split in ("train", "test"))
    assert learn is not None
    if config.task == "rerank" and config.head.views:
        augment = Augment(model_input(config), config.augment)
        learn = Views(learn, config.head.views, augment, config.seed)
    if held_out is not None:
        return learn, held_out
    count = round((1 - config.metric.held_out) * len(learn.class_names))
    if not 0 < count < len(learn.class_names):
        raise UserError(
            f"a hold-out of {config.metric.held_out} of {len(learn.class_names)} classes leaves {count} to "
            "learn from; choose another share, or name held-out images",
            fields=("metric.held_out", "data.test"),
        )
    kept, unseen = range(count), range(count, len(learn.class_names))
    return ClassesSource(learn, kept), ClassesSource(learn, unseen)


def _split_file(config: TrainConfig, out: pathlib.Path | None) -> str:
    """The file that says which images are learned from, drawn and written where it is the first start."""
    data, kept = config.data, None if out is None else out / SPLIT
    if kept is None or not (data.per_class or data.split_file):
        return data.split_file
    if not kept.exists() and sharding.is_main_process():
        if data.split_file:
            split = read_split(data.split_file)
        else:
            whole = FolderSource(data.train, loose=False)
            split = draw_split(whole, data.per_class, data.test_per_class, config.seed)
        write_split(kept, split)
    sharding.wait_for_all("split")
    return str(kept)


def left_out(config: TrainConfig, learn: ImageSource, held_out: ImageSource) -> list[str]:
    """Lines about images that are left out, and held-out queries that no figure counts."""
    found = notes_of(learn, held_out)
    if isinstance(held_out, Places):
        count, what = held_out.queries, f"held-out queries have no photo within {FAR:.0f} m"
        alone = sum(not len(held_out.near(i, FAR)) for i in range(count))
    elif config.task != "classify":
        labels = np.asarray(held_out.labels)
        count, what = len(labels), "held-out images are alone in their class"
        alone = int((np.unique(labels, return_counts=True)[1] == 1).sum()) if held_out.class_names else 0
    else:
        return found
    return [*found, f"{alone} of {count} {what} and are not counted"] if alone else found


def labels_like(held_out: ImageSource, learn: ImageSource) -> np.ndarray:
    """Class of each held-out image, in the numbering of those that are learned from."""
    if not held_out.class_names:
        raise UserError("held-out images need classes: put them into one sub-folder for each")
    number = class_numbers(learn.class_names, "classes that are learned")
    names = list(class_numbers(held_out.class_names, "held-out classes"))
    unknown = [name for name in names if name not in number]
    if unknown:
        raise UserError(
            f"held-out class {unknown[0]!r} and {len(unknown) - 1} more are not among the learned"
        )
    return np.array([number[name] for name in names], np.int32)[held_out.labels]


def labels_to_find(held_out: ImageSource) -> np.ndarray:
    """Class of each held-out image, of which some have another of their class."""
    labels = np.asarray(held_out.labels)
    if not held_out.class_names or np.unique(labels, return_counts=True)[1].max() < 2:
        raise UserError(
            "no two held-out images are of one class, so there is nothing to find: put two or more into "
            "each sub-folder"
        )
    return labels
