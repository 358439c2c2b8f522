"""Evaluation on held-out images during training: accuracy, or retrieval metrics."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.config.train_config import HeadConfig, MetricConfig
from vitjax.data.eval_loader import Batches
from vitjax.data.sources.geo import Places
from vitjax.errors import UserError
from vitjax.retrieval import describe_batches, make_describe, rerank, search
from vitjax.retrieval.descriptors import NothingToDescribe
from vitjax.retrieval.metrics import positives_within, relevance_metrics
from vitjax.retrieval.metrics.relevance import KS, Truth
from vitjax.training.losses import embedding_of, rule_of
from vitjax.training.mining import FAR
from vitjax.training.output import SILENT, Output
from vitjax.training.step import make_eval_step

Stopped = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Classification:
    """Top-1 accuracy on held-out images, over all images and averaged over classes.

    Tokens are dropped as at inference.

    Attributes:
        loader: the images.
        truth: class of each.
        mesh: devices.
        step: see `make_eval_step`.
        score: the metric that selects the best model.
        output: where progress is shown.
    """

    loader: Batches
    truth: np.ndarray
    mesh: Mesh
    step: Any
    score: str = "accuracy"
    output: Output = SILENT

    @classmethod
    def make(
        cls,
        model: Any,
        loader: Batches,
        truth: np.ndarray,
        variable_shardings: Any,
        *,
        output: Output = SILENT,
    ) -> "Classification":
        """Of variables that lie as their shardings say."""
        mesh = jax.tree.leaves(variable_shardings)[0].mesh
        step = make_eval_step(model, mesh, variable_shardings)
        return cls(loader, truth, mesh, step, output=output)

    def compiled(self, variables: Any, rows: int, shape: tuple[int, ...]) -> "Classification":
        """Ready for batches of so many rows of one shape."""
        spread = NamedSharding(self.mesh, sharding.ROWS)
        batch = [
            jax.ShapeDtypeStruct((rows, *shape), kind, sharding=spread)
            for shape, kind in ((shape, np.float32), ((), np.int32), ((), np.bool_))
        ]
        return replace(self, step=self.step.lower(self._nothing(), variables, *batch).compile())

    def __call__(self, variables: Any, stopped: Stopped) -> dict[str, float] | None:
        """Returns the figures; None where it was told to stop on the way.

        Raises:
            ValueError: no image could be read.
        """
        sums = self._nothing()
        for batch in self.output.bar(
            self.loader, len(self.loader), "evaluating", total=len(self.truth), ends=False
        ):
            if stopped():
                return None
            parts = (batch.images, self.truth[batch.index], batch.valid)
            sums = self.step(sums, variables, *sharding.shard_batch(parts, self.mesh))
        found = jax.device_get(sums)
        correct, count = found["correct"], found["count"]
        if not count.any():
            raise UserError(self.loader.nothing_read("held-out images"))
        seen = count > 0
        per_class = (correct[seen] / count[seen]).mean()
        return {"accuracy": float(correct.sum() / count.sum()), "mean_class_accuracy": float(per_class)}

    def _nothing(self) -> dict[str, jax.Array]:
        zeros = np.zeros(int(self.truth.max()) + 1, np.int32)
        return sharding.replicate({"correct": zeros, "count": zeros}, self.mesh)


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How well held-out images find those of their class among the rest, pooled, and matched by patches.

    Attributes:
        loader: the images.
        truth: class of each.
        mesh: devices.
        describe: see `make_describe`.
        rule: how the first candidates are matched patch by patch.
        score: the metric that selects the best model.
    """

    loader: Batches
    truth: np.ndarray
    mesh: Mesh
    describe: Any
    rule: RerankConfig
    score: str = "precision_at_1"

    @classmethod
    def make(
        cls, model: Any, loader: Batches, truth: np.ndarray, mesh: Mesh, config: MetricConfig
    ) -> "Retrieval":
        """Embeddings are the model's classifier, where it has one."""

        def forward(variables: Any, images: jax.Array) -> Any:
            output = model.apply(variables, images)
            return output if output.logits is None else output.replace(pooled=output.logits)

        rule = RerankConfig(
            top_k=config.rerank, epsilon=config.epsilon, iterations=config.iterations, weight=1.0
        )
        return cls(loader, truth, mesh, make_describe(forward, mesh=mesh), rule)

    @classmethod
    def of_head(
        cls, model: Any, loader: Batches, truth: np.ndarray, mesh: Mesh, config: HeadConfig
    ) -> "Retrieval":
        """Of a head on descriptors that are there already: pooled search does not change."""

        def describe(variables: Any, rows: jax.Array, valid: jax.Array) -> Any:
            found, _ = model.apply(variables, rows)
            return found.replace(valid=found.valid & valid[:, None])

        whole, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, sharding.ROWS)
        describe = jax.jit(describe, in_shardings=(whole, spread, spread), out_shardings=spread)
        return cls(loader, truth, mesh, describe, rule_of(config), "reranked_precision_at_1")

    def compiled(self, variables: Any, rows: int, shape: tuple[int, ...]) -> "Retrieval":
        """Compiled at its first call: how many images are compared depends on how many could be read."""
        return self

    def __call__(self, variables: Any, stopped: Stopped) -> dict[str, float] | None:
        """Returns the figures; None where it was told to stop before."""
        if stopped():
            return None
        try:
            described, rows = describe_batches(
                self.describe, sharding.replicate(variables, self.mesh), self.loader, mesh=self.mesh
            )
        except NothingToDescribe:
            raise UserError(self.loader.nothing_read("held-out images")) from None
        own, labels = np.arange(len(rows)), self.truth[rows]
        truth = Truth.from_labels(labels, labels, own)
        largest = max(map(len, truth.positives or ()), default=0)
        depth = min(max(self.rule.top_k, largest, *KS), max(len(rows) - 1, 1))
        before = search(described, described, depth, exclude=own, mesh=self.mesh)[1]
        if stopped():
            return None
        rule = self.rule
        if rule.mass == "auto":  # the head's price
            rule = replace(rule, price=float(np.clip(variables["params"]["price"], 1e-3, 2.0)))
        after = rerank(described, described, before, config=rule, mesh=self.mesh)
        wanted = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        pooled, matched = truth.metrics(np.asarray(before)), truth.metrics(np.asarray(after.index))
        found = {name: pooled[name] for name in wanted}
        return found | {f"reranked_{name}": matched[name] for name in wanted}


@dataclass(frozen=True, eq=False)
class PlaceSearch:
    """How well held-out queries find a photo of their place, at most 25 m away, by embedding alone.

    Each city is searched on its own, as the published evaluation does.

    Attributes:
        loader: the photos, queries first.
        photos: where they were taken.
        mesh: devices.
        embed: see `make_embed`.
        score: the metric that selects the best model.
        output: where progress is shown.
    """

    loader: Batches
    photos: Places
    mesh: Mesh
    embed: Any
    score: str = "recall_at_5"
    output: Output = SILENT

    def compiled(self, variables: Any, rows: int, shape: tuple[int, ...]) -> "PlaceSearch":
        """Compiled at its first call."""
        return self

    def __call__(self, variables: Any, stopped: Stopped) -> dict[str, float] | None:
        """Returns the figures; None where it was told to stop on the way."""
        vectors, rows = embed_images(
            self.embed, variables, self.loader, self.mesh, stopped, output=self.output
        )
        if stopped():
            return None
        if not len(rows) and self.loader.skipped:
            raise UserError(self.loader.nothing_read("held-out images"))
        index, positives = [], []
        for city in np.unique(self.photos.cities):
            here = np.flatnonzero(self.photos.cities[rows] == city)
            queries, gallery = here[rows[here] < self.photos.queries], here[rows[here] >= self.photos.queries]
            if len(queries) and len(gallery):
                order = np.argsort(-(vectors[queries] @ vectors[gallery].T), axis=1, kind="stable")[
                    :, : max(KS)
                ]
                index += [np.pad(row, (0, max(KS) - len(row)), constant_values=-1) for row in order]
                places = self.photos.places[rows]
                positives += positives_within(places[queries], places[gallery], FAR)
        if not any(map(len, positives)):
            raise UserError(f"no held-out query has a photo within {FAR:.0f} m that can be read.")
        found = relevance_metrics(np.array(index), positives, ks=KS)
        return {f"recall_at_{k}": float(found[f"recall_at_{k}"]) for k in KS}


def make_embed(model: Any, mesh: Mesh, variable_shardings: Any) -> Callable[..., Any]:
    """(variables, images, index, valid) -> embeddings of length 1, and index, -1 where not valid."""

    def step(variables: Any, images: jax.Array, index: jax.Array, valid: jax.Array) -> Any:
        return embedding_of(model.apply(variables, images)), jnp.where(valid, index, -1)

    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, sharding.ROWS)
    return jax.jit(step, in_shardings=(variable_shardings, rows, rows, rows), out_shardings=whole)


def embed_images(
    embed: Any,
    variables: Any,
    loader: Batches,
    mesh: Mesh,
    stopped: Stopped,
    *,
    output: Output = SILENT,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the images that can be read, and their positions in the source; fewer if stopped."""
    found, before = [], None
    for batch in output.bar(loader, len(loader), "embedding", unit="batches", ends=False):
        if stopped():
            break
        placed = sharding.shard_batch((batch.images, batch.index, batch.valid), mesh)
        if before is not None:
            found.append(sharding.fetch(before))
        before = embed(variables, *placed)
    if before is not None:
        found.append(sharding.fetch(before))
    if not found:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int32)
    vectors, index = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(index, kind="stable")[(index < 0).sum() :]
    return vectors[order], index[order]
