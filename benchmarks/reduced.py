"""Backbones with fewer tokens at a budget of multiply-accumulates, and what they give of images."""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.tokens import index_bytes
from vitjax.config import EvalConfig, ReduceConfig
from vitjax.data.sources.synthetic import SyntheticSource
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.models.from_config import backbone, init_variables, takes_r
from vitjax.reranker import SYNTHETIC_IMAGES, Reranker, model_input
from vitjax.retrieval import Descriptors, make_describe, token_center
from vitjax.retrieval.descriptors import pool_grid
from vitjax.sparsify.flops import count_macs
from vitjax.weights import load_weights

BATCH = 16
AFTER_THE_MODEL = "grid"  # reduces nothing inside: the dense model's tokens, averaged


class Seen(NamedTuple):
    """What a model gives of n images, on the host, with t tokens of an image.

    Attributes:
        pooled: (n, d).
        tokens: (n, t, d) float16, after the final norm.
        owner: (n, cells) which token stands for each patch; -1 = none does.
        index: (n, t) on which patch each token lies; the number of patches for one that lies on none.
        sizes: (n, t) how many patches each stands for.
    """

    pooled: Any
    tokens: Any
    owner: Any
    index: Any
    sizes: Any


def macs(config: EvalConfig) -> int:
    """Multiply-accumulates of one image as far as the config's block, counted without computing."""
    size = model_input(config).image_size
    model = backbone(config, size, num_classes=0)
    variables = jax.eval_shape(model.init, jax.random.key(0), _blank(size))
    return count_macs(functools.partial(model.apply, block=config.model.block), variables, _blank(size))


def scheduled(config: EvalConfig, schedule: str) -> EvalConfig:
    """The config whose reducer does as much as a schedule says.

    Args:
        config: its `reduce.name` says which reducer.
        schedule: "keep:0.7", "r:13", or "mac:0.65": the setting whose multiply-accumulates are nearest to
            that share of the dense model's.
    """
    kind, _, text = schedule.partition(":")
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if kind not in ("mac", "keep", "r") or amount <= 0:
        raise UserError(f"schedule {schedule!r} is unknown; give 'mac:0.65', 'keep:0.7' or 'r:13'")
    if config.reduce.name in ("", AFTER_THE_MODEL):
        return config
    model = backbone(config, model_input(config).image_size)
    by_r = takes_r(config, model)
    if kind != "mac":
        if by_r != (kind == "r"):
            raise UserError(f"schedule {schedule!r}: {config.reduce.name!r} takes {'r' if by_r else 'keep'}")
        return _with_amount(config, by_r, amount)
    budget = amount * macs(replace(config, reduce=ReduceConfig()))
    most = math.prod(model.grid) // 2 if by_r else 1000

    @functools.cache
    def cost(step: int) -> int:  # rises with the step
        return macs(_with_amount(config, by_r, most - step if by_r else step / most))

    low, high = 0 if by_r else 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if cost(middle) < budget else (low, middle)
    step = min((max(low - 1, 0 if by_r else 1), low), key=lambda step: abs(cost(step) - budget))
    return _with_amount(config, by_r, most - step if by_r else step / most)


def _with_amount(config: EvalConfig, by_r: bool, amount: float) -> EvalConfig:
    amounts: dict[str, Any] = {"r": int(amount)} if by_r else {"keep_ratio": float(amount)}
    return replace(config, reduce=replace(config.reduce, **amounts))


def setting(config: EvalConfig) -> str:
    """What the reducer of a config was set to."""
    if config.reduce.name == AFTER_THE_MODEL:
        return f"{config.model.grid} x {config.model.grid}"
    if not config.reduce.name:
        return ""
    by_r = takes_r(config, backbone(config, model_input(config).image_size))
    return f"r={config.reduce.r}" if by_r else f"keep_ratio={config.reduce.keep_ratio:g}"


def _load(config: EvalConfig, other: Reranker | None) -> Reranker:
    """As `Reranker.from_config`, of the first `config.model.depth` blocks of the weights, or another's."""
    preprocess = model_input(config)
    model = backbone(config, preprocess.image_size, num_classes=0)
    predictors = getattr(config.reduce, "predictors", "")
    if other is not None and config.weights == other.config.weights and not predictors:
        variables = other.variables
    elif not config.weights:
        variables = init_variables(model, preprocess.image_size, config.seed)
    else:
        whole = replace(config, model=replace(config.model, depth=0))
        more: dict[str, Any] = {"predictors": predictors} if predictors else {}
        found = load_weights(config.weights, backbone(whole, preprocess.image_size, num_classes=0), **more)
        wanted = jax.eval_shape(model.init, jax.random.key(0), _blank(preprocess.image_size))["params"]
        variables = {"params": {name: found["params"][name] for name in wanted}}
    return Reranker(model, variables, config, preprocess=preprocess, compilation_cache=False)


def _blank(size: int, batch: int = 1) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)


class Reduced:
    """A backbone with a reducer, ready to see images.

    Args:
        config: of model, weights and reducer, set by `scheduled`; `reduce.name` "grid" is the dense model
            whose tokens are averaged to `model.grid`.
        dense: of the same backbone, which weights are taken from where they are the same.

    Attributes:
        reranker: the model, its weights and its preprocessing; every token stays.
        compile_seconds: of the forward pass at `BATCH` images.
        peak_bytes: of its memory, as the compiler plans it: weights, images, results and what lies between.
    """

    def __init__(self, config: EvalConfig, dense: "Reduced | None" = None) -> None:
        self.config = config
        self._grid = config.model.grid if config.reduce.name == AFTER_THE_MODEL else 0
        reduce = ReduceConfig() if self._grid else config.reduce
        every_token = replace(config, reduce=reduce, model=replace(config.model, grid=0))
        self.reranker = _load(every_token, dense.reranker if dense else None)
        self.grid: tuple[int, int] = self.reranker.patch_grid
        self.preprocess: Preprocess = self.reranker.preprocess
        blank = _blank(self.preprocess.image_size, BATCH)
        begin = time.perf_counter()
        self._forward = jax.jit(self._seen).lower(self.reranker.variables, blank).compile()
        self.compile_seconds = time.perf_counter() - begin
        self.peak_bytes = _peak(self._forward)

    def _seen(self, variables: Any, images: jax.Array) -> Seen:
        out: Any = self.reranker.model.apply(variables, images, block=self.reranker.config.model.block)
        tokens, (batch, count, _) = out.tokens, out.tokens.shape
        if self._grid:
            tokens, cell = pool_grid(tokens, out.grid, self._grid), _coarse(out.grid, self._grid)
            owner, count = jnp.broadcast_to(cell, (batch, len(cell))), self._grid**2
            sizes = jnp.broadcast_to(np.bincount(cell, minlength=count).astype(np.float32), (batch, count))
            index = jnp.full((batch, count), len(cell))
        elif out.owner:
            owner, index, sizes = out.owner[-1], out.keep_index[-1], out.sizes
        else:
            owner = index = jnp.broadcast_to(jnp.arange(count), (batch, count))
            sizes = jnp.ones((batch, count))
        return Seen(
            out.pooled, tokens.astype(jnp.float16), owner.astype(jnp.int32), index.astype(jnp.int32), sizes
        )

    def see(self, views: np.ndarray) -> Seen:
        """What the model gives of images as `Preprocess.view` shows them, uint8 (n, h, w, 3)."""
        found = []
        as_shown = self.preprocess.replace(resize="squash")  # they have the size already
        for rows in _chunks(len(views), BATCH):
            images = np.stack([as_shown(Image.fromarray(views[i])) for i in rows])
            found.append(jax.device_get(self._forward(self.reranker.variables, images)))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(views)], *found)

    @functools.cached_property
    def _describe(self) -> Callable[..., Descriptors]:
        return make_describe(self._as_output, center=self._center)

    @functools.cached_property
    def _leaves(self) -> Seen:
        leaves = SyntheticSource("leaves", SYNTHETIC_IMAGES)
        return self.see(np.stack([self.preprocess.view(leaves.read(i)) for i in range(len(leaves))]))

    @functools.cached_property
    def gmacs(self) -> float:
        """Of one image."""
        return macs(self.reranker.config) / 1e9

    @property
    def tokens(self) -> int:
        """Of one image, as they are left."""
        return self._leaves.tokens.shape[1]

    @functools.cached_property
    def index_bytes(self) -> int:
        """Of one image as a gallery stores it: float16 tokens, the rest as it is, before compression."""
        return index_bytes(self.descriptors(self._leaves))

    @functools.cached_property
    def _center(self) -> np.ndarray | None:
        """As `Reranker.center` has it of synthetic images."""
        if self.config.model.center == "none":
            return None
        raw = make_describe(self._as_output, normalise=False)(self._leaves, *_real(SYNTHETIC_IMAGES))
        return token_center(np.asarray(raw.tokens), "position", photos=False, valid=np.asarray(raw.valid))

    def _as_output(self, seen: Any, _: Any) -> Any:  # in the place of variables and images
        return SimpleNamespace(
            pooled=seen.pooled, tokens=seen.tokens, owner=(seen.owner,), keep_index=(seen.index,),
            sizes=seen.sizes, grid=self.grid,
        )  # fmt: skip

    def descriptors(self, seen: Seen) -> Descriptors:
        """What images are searched and matched by: the tokens that are left, without positional bias."""
        found = []
        for rows in _chunks(len(seen.pooled), SYNTHETIC_IMAGES):
            part = jax.tree.map(lambda x, rows=rows: x[rows], seen)
            found.append(jax.device_get(self._describe(part, *_real(len(rows)))))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(seen.pooled)], *found)


def _real(count: int) -> tuple[np.ndarray, np.ndarray]:
    """In the place of images that were seen already: none, and that all rows are real."""
    return np.zeros(0, np.float32), np.ones(count, bool)


def _chunks(count: int, size: int) -> list[np.ndarray]:
    """Rows in pieces of one size; the last one repeats its last row."""
    return [np.minimum(np.arange(start, start + size), count - 1) for start in range(0, count, size)]


def _coarse(grid: tuple[int, int], size: int) -> np.ndarray:
    """The cell of a coarser grid that each patch lies in."""
    row, column = (np.arange(length) * size // length for length in grid)
    return (row[:, None] * size + column[None, :]).ravel()


def _peak(compiled: Any) -> int:
    plan = compiled.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(plan, part, 0) for part in parts)


def every_owner(owner: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The token that stands for each patch, (n, cells): of a dropped one that of the nearest patch with one.

    >>> every_owner(np.array([[-1, 0, -1, -1, 1]]), (1, 5)).tolist()
    [[0, 0, 0, 1, 1]]
    """
    y, x = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    apart = (y[:, None] - y[None, :]) ** 2 + (x[:, None] - x[None, :]) ** 2
    nearest = [np.where(own[None, :] < 0, apart.max() + 1, apart).argmin(axis=1) for own in owner]
    return np.take_along_axis(owner, np.stack(nearest), axis=1)
