"""The images of a run: those to learn from, those held out, and which of them a step sees."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import sharding
from vitjax.cli.console import say
from vitjax.config.train_config import TrainConfig
from vitjax.data import transforms
from vitjax.data.eval_loader import batches
from vitjax.data.sources.base import ClassesSource, ImageSource, RowsSource, class_places, notes_of
from vitjax.data.sources.geo import Places
from vitjax.data.sources.open import open_source
from vitjax.data.sources.spec import DataSpec
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
    data = config.data
    spec = DataSpec(
        path=data.dir, name=data.name, train=data.train, test=data.test,
        called={"path": "--config.data.dir", "train": "--config.data.train"},
    )  # fmt: skip
    learn, held_out = (open_source(data.source, spec, split) for split in ("train", "test"))
    assert learn is not None
    if held_out is not None:
        return learn, held_out
    count = round((1 - config.metric.held_out) * len(learn.class_names))
    if not 0 < count < len(learn.class_names):
        raise UserError(
            f"config.metric.held_out {config.metric.held_out} of {len(learn.class_names)} classes leaves "
            f"{count} to learn from; choose another share, or name other images with config.data.test"
        )
    kept, unseen = range(count), range(count, len(learn.class_names))
    return ClassesSource(learn, kept), ClassesSource(learn, unseen)


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
