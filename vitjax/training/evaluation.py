"""What is measured on held-out pictures while a model learns: right classes, or right neighbours."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vitjax import parallel
from vitjax.config import RerankConfig
from vitjax.data.pipeline import Batches
from vitjax.retrieval import describe_batches, make_describe, rerank, search
from vitjax.retrieval.truth import KS, Truth
from vitjax.training.config import MetricConfig
from vitjax.training.step import make_eval_step

Stopped = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Classification:
    """Share of held-out pictures whose class a model says rightly, tokens dropped for real.

    Attributes:
        loader: the pictures.
        truth: class of each.
        mesh: devices.
        step: see `make_eval_step`.
        score: which of the figures tells the best model.
    """

    loader: Batches
    truth: np.ndarray
    mesh: Mesh
    step: Any
    score: str = "accuracy"

    @classmethod
    def make(cls, model: Any, loader: Batches, truth: np.ndarray, mesh: Mesh, places: Any) -> Self:
        """Of variables that lie in `places`."""
        return cls(loader, truth, mesh, make_eval_step(model, mesh, places))

    def compiled(self, variables: Any, rows: int, side: int) -> Self:
        """Ready for batches of so many rows, of square pictures."""
        spread = NamedSharding(self.mesh, parallel.ROWS)
        batch = [
            jax.ShapeDtypeStruct((rows, *shape), kind, sharding=spread)
            for shape, kind in (((side, side, 3), np.float32), ((), np.int32), ((), np.bool_))
        ]
        return replace(self, step=self.step.lower(self._nothing(), variables, *batch).compile())

    def __call__(self, variables: Any, stopped: Stopped) -> dict[str, float] | None:
        """Returns the figures; None where it was told to stop on the way.

        Raises:
            ValueError: no picture could be read.
        """
        sums = self._nothing()
        for batch in self.loader:
            if stopped():
                return None
            parts = (batch.images, self.truth[batch.index], batch.valid)
            sums = self.step(sums, variables, *parallel.shard_batch(parts, self.mesh))
        found = jax.device_get(sums)
        if not found["count"]:
            raise ValueError("none of the held-out pictures could be read.")
        return {"accuracy": float(found["right"] / found["count"])}

    def _nothing(self) -> dict[str, jax.Array]:
        return parallel.replicate({"right": np.int32(0), "count": np.int32(0)}, self.mesh)


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How well held-out pictures find those of their class among the rest, pooled, and matched by patches.

    Attributes:
        loader: the pictures.
        truth: class of each.
        mesh: devices.
        describe: see `make_describe`.
        rule: how the first candidates are matched patch by patch.
        score: which of the figures tells the best model.
    """

    loader: Batches
    truth: np.ndarray
    mesh: Mesh
    describe: Any
    rule: RerankConfig
    score: str = "precision_at_1"

    @classmethod
    def make(cls, model: Any, loader: Batches, truth: np.ndarray, mesh: Mesh, config: MetricConfig) -> Self:
        """Embeddings are the model's classifier, where it has one."""

        def forward(variables: Any, images: jax.Array) -> Any:
            output = model.apply(variables, images)
            return output if output.logits is None else output.replace(pooled=output.logits)

        rule = RerankConfig(
            top_k=config.rerank, epsilon=config.epsilon, iterations=config.iterations, weight=1.0
        )
        return cls(loader, truth, mesh, make_describe(forward, mesh=mesh), rule)

    def compiled(self, variables: Any, rows: int, side: int) -> Self:
        """Compiled at its first call: how many pictures are compared depends on how many could be read."""
        return self

    def __call__(self, variables: Any, stopped: Stopped) -> dict[str, float] | None:
        """Returns the figures; None where it was told to stop before."""
        if stopped():
            return None
        described, rows = describe_batches(
            self.describe, parallel.replicate(variables, self.mesh), self.loader, mesh=self.mesh
        )
        own, labels = np.arange(len(rows)), self.truth[rows]
        truth = Truth.from_labels(labels, labels, own)
        largest = max(map(len, truth.positives or ()), default=0)
        depth = min(max(self.rule.top_k, largest, *KS), max(len(rows) - 1, 1))
        before = search(described, described, depth, exclude=own, mesh=self.mesh)[1]
        if stopped():
            return None
        after = rerank(described, described, before, config=self.rule, mesh=self.mesh)
        wanted = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        pooled, matched = truth.metrics(np.asarray(before)), truth.metrics(np.asarray(after.index))
        found = {name: pooled[name] for name in wanted}
        return found | {f"reranked_{name}": matched[name] for name in wanted}
