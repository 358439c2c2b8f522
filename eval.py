r"""Search a gallery of images, rerank the best by matching patches, measure both orders, and show why.

python eval.py --config configs/demo.py --workdir runs/demo

Or classify images, dense and with fewer tokens: configs/classify_*.py.
"""

import os
import signal

from vitjax.errors import UserError

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of what is not imported yet

from vitjax.cli import flags
from vitjax.config import EvalConfig

if __name__ == "__main__":
    flags.begin(EvalConfig, __doc__)

import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax import doctor, sharding
from vitjax.cli import run_files
from vitjax.cli.console import bar, count_of, say, warn
from vitjax.cli.session import only_run, refuse_training_run, start
from vitjax.config import PROTOCOLS, RerankConfig, to_dict, validate
from vitjax.data.eval_loader import Batch, Skipped
from vitjax.data.sources.base import ImageSource, ListedSource, align_labels, notes_of
from vitjax.data.sources.msls import PlaceSource
from vitjax.evaluation import classify
from vitjax.evaluation.described_images import Side
from vitjax.evaluation.index_images import index_images
from vitjax.evaluation.protocols import named_place_truth, open_protocol, place_truth, protocol_truth
from vitjax.evaluation.report_builder import draw
from vitjax.evaluation.result_tables import print_results, show_answers, show_classes, show_table
from vitjax.evaluation.sweep import parse_sweep
from vitjax.reranker import Reranker
from vitjax.retrieval import (
    Descriptors,
    Gallery,
    Gate,
    Reranked,
    calibrate_gate,
    judge_gate,
    plan_sharpness,
    rerank,
    search,
)
from vitjax.retrieval.metrics import runs
from vitjax.retrieval.metrics.relevance import Truth, judge, not_counted, read_ground_truth
from vitjax.retrieval.reranking.gate import Calibration
from vitjax.viz.rankings import Rankings

WHOLE_RANKING = 2000  # galleries up to this size are ranked to the end


def main(config: EvalConfig, workdir: str) -> None:
    """Runs the program; into a pipe, the last line on stdout is one JSON object with the final figures."""
    print_results(evaluate(config, workdir))


def evaluate(config: EvalConfig, workdir: str) -> dict[str, Any]:
    """Runs the task of the config; writes all under `workdir` and returns what results.json holds."""
    validate(config)
    sweep = parse_sweep(config.sweep, config.rerank)
    refuse_training_run(workdir)
    if config.rerank.gate:
        Gate.read(config.rerank.gate)  # hours before it is needed
    out = start(workdir)
    with only_run(out, holds=sharding.is_main_process()):
        if config.task != "classify":
            return retrieve(config, sweep, out)
        results = classify.evaluate(config, out)
        show_classes(results)
        return results


def retrieve(
    config: EvalConfig, sweep: Sequence[tuple[dict[str, Any], RerankConfig]], out: pathlib.Path
) -> dict[str, Any]:
    """Searches, reranks and measures, or only fills an index."""
    clock = run_files.Stopwatch()
    with clock.stage("load"):
        gallery_source, query_source = open_protocol(config.data)
        warn(*notes_of(gallery_source, query_source))
        reranker = Reranker.from_config(config)
        config = measure(reranker, config)
    if not config.weights:
        warn("the weights are RANDOM: the figures say nothing; set config.weights")

    with clock.stage("extract"):
        if config.index.path:
            gallery = index(reranker, gallery_source, config)
        else:
            gallery = describe(reranker, gallery_source, config, "gallery")
        searched_in_itself = query_source is gallery_source or config.task == "index"
        queries = gallery if searched_in_itself else describe(reranker, query_source, config, "queries")
    if config.task == "index":
        return finish_index(config, out, reranker, gallery, clock)
    truth = find_truth(config, queries, gallery)
    depth = ranking_depth([config.rerank, *(rule for _, rule in sweep)], truth, len(gallery.rows))
    queries, truth, gate, learned = find_gate(config, queries, gallery, truth, depth, reranker.mesh, clock)

    with clock.stage("search"):
        found, before = find(queries, gallery, depth, truth, reranker.mesh)
    with clock.stage("rerank"):
        after = rerank_in_steps(
            queries.descriptors, gallery.descriptors, before, config.rerank, reranker.mesh
        )
        after, config, opened = open_gate(gate, learned, config, queries, gallery, truth, before, after)
    rows = compare(sweep, config, reranker, queries, gallery, truth, before, clock)
    clock.close()
    say(
        f"compiled {clock.compiled} programs in {sum(clock.compile_seconds.values()):.1f} s "
        f"({clock.cached} from the cache)"
    )

    results = summarize(config, reranker, queries, gallery, truth, before, after, clock) | opened
    results["sweep"] = rows
    uncounted = not_counted(truth, queries.classes() or (), gallery.classes() or ())
    results["notes"] = [*uncounted, *results["notes"]]
    warn(*uncounted)
    if sharding.is_main_process():
        show_table(results)
        write(config, out, reranker, queries, gallery, truth, before, found, after, results)
    return results


def write(
    config: EvalConfig,
    out: pathlib.Path,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    truth: Truth,
    before: np.ndarray,
    scores: np.ndarray,
    after: Reranked,
    results: dict[str, Any],
) -> None:
    """Writes results.json first, then what can fail: both orders, the table, the images and the page."""
    run_files.write_json(out / "results.json", results | {"explanations": None})
    say(f"wrote {out / 'results.json'}")
    run_files.remove_outputs(out)
    rankings = Rankings(
        before, after, queries.names(), gallery.names(), queries.classes(), gallery.classes(), truth.right,
        weight=config.rerank.weight, ranks=config.figures.candidates,
    )  # fmt: skip
    names = rankings.query_names, rankings.gallery_names
    runs.write_run(out / "run_pooled.trec", *names, before, scores, tag="pooled")
    runs.write_run(out / "run.trec", *names, after.index, after.score, tag="reranked")
    if truth.positives is not None:
        runs.write_qrels(out / "qrels.trec", *names, truth.positives)
    if truth.positives is None:
        show_answers(rankings)
    warn(*run_files.append_row(out / "results.csv", run_files.plain(csv_row(config, results))))
    results["explanations"] = draw(config, out, reranker, queries, gallery, rankings, results)
    run_files.write_json(out / "results.json", results)
    if config.figures.report:
        say(f"wrote {out / 'report.html'}")


def measure(reranker: Reranker, config: EvalConfig) -> EvalConfig:
    """Measures what a recipe asks for on images without labels, and returns the config with its price."""
    if config.model.center != "none":
        say(f"measuring the centre of the tokens ({config.model.center})")
        reranker.center  # noqa: B018  (measured on first use; here it counts as loading)
    if config.task == "index":
        return config
    config = replace(config, rerank=reranker.rule)
    if config.rerank.price > 0:
        say(f"matches of a cost above {config.rerank.price:.3f} are not made")
    return config


def describe(reranker: Reranker, source: ImageSource, config: EvalConfig, what: str) -> Side:
    """Runs the model over one side's images, with a progress bar."""

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        images = len(source)
        return bar(batches, count, f"{what} ({count_of(images, 'image', 'images')})", total=images)

    descriptors, rows, skipped = reranker.describe(
        source, batch_size=config.batch_size, on_bad_image=config.data.on_bad_image, progress=progress
    )
    say_skipped(skipped)
    return Side(source, descriptors, rows, skipped, len(rows))


def index(reranker: Reranker, source: ImageSource, config: EvalConfig) -> Side:
    """The gallery's descriptors from `config.index.path`; those that are not there yet are made first."""
    path = config.index.path
    kept = len(Gallery.open(path)) if Gallery.exists(path) else 0
    images = count_of(len(source), "image", "images")

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        return bar(batches, count, f"gallery ({images}, {kept} described before)", total=len(source) - kept)

    gallery, rows, skipped = index_images(
        reranker, source, path, dtype=config.index.dtype, batch_size=config.batch_size,
        on_bad_image=config.data.on_bad_image, progress=progress,
    )  # fmt: skip
    say(f"{path} holds {len(gallery)} described images, {kept} of them from before")
    say_skipped(skipped)
    return Side(source, gallery, rows, skipped, len(gallery) - kept)


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """Names the first images that were left out."""
    for item in skipped[:5]:
        warn(f"skipped {item.reason}")
    if len(skipped) > 5:
        warn(f"skipped {len(skipped) - 5} more: results.json names them")


def find(queries: Side, gallery: Side, depth: int, truth: Truth, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The first `depth` rows of the gallery for each query, by pooled vectors; of its own group, if any."""
    asked, held = queries.descriptors, gallery.descriptors
    points = asked.read_pooled(slice(None))()[0] if isinstance(asked, Gallery) else asked.pooled
    if truth.groups is None:
        if isinstance(held, Gallery):
            return held.search(points, depth, exclude=truth.own, mesh=mesh)
        return search(points, held, depth, exclude=truth.own, mesh=mesh)
    scores = np.full((len(points), depth), -np.inf, np.float32)
    index = np.full(scores.shape, -1)
    for group in np.unique(truth.groups[0]):
        rows, there = (np.flatnonzero(side == group) for side in truth.groups)
        if isinstance(held, Gallery):
            vectors, valid = held.read_pooled(there)()
        else:
            vectors, valid = held.pooled[there], held.valid[there].any(axis=1)
        scores[rows], best = search(points[rows], vectors, depth, valid=valid, mesh=mesh)
        index[rows] = np.where(best >= 0, there[best], -1)
    return scores, index


def find_truth(config: EvalConfig, queries: Side, gallery: Side) -> Truth:
    """Relevant images from the ground-truth file, else from classes, else none."""
    own = own_rows(queries, gallery)
    if config.data.ground_truth:
        listed = read_ground_truth(config.data.ground_truth, queries.source.names, gallery.source.names)
        positives = [np.flatnonzero(np.isin(gallery.rows, listed.get(int(i), []))) for i in queries.rows]
        return Truth.from_rows(positives, own)
    if isinstance(queries.source, PlaceSource) and isinstance(gallery.source, PlaceSource):
        return place_truth(config.data, queries.source.take(queries.rows), gallery.source.take(gallery.rows))
    if (places := named_place_truth(config.data, queries.names(), gallery.names(), own)) is not None:
        return places
    labels = align_labels(queries.source, gallery.source)
    if labels is None:
        return Truth(None, None, own)
    truth = Truth.from_labels(labels[0][queries.rows], labels[1][gallery.rows], own)
    return protocol_truth(config.data, truth) if config.data.source in PROTOCOLS else truth


def own_rows(queries: Side, gallery: Side) -> np.ndarray:
    """Per query, the gallery row that is the same file: it must not be its own first hit."""
    if queries is gallery:
        return np.arange(len(gallery.rows))
    if not (isinstance(queries.source, ListedSource) and isinstance(gallery.source, ListedSource)):
        return np.full(len(queries.rows), -1)
    row_of: dict[Hashable, int] = {}
    for row, i in enumerate(gallery.rows):
        row_of.setdefault(gallery.source.identity(int(i)), row)
    return np.array([row_of.get(queries.source.identity(int(i)), -1) for i in queries.rows])


def ranking_depth(rules: Sequence[RerankConfig], truth: Truth, gallery: int) -> int:
    """How many candidates per query are ranked: enough for every metric, and for reranking."""
    largest = max(map(len, truth.positives), default=0) if truth.positives else 0
    wanted = gallery if gallery <= WHOLE_RANKING else max(largest, *(rule.top_k for rule in rules))
    return max(wanted, *truth.ks)


def rerank_in_steps(
    queries: Descriptors | Gallery,
    gallery: Descriptors | Gallery,
    index: np.ndarray,
    config: RerankConfig,
    mesh: Mesh,
) -> Reranked:
    """Reranks some queries at a time, to show progress; a gallery in memory goes to the devices once."""
    if isinstance(gallery, Descriptors):
        gallery = sharding.replicate(gallery, mesh)
    step, what = 64, f"reranking {count_of(len(index), 'query', 'queries')}"
    starts = range(0, len(index), step)
    parts = [
        rerank(queries.take(rows), gallery, index[rows], config=config, mesh=mesh)
        for rows in bar(
            (slice(i, i + step) for i in starts), len(starts), what, total=len(index), unit="queries"
        )
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def compare(
    sweep: Sequence[tuple[dict[str, Any], RerankConfig]],
    config: EvalConfig,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    truth: Truth,
    before: np.ndarray,
    clock: run_files.Stopwatch,
) -> list[dict[str, Any]]:
    """Reranks once for each combination of a sweep; searched and described only once."""
    rows = []
    for chosen, unpriced in sweep:
        rule, spent = reranker.priced(unpriced), clock.seconds.get("sweep", 0.0)
        with clock.stage("sweep"):
            found = rerank_in_steps(queries.descriptors, gallery.descriptors, before, rule, reranker.mesh)
        cost = 1e3 * (clock.seconds["sweep"] - spent) / len(before)
        judged = judge(truth, before, found.index, seed=config.seed)
        rows.append({"fields": chosen, "milliseconds_per_query": cost, **judged})
    return rows


def find_gate(
    config: EvalConfig,
    queries: Side,
    gallery: Side,
    truth: Truth,
    depth: int,
    mesh: Mesh,
    clock: run_files.Stopwatch,
) -> tuple[Side, Truth, Gate | None, Calibration | None]:
    """When to rerank: as given, or learned from some of the queries at random; the others it never looks at.

    Returns:
        Those other queries, or all; what is known of them; the gate, None where all are reranked; and what it
        did on the queries it was learned from.
    """
    rule, count = config.rerank, len(queries.rows)
    if not rule.held_out:
        return queries, truth, Gate.read(rule.gate) if rule.gate else None, None
    if truth.positives is None:
        raise UserError("config.rerank.held_out learns from relevant images, and there are none known")
    held = round(rule.held_out * count)
    if not 0 < held < count:
        raise UserError(f"config.rerank.held_out is {rule.held_out}: {held} of {count} queries")
    lot = np.random.default_rng(config.seed).permutation(count)
    known, rest = np.sort(lot[:held]), np.sort(lot[held:])
    with clock.stage("gate"):
        own, answers = part_of(queries, gallery, known), truth.take(known)
        _, before = find(own, gallery, depth, answers, mesh)
        after = rerank_in_steps(own.descriptors, gallery.descriptors, before, rule, mesh)
        sharp = sharpness_of(own, gallery, config)
        judged = before, after, answers.hits(before), rule
        gate = calibrate_gate(*judged, sharpness=sharp)
        learned = judge_gate(gate, *judged, sharpness=sharp)
    return part_of(queries, gallery, rest), truth.take(rest), gate, learned


def part_of(queries: Side, gallery: Side, rows: np.ndarray) -> Side:
    """Some of the queries; what the gallery counts already is not counted again."""
    part = replace(queries, descriptors=queries.descriptors.take(rows), rows=queries.rows[rows])
    return replace(part, skipped=[], described=0) if queries is gallery else part


def sharpness_of(queries: Side, gallery: Side, config: EvalConfig) -> Callable[[Reranked], np.ndarray]:
    """How sharp the plans of the first candidates of an order are."""
    return lambda found: plan_sharpness(queries.descriptors, gallery.descriptors, found, config.rerank)


def open_gate(
    gate: Gate | None,
    learned: Calibration | None,
    config: EvalConfig,
    queries: Side,
    gallery: Side,
    truth: Truth,
    before: np.ndarray,
    after: Reranked,
) -> tuple[Reranked, EvalConfig, dict[str, Any]]:
    """The order that the gate leaves, the config with its weight, and what results.json says of it."""
    if gate is None:
        return after, config, {}
    sharp = sharpness_of(queries, gallery, config)
    result, opened = gate.open(before, after, config.rerank, sharpness=sharp)
    found: dict[str, Any] = {**asdict(gate), "reranked": float(opened.mean())}
    threshold = "" if gate.signal in ("always", "never") else f" of at least {gate.threshold:.4g}"
    say(
        f"gate: {gate.signal}{threshold}, weight {gate.weight:g}; {opened.mean():.0%} of the queries reranked"
    )
    if learned is not None:
        judged = judge_gate(gate, before, after, truth.hits(before), config.rerank, sharpness=sharp)
        found |= {"calibration": learned._asdict(), "rest": judged._asdict()}
    return result, replace(config, rerank=replace(config.rerank, weight=gate.weight)), {"gate": found}


def finish_index(
    config: EvalConfig, out: pathlib.Path, reranker: Reranker, gallery: Side, clock: run_files.Stopwatch
) -> dict[str, Any]:
    """Ends a run that only fills an index."""
    clock.close()
    results = {
        "task": config.task,
        "gallery": len(gallery.rows),
        "described_now": gallery.described,
        "images_per_second": gallery.described / clock.seconds["extract"],
        "seconds": clock.seconds | {"compile": sum(clock.compile_seconds.values())},
        **circumstances(config, reranker, {"gallery": gallery}),
    }
    if sharding.is_main_process():
        run_files.write_json(out / "results.json", results)
        run_files.remove_outputs(out)
        say(f"wrote {out / 'results.json'}")
    return results


def summarize(
    config: EvalConfig,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    truth: Truth,
    before: np.ndarray,
    after: Reranked,
    clock: run_files.Stopwatch,
) -> dict[str, Any]:
    """Everything results.json holds."""
    sides = {"gallery": gallery} | ({} if queries is gallery else {"query": queries})
    described, count = sum(side.described for side in sides.values()), len(queries.rows)
    matched = np.isfinite(after.structural)
    asked = before[:, : config.rerank.top_k] >= 0
    return {
        "task": config.task,
        **judge(truth, before, after.index, seed=config.seed),
        "groups": {
            name: judge(truth.take(rows), before[rows], after.index[rows], seed=config.seed)
            for name, rows in truth.by_group().items()
        },
        "milliseconds_per_query": {
            "extract": 1e3 * clock.seconds["extract"] / described if described else 0.0,
            "search": 1e3 * clock.seconds["search"] / count,
            "rerank": 1e3 * clock.seconds["rerank"] / count,
        },
        "images_per_second": described / clock.seconds["extract"],
        "seconds": clock.seconds | {"compile": sum(clock.compile_seconds.values())},
        "queries": count,
        "queries_counted": None if truth.positives is None else sum(map(bool, map(len, truth.positives))),
        "gallery": len(gallery.rows),
        "queries_found_in_gallery_and_left_out": int((truth.own >= 0).sum()),
        "transport": {
            "pairs": int(matched.sum()),
            "unmatched_pairs": int(asked.sum() - matched.sum()),
            "largest_marginal_error": float(np.max(after.error[matched], initial=0.0)),
            "uniform_fallback_pairs": int(after.fallback.sum()),
            "mean_mass": float(np.mean(after.mass[matched])) if matched.any() else None,
        },
        **circumstances(config, reranker, sides),
    }


def circumstances(config: EvalConfig, reranker: Reranker, sides: dict[str, Side]) -> dict[str, Any]:
    """What the results of every task say of the run itself."""
    return {
        "notes": notes_of(*(side.source for side in sides.values())),
        "weights": {
            "source": config.weights or "random",
            "report": str(reranker.load_report).splitlines() if reranker.load_report else [],
        },
        "skipped": [
            {"side": name, "index": item.index, "name": item.name, "reason": item.reason}
            for name, side in sides.items()
            for item in side.skipped
        ],
        "device": run_files.device(),
        "versions": doctor.versions(),
        "git_commit": run_files.git_commit(),
        "config": to_dict(config),
    }


def csv_row(config: EvalConfig, results: dict[str, Any]) -> dict[str, Any]:
    """One line for results.csv, with timm's column names where timm has one."""
    row = {
        "model": config.model.name,
        "weights": results["weights"]["source"],
        "infer_samples_per_sec": round(results["images_per_second"], 2),
        "infer_batch_size": config.batch_size,
        "method": config.rerank.method,
        "marginals": config.rerank.marginals,
        "epsilon": config.rerank.epsilon,
        "mass": config.rerank.mass,
        "price": config.rerank.price,
        "tau": config.rerank.tau,
    }
    for order, metrics in results["metrics"].items():
        row |= {f"{order}_{name}": value for name, value in metrics.items()}
    return row


if __name__ == "__main__":
    flags.run(main, EvalConfig, __doc__ or "")
