"""All tokens of images, passed through a model once and kept on a disk, for many ways to have fewer."""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import sharding
from vitjax.cli.console import bar
from vitjax.config import EvalConfig, ModelConfig
from vitjax.data.eval_loader import batches
from vitjax.data.sources.base import ImageSource, fingerprint
from vitjax.data.sources.synthetic import SyntheticSource
from vitjax.models.outputs import BackboneOutput
from vitjax.reranker import SYNTHETIC_IMAGES, Reranker
from vitjax.retrieval import Descriptors, describe_batches, make_describe, token_center

BATCH = 64  # of kept images


class KeptTokens:
    """Describes images as a config says, each passed through the model once, whatever is averaged after it.

    Tokens are kept in float16, as they come after the config's block, and the weights of attention rollout
    beside them. The centre "position" is measured as `Reranker.center` does.

    Args:
        config: of the model and its input; grid, smooth, center, tokens and aggregate are asked for later.
        folder: where tokens are kept, made if need be.

    Raises:
        SystemExit: the config reduces tokens inside the model, weighs them, or names another kind of centre.
    """

    def __init__(self, config: EvalConfig, folder: pathlib.Path) -> None:
        wanted = config.model
        if config.reduce.name or config.rerank.marginals != "uniform" or "subspace" in wanted.center:
            raise SystemExit(
                "--cache needs a config without reduce.name, with rerank.marginals=uniform and model.center "
                "none or position"
            )
        self.config, self.folder = config, folder
        plain = replace(wanted, grid=0, smooth=1, tokens=0, center="none")
        self.reranker = Reranker.from_config(replace(config, model=plain))
        self._forward = make_describe(self._with_rollout, normalise=False, rollout=True)

    def _with_rollout(self, variables: Any, images: Any) -> Any:
        block = self.reranker.config.model.block
        return self.reranker.model.apply(variables, images, block=block, return_attention=True)

    def raw(self, source: ImageSource) -> tuple[Descriptors, np.ndarray]:
        """Tokens at their length with rollout as weights, and which images could be read."""
        made_of = [self.reranker.recipe, fingerprint(source), list(source.names)]
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        file = self.folder / f"{key}.npz"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            loader = batches(source, self.reranker.preprocess, self.config.batch_size, workers=2)
            seen: Iterable[Any] = bar(loader, len(loader), "tokens", total=len(source))
            found, rows = describe_batches(self._forward, self.reranker.variables, seen)
            tokens = np.asarray(found.tokens, np.float16)
            np.savez(file, tokens=tokens, pooled=found.pooled, weights=found.weights, rows=rows)
        with np.load(file) as kept:
            tokens, pooled, weights, rows = (kept[x] for x in ("tokens", "pooled", "weights", "rows"))
        return Descriptors(pooled, tokens, weights, np.ones(tokens.shape[:2], bool)), rows

    def describe(self, source: ImageSource, model: ModelConfig) -> tuple[Descriptors, np.ndarray]:
        """Descriptors as `model` has them, of the block and the input of the first config; and the rows."""
        layout: dict[str, Any] = {"grid": model.grid, "smooth": model.smooth}
        if model.center == "position":
            leaves = self.raw(SyntheticSource("leaves", SYNTHETIC_IMAGES))[0]
            raw = self._again(leaves, normalise=False, **layout)
            layout["center"] = token_center(raw.tokens, "position", photos=False)
        found, rows = self.raw(source)
        return self._again(found, count=model.tokens, aggregate=model.aggregate, **layout), rows

    def _again(self, kept: Descriptors, **fields: Any) -> Descriptors:
        """What `make_describe` makes of kept tokens."""
        grid = self.reranker.patch_grid

        def forward(variables: Any, part: Any) -> Any:
            del variables
            return BackboneOutput(
                tokens=part.tokens.astype(jnp.float32),
                pooled=part.pooled,
                prefix=part.tokens[:, :0],
                logits=None,
                attention=(whose_rollout_is(part.weights),),
                grid=grid,
            )

        describe, done = make_describe(forward, **fields), []
        for start in range(0, len(kept), BATCH):
            part = kept.take(slice(start, start + BATCH))
            real = np.arange(BATCH) < len(part)
            one = describe(None, sharding.pad_rows(part, BATCH), real)
            done.append(jax.device_get(one).take(slice(0, len(part))))
        return jax.tree.map(lambda *x: np.concatenate(x), *done)


def whose_rollout_is(weights: jax.Array) -> jax.Array:
    """Attention (b, 1, n + 1, n + 1) of one block, whose rollout is these weights (b, n)."""
    n = weights.shape[1]
    own = jnp.broadcast_to(jnp.eye(n + 1), (len(weights), n + 1, n + 1))
    return own.at[:, 0].set(jnp.pad(weights, ((0, 0), (1, 0))))[:, None]
