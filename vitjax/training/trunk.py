"""What blocks that never change give of each image, computed once; and a classifier fitted to features."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vitjax.config.train_config import TrainConfig
from vitjax.data.eval_loader import Batches, batches
from vitjax.data.images import ImageError
from vitjax.data.sources.base import ImageSource, fingerprint
from vitjax.data.train_loader import RawBatch
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.models.vit import VisionTransformer
from vitjax.system.files import read_json, replacing
from vitjax.training.batch import Batch
from vitjax.training.init_state import initial
from vitjax.training.mixup import soft_labels
from vitjax.training.optim import part_of
from vitjax.training.output import SILENT, Output
from vitjax.training.tasks import Parts

_AFTER = ("norm", "fc_norm", "attn_pool", "head", "head_dist")  # what comes after the blocks


@dataclass(frozen=True)
class Tail:
    """The blocks of a model from `first` on, with its interface: input is what the blocks before give."""

    model: Any
    first: int

    def apply(self, variables: Any, tokens: Any, **how: Any) -> Any:
        """As the model's."""
        return self.model.apply(variables, tokens, first=self.first, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class StoredTokens:
    """What the first blocks of a model give of the images of a source, read from a file.

    Attributes:
        shape: (tokens, width) of an image, prefix first.
    """

    def __init__(self, source: ImageSource, path: Path, bad: dict[int, str]) -> None:
        self._tokens, self._bad = np.load(path, mmap_mode="r"), bad
        self.names: list[str] = source.names
        self.labels: np.ndarray | None = source.labels
        self.class_names: list[str] = source.class_names
        self.shape: tuple[int, ...] = self._tokens.shape[1:]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Any:
        """Tokens of image i; raises ImageError where it could not be read."""
        if i in self._bad:
            raise ImageError(self._bad[i])
        return np.array(self._tokens[i])


def as_stored(tokens: Any, *_: Any) -> Any:
    """In place of preprocessing and augmentation, of what both are behind."""
    return tokens


def check_stored(config: TrainConfig, model: Any, params: Any) -> int:
    """The first block that learns, where everything before it is frozen and sees the same in every epoch.

    Raises:
        UserError: settings or a model with which that is not so.
    """
    augment, fields = replace(config.augment, smoothing=0.0), ("optim.store_frozen",)
    if config.task != "classify" or augment != type(augment)() or config.model.drop_path:
        raise UserError(
            "frozen blocks are stored only in task 'classify', without augmentation and drop_path",
            fields=fields,
        )
    if jax.process_count() > 1:
        raise UserError("frozen blocks are stored only in one process", fields=fields)
    if not isinstance(model, VisionTransformer) or model.reducer is not None or model.scan_layers:
        raise UserError(
            "frozen blocks are stored only of a plain vision transformer with all its tokens and separate "
            "blocks",
            fields=fields,
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    moves = {str(path[0].key) for path, _ in leaves if part_of(path, config.optim.frozen) != "frozen"}
    first = next((i for i in range(model.depth) if f"blocks_{i}" in moves), model.depth)
    before = moves - {*(f"blocks_{i}" for i in range(first, model.depth)), *_AFTER}
    if not first or before:
        what = ", ".join(map(repr, sorted(before))) or "'blocks_0'"
        raise UserError(
            f"what the first blocks give is not to be stored: it changes, as {what} learns; freeze all of "
            "them and what comes before them",
            fields=(*fields, "optim.frozen"),
        )
    return first


@dataclass(frozen=True, eq=False)
class Trunk:
    """The blocks before `first`, ready to be applied to images.

    Attributes:
        config: of the run.
        model: the whole.
        first: block that is not part of it.
        recipe: how images become input.
        variables: a function that gives those of the whole model; called where something is computed.
        output: is told what is computed.
    """

    config: TrainConfig
    model: Any
    first: int
    recipe: Preprocess
    variables: Callable[[], Any]
    output: Output = SILENT

    def stored(
        self, learn: ImageSource, held_out: ImageSource, folder: Path
    ) -> tuple[StoredTokens, StoredTokens]:
        """Tokens of the images to learn from and of those held out."""
        return (
            self._tokens(learn, folder / "train.npy", "training"),
            self._tokens(held_out, folder / "test.npy", "held-out"),
        )

    def _tokens(self, source: ImageSource, path: Path, what: str) -> StoredTokens:
        """Tokens of all images of a source: those of an earlier start if they are of the same images."""
        key, note = self._key(source), path.with_suffix(".json")
        if path.exists():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # no note, or a damaged one
                found = read_json(note)
                if found["key"] == key:
                    return StoredTokens(source, path, {int(i): why for i, why in found["bad"].items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        bad = self._compute(source, path, what)
        with replacing(note, "w") as file:
            json.dump({"key": key, "bad": bad}, file)
        return StoredTokens(source, path, bad)

    def _key(self, source: ImageSource) -> str:
        config = self.config
        parts = (asdict(config.model), config.seed, self.first, asdict(self.recipe), fingerprint(source))
        return hashlib.sha256(repr((parts, source.names)).encode(errors="surrogatepass")).hexdigest()

    def _compute(self, source: ImageSource, path: Path, what: str) -> dict[int, str]:
        """Writes the file; returns images that cannot be read, with reasons."""
        loader = loader_of(self.config, source, self.recipe)

        @jax.jit
        def forward(variables: Any, images: Array) -> Array:
            found = self.model.apply(variables, images, block=self.first - 1, final_norm=False)
            return jnp.concatenate([found.prefix, found.tokens], axis=1)

        variables, tokens = jax.device_put(self.variables()), None
        for batch in self.output.bar(loader, len(loader), f"frozen blocks, {what} images", unit="batches"):
            found = np.asarray(forward(variables, batch.images))
            if tokens is None:
                shape = (len(source), *found.shape[1:])
                tokens = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            tokens[batch.index[batch.valid]] = found[batch.valid]
        if tokens is None or len(loader.skipped) == len(source):
            raise UserError(loader.nothing_read(f"{what} images"))
        tokens.flush()
        return {item.index: item.reason for item in loader.skipped}


def loader_of(config: TrainConfig, source: Any, transform: Any, shard: tuple[int, int] = (0, 1)) -> Batches:
    """Batches of a whole source, in order."""
    data = config.data
    return batches(
        source, transform, config.batch_size,
        workers=data.workers, on_bad_image=data.on_bad_image, shard=shard,
    )  # fmt: skip


def on_stored(parts: Parts, variables: Any, folder: Path, *, fresh: bool) -> tuple[Parts, tuple[int, ...]]:
    """The parts of a run whose model starts at the first block that learns; and the shape of its input.

    Args:
        parts: of the same run on images.
        variables: of the whole model.
        folder: where the tokens are kept.
        fresh: False: the variables are not there yet, as a checkpoint's come later.

    Raises:
        UserError: as `check_stored`.
    """
    config, model, recipe, output = parts.config, parts.model, parts.recipe, parts.output
    first = check_stored(config, model, variables["params"])

    def start() -> Any:
        return variables if fresh else initial(config, model, recipe)[0]

    trunk = Trunk(config, model, first, recipe, start, output)
    learn, held_out = trunk.stored(parts.learn, parts.held_out, folder)
    loader = loader_of(config, held_out, as_stored)
    stored = replace(parts, learn=learn, held_out=held_out, loader=loader, model=Tail(model, first))
    return stored, learn.shape


def make_batch(classes: int, smoothing: float) -> Callable[[RawBatch, Array], Batch]:
    """As `make_mixer`, for stored tokens: there are no pixels to normalise or to mix."""

    def stored(raw: Any, _: Array) -> Batch:
        return Batch(raw.images, soft_labels(raw.labels, classes, smoothing), raw.index)

    return stored


def probed(parts: Parts, variables: Any) -> Any:
    """The variables, their classifier being fitted to the pooled vectors of all images that can be read.

    Source: Kumar et al. 2022 (arXiv:2202.10054): a linear probe first, fine-tuning from there. The fit is
    scikit-learn's multinomial logistic regression by L-BFGS, as in CLIP's own evaluation.

    Args:
        parts: of a run; its `optim.probe` is scikit-learn's `C`.
        variables: of the model.

    Raises:
        UserError: no image can be read, or a model with another classifier.
    """
    head = variables["params"].get("head", {})
    if set(head) != {"kernel", "bias"}:
        raise UserError("a probe needs a model with one linear classifier 'head'", fields=("optim.probe",))
    config, source = parts.config, parts.learn
    loader = loader_of(config, source, as_stored if isinstance(source, StoredTokens) else parts.recipe)
    forward = jax.jit(lambda v, x: parts.model.apply(v, x).pooled)
    pooled, rows = [], []
    for batch in loader:
        pooled.append(np.asarray(forward(variables, batch.images))[batch.valid])
        rows.append(batch.index[batch.valid])
    if not sum(map(len, rows)):
        raise UserError(loader.nothing_read("images"))
    features, labels = np.concatenate(pooled), np.asarray(source.labels)[np.concatenate(rows)]
    kernel, bias = linear_probe(features, labels, len(head["bias"]), strength=config.optim.probe)
    return variables | {"params": variables["params"] | {"head": {"kernel": kernel, "bias": bias}}}


def linear_probe(
    features: np.ndarray, labels: np.ndarray, classes: int, *, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (d, classes) and bias of a logistic regression; classes without an example are never chosen.

    Args:
        features: (n, d).
        labels: (n,), of which there are two or more.
        classes: their number.
        strength: scikit-learn's `C`.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second

    fitted = LogisticRegression(C=strength, max_iter=1000).fit(features.astype(np.float64), labels)
    kernel, bias = np.zeros((features.shape[1], classes), np.float32), np.zeros(classes, np.float32)
    coef, intercept = fitted.coef_, fitted.intercept_
    if len(coef) == 1:  # of two classes the second one's alone
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    kernel[:, fitted.classes_], bias[fitted.classes_] = coef.T, intercept
    bias[np.setdiff1d(np.arange(classes), fitted.classes_)] = intercept.min() - 10.0
    return kernel, bias
