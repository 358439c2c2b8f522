"""The head that weighs patch tokens, learned on descriptors that a frozen model gives once."""

import contextlib
import hashlib
import json
import pathlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from vitjax.config import EvalConfig, ModelConfig
from vitjax.config.eval_config import BackboneConfig
from vitjax.config.train_config import TrainConfig
from vitjax.data.sources.base import ImageSource, fingerprint
from vitjax.errors import UserError
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors
from vitjax.system.files import read_json, replacing
from vitjax.training.output import Output
from vitjax.training.tasks import Parts
from vitjax.training.trunk import StoredTokens, as_stored, loader_of


def described(
    parts: Parts, variables: Any, folder: pathlib.Path, *, fresh: bool
) -> tuple[Parts, tuple[int, ...]]:
    """The parts of a run whose input is what the frozen model gives of images; and the shape of its input.

    Args:
        parts: of the same run on images; the model is the head.
        variables: of the head; the frozen model's are those of `config.model`.
        folder: where descriptors are kept.
        fresh: whether the run starts anew; either way kept descriptors serve.

    Raises:
        UserError: several processes, or images that cannot be described.
    """
    del variables, fresh
    config, output = parts.config, parts.output
    if jax.process_count() > 1:
        raise UserError("descriptors are stored only in one process", fields=("task",))
    reranker = Reranker.from_config(_describing(config))
    folder.mkdir(parents=True, exist_ok=True)
    learn = _stored(config, reranker, parts.learn, folder / "train.npy", output)
    held_out = _stored(config, reranker, parts.held_out, folder / "test.npy", output)
    loader = loader_of(config, held_out, as_stored)
    model = HeadOnRows(parts.model, reranker.pooled_length)
    return replace(parts, learn=learn, held_out=held_out, loader=loader, model=model), learn.shape


def _describing(config: TrainConfig) -> EvalConfig:
    """The config of eval.py that describes images as this run sees them."""
    backbone = {f.name: getattr(config.model, f.name) for f in fields(BackboneConfig)}
    head, found = config.head, EvalConfig(weights=config.model.weights, entry=config.model.entry)
    found.model = ModelConfig(**backbone, block=head.block, grid=head.grid, center=head.center)
    found.seed = config.seed
    found.data.resize, found.data.interpolation = config.data.resize, config.data.interpolation
    found.data.workers, found.data.on_bad_image = config.data.workers, config.data.on_bad_image
    return found


def _stored(
    config: TrainConfig, reranker: Reranker, source: ImageSource, path: pathlib.Path, output: Output
) -> StoredTokens:
    """Descriptors of a source: those of an earlier start if they are of the same images and model."""
    made = (config.seed, asdict(config.augment)) if config.head.views else ()
    key = json.dumps(
        [reranker.recipe, fingerprint(source), *made, *source.names], sort_keys=True, default=repr
    )
    key, note = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest(), path.with_suffix(".json")
    if path.exists():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no note, or a damaged one
            kept = read_json(note)
            if kept["key"] == key:
                return StoredTokens(source, path, {int(i): why for i, why in kept["bad"].items()})
    note.unlink(missing_ok=True)
    output.say(f"describing {len(source)} images once, for {path}")
    found, rows, skipped = reranker.describe(source, on_bad_image=config.data.on_bad_image)
    packed = pack(found)
    whole = np.zeros((len(source), *packed.shape[1:]), np.float32)
    whole[rows] = packed
    with replacing(path, "wb") as file:
        np.save(file, whole)
    bad = {item.index: item.reason for item in skipped}
    with replacing(note, "w") as file:
        json.dump({"key": key, "bad": bad}, file)
    return StoredTokens(source, path, bad)


def pack(found: Descriptors) -> Float[np.ndarray, "n rows d"]:
    """Tokens and, in rows behind them, the pooled vector; tokens that are not there are zeros."""
    n, _, d = found.tokens.shape
    pooled = np.pad(found.pooled, ((0, 0), (0, -found.pooled.shape[1] % d)))
    tokens = np.where(found.valid[..., None], found.tokens, 0)
    return np.concatenate([tokens, pooled.reshape(n, -1, d)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class HeadOnRows:
    """The head, applied to what `pack` packed.

    Attributes:
        head: a linen module, see `vitjax.models.token_head`.
        pooled: length of a pooled vector.
    """

    head: Any
    pooled: int

    def apply(self, variables: Any, rows: Float[Array, "n rows d"]) -> tuple[Descriptors, Array]:
        """Descriptors whose tokens weigh what the head says, and the price of unmatched mass."""
        count = rows.shape[1] - -(-self.pooled // rows.shape[2])
        tokens, rest = rows[:, :count], rows[:, count:]
        valid = (tokens != 0).any(axis=2)
        found = self.head.apply(variables, tokens, valid)
        pooled = rest.reshape(len(rows), -1)[:, : self.pooled]
        return Descriptors(pooled, tokens, found.weights, valid), found.price
