"""The images of a run: those to learn from, those held out, and which of them a step sees."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import sharding
from vitjax.cli.console import say
from vitjax.config.train_config import TrainConfig
from vitjax.data import transforms
from vitjax.data.eval_loader import batches
from vitjax.data.sources.base import (
    ClassesSource,
    FolderSource,
    ImageSource,
    RowsSource,
    class_places,
    notes_of,
)
from vitjax.data.sources.cifar import CifarSource
from vitjax.data.sources.digits import DigitsSource
from vitjax.data.sources.geo import Places
from vitjax.data.sources.mnist import IdxSource
from vitjax.data.sources.msls import SIDES, VALIDATION, all_cities, read_msls
from vitjax.data.sources.tfds import TfdsSource
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.training.evaluation import embed_images
from vitjax.training.mining import FAR, Mining


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


def open_sources(config: TrainConfig) -> tuple[ImageSource, ImageSource]:
    """Images to learn from, and those held out; `notes_of` says what is left out of them."""
    if config.data.source == "digits":
        return DigitsSource("train"), DigitsSource("test")
    if config.data.source == "tfds":
        split: Any = functools.partial(TfdsSource, config.data.name, data_dir=config.data.dir)
        return split(config.data.train), split(config.data.test)
    if config.data.source in ("idx", "cifar"):
        kind = IdxSource if config.data.source == "idx" else CifarSource
        return kind(config.data.dir, "train"), kind(config.data.dir, "test")
    if config.data.source == "msls":
        return open_places(config)
    learn = FolderSource(config.data.train, loose=False)
    if config.data.test:
        return learn, FolderSource(config.data.test, loose=False)
    count = round((1 - config.metric.held_out) * len(learn.class_names))
    if not 0 < count < len(learn.class_names):
        raise UserError(
            f"config.metric.held_out {config.metric.held_out} of {len(learn.class_names)} classes leaves "
            f"{count} to learn from; choose another share, or name other images with config.data.test"
        )
    kept, unseen = range(count), range(count, len(learn.class_names))
    return ClassesSource(learn, kept), ClassesSource(learn, unseen)


def open_places(config: TrainConfig) -> tuple[Places, Places]:
    """Queries of cities of MSLS and the photos they are looked for among, to learn from and held out."""
    held_out = config.data.test.split(",") if config.data.test else VALIDATION
    cities = config.data.train.split(",") if config.data.train else all_cities(config.data.dir)

    def some(cities: Sequence[str], subtask: str) -> Places:
        return Places(*(read_msls(config.data.dir, side, cities=cities, subtask=subtask) for side in SIDES))

    return some([city for city in cities if city not in held_out], ""), some(held_out, "all")


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
    number = class_places(learn.class_names, "classes that are learned")
    names = list(class_places(held_out.class_names, "held-out classes"))
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


def mine(config: TrainConfig, learn: Places, out: pathlib.Path) -> Mining:
    """What chooses queries, photos of their places and hard negatives."""
    wanted = config.distill
    return Mining(
        learn, config.batch_size, wanted.negatives, wanted.mine_every, wanted.pool, config.seed,
        folder=out / "mined", writes=sharding.is_main_process(),
    )  # fmt: skip


def renewal(
    config: TrainConfig,
    mining: Mining,
    embed: Any,
    recipe: Preprocess,
    mesh: Mesh,
) -> Callable[[int, Any, Callable[[], bool]], None]:
    """(step, variables, whether to stop) -> nothing; `mining` chooses anew where that is due."""
    data, shard = config.data, (jax.process_index(), jax.process_count())

    def renew(step: int, variables: Any, stopped: Callable[[], bool]) -> None:
        def embedded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
            say(f"step {step}: looking at {len(rows)} photos for what is mistaken for what")
            photos = batches(
                RowsSource(mining.photos, rows), recipe, config.batch_size,
                workers=data.workers, on_bad_image=data.on_bad_image, shard=shard,
            )  # fmt: skip
            vectors, index = embed_images(embed, variables, photos, mesh, stopped)
            return None if stopped() else (vectors, rows[index])

        mining.renew(step, embedded)

    return renew
