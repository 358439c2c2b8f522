"""TASKS: classification, metric learning, distillation and reranking, each one entry of a dictionary."""

import dataclasses
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import sharding
from vitjax.config.train_config import TrainConfig
from vitjax.data.eval_loader import Batches, batches
from vitjax.data.sources.base import ImageSource, RowsSource
from vitjax.data.sources.geo import Places
from vitjax.data.transforms import Preprocess
from vitjax.training.data import labels_like, labels_to_find
from vitjax.training.evaluation import Classification, PlaceSearch, Retrieval, embed_images, make_embed
from vitjax.training.init_state import embedding_width, open_teacher, with_metric
from vitjax.training.losses import Loss, make_distill_loss, make_loss, make_metric_loss, make_rerank_loss
from vitjax.training.mining import Mining
from vitjax.training.output import SILENT, Output
from vitjax.training.state import State

Evaluation = Classification | Retrieval | PlaceSearch
# Before a step, of its number, variables and whether to stop: chooses the images of the steps to come.
Renew = Callable[[int, Any, Callable[[], bool]], None]


@dataclass(frozen=True, eq=False)
class Parts:
    """What every task is made from.

    Attributes:
        config: of the run.
        recipe: how images become input of the model.
        learn: training images.
        held_out: images to evaluate on.
        loader: batches of these.
        model: that is trained.
        mesh: devices.
        output: where lines go.
    """

    config: TrainConfig
    recipe: Preprocess
    learn: ImageSource
    held_out: ImageSource
    loader: Batches
    model: Any
    mesh: Mesh
    output: Output = SILENT


@dataclass(frozen=True, eq=False)
class Objective:
    """The objective: a loss and its variables.

    Attributes:
        loss: see `vitjax.training.losses`.
        variables: of the model, with what the loss learns beside it.
        teacher: variables of the teacher; {} = none.
    """

    loss: Loss
    variables: dict[str, Any]
    teacher: Any = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        objective: (parts, variables, variables of a dense teacher) -> what steps minimise.
        evaluation: (parts, shardings of the state) -> evaluation on held-out images.
        embeds: the model's last layer gives an embedding, of `metric.embed_dim` numbers, that learns at the
            full rate from the start, on batches of some images of each class; False: scores of classes.
        sampler: (config, images, the run's folder) -> what chooses the images of every batch; None: each
            comes once an epoch, or some of each class, see `Feed`.
    """

    objective: Callable[[Parts, dict[str, Any], Any], Objective]
    evaluation: Callable[[Parts, State], Evaluation]
    embeds: bool = True
    sampler: Callable[[TrainConfig, Any, pathlib.Path], Mining] | None = None

    def outputs(self, config: TrainConfig, classes: int) -> int:
        """Numbers of the model's last layer; 0 = it has none."""
        return config.metric.embed_dim if self.embeds else classes

    def per_class(self, config: TrainConfig) -> int:
        """Images of each class in a batch; 0 = whatever comes."""
        return config.metric.per_class if self.embeds and self.sampler is None else 0

    @property
    def new(self) -> tuple[str, ...]:
        """Modules that learn at the full rate from the start, by the start of their name."""
        return ("head",) if self.embeds else ()


def _classes(parts: Parts, variables: dict[str, Any], teacher: Any) -> Objective:
    return Objective(make_loss(parts.model, parts.config.sparsify), variables, teacher)


def _embedding(parts: Parts, variables: dict[str, Any], teacher: Any) -> Objective:
    variables = with_metric(parts.config, parts.model, variables, parts.recipe, len(parts.learn.class_names))
    return Objective(make_metric_loss(parts.model, parts.config.metric), variables, teacher)


def _teachers_embedding(parts: Parts, variables: dict[str, Any], _: Any) -> Objective:
    width = embedding_width(parts.model, variables, parts.recipe)
    model, teacher, renormalise = open_teacher(parts.config, parts.recipe, len(parts.learn), width)
    loss = make_distill_loss(parts.model, model, renormalise, parts.config.distill)
    return Objective(loss, variables, teacher)


def _token_weights(parts: Parts, variables: dict[str, Any], _: Any) -> Objective:
    return Objective(make_rerank_loss(parts.model, parts.config.head), variables)


def _accuracy(parts: Parts, placed: State) -> Classification:
    truth = labels_like(parts.held_out, parts.learn)
    return Classification.make(parts.model, parts.loader, truth, placed.evaluated, output=parts.output)


def _retrieval(parts: Parts, placed: State) -> Retrieval:
    truth = labels_to_find(parts.held_out)
    return Retrieval.make(parts.model, parts.loader, truth, parts.mesh, parts.config.metric)


def _reranking(parts: Parts, placed: State) -> Retrieval:
    truth = labels_to_find(parts.held_out)
    return Retrieval.of_head(parts.model, parts.loader, truth, parts.mesh, parts.config.head)


def _place_search(parts: Parts, placed: State) -> PlaceSearch:
    assert isinstance(parts.held_out, Places)
    embed = make_embed(parts.model, parts.mesh, placed.evaluated)
    return PlaceSearch(parts.loader, parts.held_out, parts.mesh, embed, output=parts.output)


def _mining(config: TrainConfig, learn: Places, out: pathlib.Path) -> Mining:
    wanted = config.distill
    return Mining(
        learn, config.batch_size, wanted.negatives, wanted.mine_every, wanted.pool, config.seed,
        folder=out / "mined", writes=sharding.is_main_process(),
    )  # fmt: skip


TASKS = {
    "classify": Task(_classes, _accuracy, embeds=False),
    "metric": Task(_embedding, _retrieval),
    "distill": Task(_teachers_embedding, _retrieval),
    "rerank": Task(_token_weights, _reranking),
}


def task_of(config: TrainConfig, learn: ImageSource) -> Task:
    """The task of a config; images that know where they were taken are learned with hard negatives."""
    task = TASKS[config.task]
    if isinstance(learn, Places):
        return dataclasses.replace(task, evaluation=_place_search, sampler=_mining)
    return task


def renewal(parts: Parts, mining: Mining, embed: Any) -> Renew:
    """(step, variables, whether to stop) -> nothing; `mining` chooses anew where that is due."""
    config, shard = parts.config, (jax.process_index(), jax.process_count())

    def renew(step: int, variables: Any, stopped: Callable[[], bool]) -> None:
        def embedded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
            parts.output.say(f"step {step}: mining hard negatives among {len(rows)} images")
            photos = batches(
                RowsSource(mining.photos, rows), parts.recipe, config.batch_size,
                workers=config.data.workers, on_bad_image=config.data.on_bad_image, shard=shard,
            )  # fmt: skip
            vectors, index = embed_images(embed, variables, photos, parts.mesh, stopped, output=parts.output)
            return None if stopped() else (vectors, rows[index])

        mining.renew(step, embedded)

    return renew
