"""Task `classify`: accuracy, cost and throughput of a model, dense and with fewer tokens.

A model with a text tower classifies by the names of the classes, too: the rows "zero_shot".
"""

import csv
import functools
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax import doctor, sharding
from vitjax.cli import run_files
from vitjax.cli.console import bar, say, warn
from vitjax.config import EvalConfig, to_dict
from vitjax.data.eval_loader import batches
from vitjax.data.sources import open as sources
from vitjax.data.sources.base import ImageSource, class_numbers, notes_of, read_classes
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.evaluation.protocols import data_spec
from vitjax.models.from_config import backbone, init_variables, takes_r
from vitjax.models.outputs import dense, reduction_of
from vitjax.models.text_encoder import build_zero_shot_classifier, has_text_tower
from vitjax.reranker import model_input
from vitjax.sparsify import count
from vitjax.system.files import read_text, replacing
from vitjax.text import PHOTO, load_tokenizer
from vitjax.viz.classes_page import write_classes_page
from vitjax.viz.figures import save_figure
from vitjax.viz.token_figures import reduced_figure
from vitjax.weights import load_with_report

_SHARES = ("top1", "top5", "mean_class_accuracy", "same_as_dense")
COLUMNS = (
    "",
    "top-1, %",
    "top-5, %",
    "per class, %",
    "same as dense, %",
    "GMAC",
    "images/s",
    "speed-up",
)


@dataclass
class Variant:
    """One row of the table: a model and its predictions.

    Attributes:
        label: "dense", or the reducer and how much it keeps.
        model: shares its weights with the other rows.
        names: (classes, d), embeddings of the class names, whose scores are the logits; None = the model's
            classifier says them.
        best: (images, up to 5) classes, most likely first.
        seconds: of its forward passes, without the first.
        timed: images in these.
    """

    label: str
    model: Any
    names: np.ndarray | None = None
    best: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    timed: int = 0


@dataclass(frozen=True, eq=False)
class ClassifyRun:
    """Images, models and predictions of a classification.

    Attributes:
        config: everything the run was told.
        source: of the images.
        preprocess: of the model.
        variants: the model, dense and with fewer tokens, with its predictions.
        variables: the weights of all of them, on the host.
        rows: (n,), positions in `source` of the images that could be read.
        truth: (n,), their classes; None where there are no labels.
    """

    config: EvalConfig
    source: ImageSource
    preprocess: Preprocess
    variants: list[Variant]
    variables: Any
    rows: np.ndarray
    truth: np.ndarray | None


def evaluate(config: EvalConfig, out: pathlib.Path) -> dict[str, Any]:
    """Classifies all images with every variant; writes results, predictions, page and images under `out`.

    Raises:
        ValueError: no images, or labels that the model's classes do not fit.
    """
    preprocess = model_input(config)
    source = open_source(config)
    warn(*notes_of(source))
    variants = make_variants(config, preprocess.image_size)
    model = variants[0].model
    by_name = has_text_tower(model)
    if not (model.num_classes or by_name):
        raise UserError(
            f"classify: model {config.model.name!r} has no classifier; choose another, or set "
            "config.model.num_classes to what the weights have."
        )
    if config.weights:
        variables, report = load_with_report(config.weights, largest(variants), entry=config.entry or None)
    else:
        variables, report = init_variables(largest(variants), preprocess.image_size, config.seed), None
        warn("the weights are RANDOM: the figures say nothing; set config.weights")
    names = class_names(config, source) if by_name else []
    classes = model.num_classes or len(names)
    labels = true_classes(config, source, classes)
    zero_shot = None
    if by_name:
        variants, zero_shot = with_class_names(config, variants, variables, names)
    mesh = sharding.make_mesh()
    variables = sharding.replicate(variables, mesh)
    loader, rows = classify(config, source, preprocess, variants, variables, mesh)
    if not len(rows):
        raise UserError(loader.nothing_read("images"))
    truth = None if labels is None else labels[rows]
    table = [
        summary(variant, dense_of(variant, variants), truth, preprocess.image_size) for variant in variants
    ]
    results = {
        "task": config.task,
        "images": len(rows),
        "classes": classes,
        "notes": notes_of(source),
        "rows": table,
        "zero_shot": zero_shot,
        "weights": {
            "source": config.weights or "random",
            "report": str(report).splitlines() if report else [],
        },
        "skipped": [{"index": i.index, "name": i.name, "reason": i.reason} for i in loader.skipped],
        "device": run_files.device(),
        "versions": doctor.versions(),
        "git_commit": run_files.git_commit(),
        "config": to_dict(config),
    }
    if sharding.is_main_process():
        write(
            ClassifyRun(config, source, preprocess, variants, sharding.fetch(variables), rows, truth),
            results,
            out,
        )
        page = f" and {out / 'report.html'}" if config.figures.report else ""
        say(f"wrote {out / 'results.json'}{page}")
    return results


def open_source(config: EvalConfig) -> ImageSource:
    """The images to classify: of a folder, of a dataset's held-out part, or of a dataset of TFDS."""
    found = sources.open_source(config.data.source, data_spec(config.data), "test")
    assert found is not None
    return found


def make_variants(config: EvalConfig, image_size: int) -> list[Variant]:
    """The dense model first, then the same with fewer tokens, as often as the config says.

    Raises:
        ValueError: a model that cannot do it.
    """
    classes = config.model.num_classes or None
    model = backbone(config, image_size, num_classes=classes)
    found, reduction = [Variant("dense", dense(model))], reduction_of(model)
    if reduction:
        by_r = takes_r(config, model)
        for amount in config.reduce.sweep or (config.reduce.r if by_r else config.reduce.keep_ratio,):
            reduced = backbone(config, image_size, num_classes=classes, amount=amount)
            found.append(Variant(f"{reduction.name} {'r=' if by_r else ''}{amount:g}", reduced))
    return found


def class_names(config: EvalConfig, source: ImageSource) -> list[str]:
    """Names of the classes in the model's numbering, for zero-shot classification.

    Raises:
        ValueError: no names, or an empty one.
    """
    names = read_classes(config.data.classes) if config.data.classes else source.class_names
    if not names or not all(names):
        raise UserError(
            "classify by class names: there are none, or one is empty; give folders of images by class, or "
            "config.data.classes=FILE, whose line i names class i"
        )
    return list(names)


def with_class_names(
    config: EvalConfig, variants: list[Variant], variables: Any, names: list[str]
) -> tuple[list[Variant], dict[str, Any]]:
    """The variants that have a classifier, then each as it classifies by the class names.

    Returns:
        the variants, and what results.json says of the prompts.
    """
    templates = read_templates(config.data.templates)
    model = largest(variants)
    tokenizer = load_tokenizer(config.tokenizer, config.model.name)
    columns = build_zero_shot_classifier(model, variables, tokenizer, names, templates)
    said = {"templates": list(templates), "logit_scale": logit_scale(variables)}
    own = [variant for variant in variants if variant.model.num_classes]
    labels = ["zero_shot" if each.label == "dense" else f"zero_shot {each.label}" for each in variants]
    named = [Variant(label, v.model, columns.T) for label, v in zip(labels, variants, strict=True)]
    return [*own, *named], said


def logit_scale(variables: Any) -> float | None:
    """The factor of the cosines that a model with two towers has learned; None where it has none."""
    found = variables["params"].get("logit_scale")
    return None if found is None else float(np.exp(np.asarray(found, np.float64)).reshape(()))


def read_templates(path: str) -> tuple[str, ...]:
    """Prompts of a text file, one in each line; without a file the usual one."""
    if not path:
        return PHOTO
    return tuple(line for line in read_text(path).split("\n") if line.strip())


def largest(variants: list[Variant]) -> Any:
    """The model whose weights all others use: with predictors, where there are any."""
    return variants[-1].model


def true_classes(config: EvalConfig, source: ImageSource, classes: int) -> np.ndarray | None:
    """Class of each image in the model's numbering; None where the images have no labels.

    Raises:
        ValueError: class names that are not the model's, as far as their number or the given list tells.
    """
    if source.labels is None:
        return None
    names = source.class_names
    if config.data.classes:
        lines = read_classes(config.data.classes)
        if len(lines) > classes:
            raise UserError(
                f"config.data.classes has {len(lines)} lines, the model knows {classes} classes: give the "
                "model's own list, whose line i names class i."
            )
        number = {name: i for i, name in enumerate(lines)}
        known = list(class_numbers(names, "classes of the images"))
        unknown = [name for name in known if name not in number]
        if unknown:
            raise UserError(
                f"config.data.classes lacks {unknown[0]!r} and {len(unknown) - 1} more of the folders' names."
            )
        numbers = np.array([number[name] for name in known])
    elif len(names) > classes:
        raise UserError(
            f"the images are of {len(names)} classes, the model knows {classes}: set "
            "config.model.num_classes."
        )
    elif len(names) < classes and config.data.source == "folder":
        raise UserError(
            f"the images are of {len(names)} classes, the model knows {classes}: say which they are with "
            "config.data.classes=FILE (line i names class i), or set config.model.num_classes."
        )
    else:
        numbers = np.arange(len(names))
    return numbers[source.labels]


def classify(
    config: EvalConfig,
    source: ImageSource,
    preprocess: Preprocess,
    variants: list[Variant],
    variables: Any,
    mesh: Mesh,
) -> tuple[Any, np.ndarray]:
    """Runs every variant on every batch, each image being decoded once; which images the rows are."""
    loader = batches(
        source,
        preprocess,
        -(-config.batch_size // mesh.size) * mesh.size,
        workers=config.data.workers,
        on_bad_image=config.data.on_bad_image,
        shard=(jax.process_index(), jax.process_count()),
    )
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, sharding.ROWS)
    best_of = [_best(variant) for variant in variants]
    runs = [jax.jit(best, in_shardings=(whole, split), out_shardings=split) for best in best_of]
    rows, first = [], True
    for batch in bar(loader, len(loader), f"classifying {len(source)} images", total=len(source)):
        parts = (np.asarray(batch.images), np.asarray(batch.index), np.asarray(batch.valid))
        parts = sharding.shard_batch(sharding.pad_rows(parts, mesh.local_mesh.size), mesh)
        index, valid = sharding.fetch(parts[1:])
        for variant, run in zip(variants, runs, strict=True):
            if first:
                jax.block_until_ready(run(variables, parts[0]))  # compiles, and warms up
            begin = time.perf_counter()
            best = jax.block_until_ready(run(variables, parts[0]))
            variant.seconds += time.perf_counter() - begin
            variant.timed += len(index)
            variant.best.append(sharding.fetch(best)[valid])
        rows.append(index[valid])
        first = False
    return loader, np.concatenate(rows) if rows else np.zeros(0, int)


def _best(variant: Variant) -> Callable:
    model, names = variant.model, variant.names

    def best(variables: Any, images: jax.Array) -> jax.Array:
        output = model.apply(variables, images)
        logits = output.logits
        if names is not None:
            logits = model.apply(variables, output.embedding, jnp.asarray(names), method="score")
        return jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]

    return best


def dense_of(variant: Variant, variants: list[Variant]) -> Variant:
    """The row with all tokens that classifies in the same way."""
    return next(each for each in variants if (each.names is None) == (variant.names is None))


def summary(variant: Variant, whole: Variant, truth: np.ndarray | None, image_size: int) -> dict[str, Any]:
    """One row of the table; shares in [0, 1]."""
    best, reference = np.concatenate(variant.best), np.concatenate(whole.best)
    cost = count(variant.model, image_size)
    correct = None if truth is None else best == truth[:, None]
    return {
        "name": variant.label,
        "top1": None if correct is None else float(correct[:, 0].mean()),
        "top5": None if correct is None else float(correct.any(axis=1).mean()),
        "mean_class_accuracy": None if correct is None or truth is None else per_class(correct[:, 0], truth),
        "same_as_dense": float((best[:, 0] == reference[:, 0]).mean()),
        "macs": cost.macs,
        "params": cost.params,
        "images_per_second": variant.timed / variant.seconds,
        "speed_up": (whole.seconds / whole.timed) / (variant.seconds / variant.timed),
    }


def per_class(correct: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes that occur of their images' share that is classified correctly."""
    _, number, count = np.unique(truth, return_inverse=True, return_counts=True)
    return float((np.bincount(number, correct) / count).mean())


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table as text; see `COLUMNS`."""
    percent = ["-" if row[k] is None else f"{100 * row[k]:.2f}" for k in _SHARES]
    speed = [f"{row['macs'] / 1e9:.4f}", f"{row['images_per_second']:,.1f}", f"{row['speed_up']:.2f}"]
    return [row["name"], *percent, *speed]


def write(run: ClassifyRun, results: dict[str, Any], out: pathlib.Path) -> None:
    """Writes results.json first, then what can fail: predictions, the table, the figures and the page."""
    run_files.write_json(out / "results.json", results)
    run_files.remove_outputs(out)
    with replacing(out / "predictions.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "class", *(variant.label for variant in run.variants)])
        each = [np.concatenate(variant.best)[:, 0] for variant in run.variants]
        for row, image in enumerate(run.rows):
            known = "" if run.truth is None else int(run.truth[row])
            writer.writerow([run.source.names[image], known, *(int(best[row]) for best in each)])
    warn(*run_files.append_row(out / "results.csv", run_files.plain(csv_row(results))))
    figures, notes = {}, []
    if reduced := [variant for variant in run.variants if reduction_of(variant.model)]:
        drawn = reduced[len(reduced) // 2]  # of several ratios the middle one
        figures = draw(run, drawn.model, out)
        notes = [f"Photos: what each stage of {drawn.label} left."] if figures else []
    if run.config.figures.report:
        write_classes_page(
            out / "report.html",
            title=f"{run.config.model.name}: {len(run.rows)} images",
            notes=[
                f"weights: {results['weights']['source'].partition('#')[0]}; "
                f"{results['device']['count']} x {results['device']['kind']}; batch {run.config.batch_size}",
                *notes,
            ],
            columns=COLUMNS,
            rows=[cells(row) for row in results["rows"]],
            figures=figures,
        )


def csv_row(results: dict[str, Any]) -> dict[str, Any]:
    """One line for results.csv, the last row of the table, with timm's column names."""
    last, config = results["rows"][-1], results["config"]
    return {
        "model": f"{config['model']['name']}, {last['name']}",
        "weights": results["weights"]["source"],
        "top1": last["top1"],
        "top5": last["top5"],
        "param_count": round(last["params"] / 1e6, 2),
        "infer_gmacs": round(last["macs"] / 1e9, 4),
        "infer_samples_per_sec": round(last["images_per_second"], 2),
        "infer_batch_size": config["batch_size"],
    }


def draw(run: ClassifyRun, model: Any, out: pathlib.Path) -> dict[str, Any]:
    """Writes a figure per image of what each stage dropped; returns them by caption."""
    figures = {}
    see = owners_of(model)
    for i, row in enumerate(run.rows[: run.config.figures.count]):
        image = run.source.read(int(row))
        owners, titles = see(run.variables, run.preprocess(image)[None])
        figure = reduced_figure(run.preprocess.view(image), owners, titles)
        (out / "figures").mkdir(exist_ok=True)
        save_figure(out / "figures" / f"{i:04d}_tokens.png", figure, limit=500_000)
        figures[run.source.names[row]] = figure
    return figures


def owners_of(model: Any, *, block: int | None = None) -> Callable[[Any, Any], tuple[list, list[str]]]:
    """A function of variables and one image: which token stands for each patch after some stages, and titles.

    Args:
        model: reduces its tokens in some way.
        block: stop after this block; see the models' calls.
    """

    @functools.partial(jax.jit)
    def look(variables: Any, images: jax.Array) -> tuple[Any, Any]:
        output = model.apply(variables, images, block=block)
        if output.owner:
            return output.owner, jnp.zeros(output.grid)
        kept = output.decisions > 0  # of two paths: on the grid of the third stage
        positions = jnp.where(kept, jnp.arange(kept.shape[2])[None, None], -1)
        return tuple(positions[:, i] for i in range(kept.shape[1])), None

    def see(variables: Any, images: Any) -> tuple[list, list[str]]:
        found, grid = jax.device_get(look(variables, images))
        shape = model.grids[2] if grid is None else grid.shape
        stages = sorted({len(found) * quarter // 3 - 1 for quarter in (1, 2, 3)} - {-1})
        owners = [found[i][0].reshape(shape) for i in stages]
        left = [len(np.unique(owner[owner >= 0])) for owner in owners]
        return owners, [f"step {i + 1}: {n} of {owners[0].size}" for i, n in zip(stages, left, strict=True)]

    return see
