r"""Search a gallery of pictures, rerank the best by matching patches, measure both orders, and show why.

python eval.py --config configs/demo.py --workdir runs/demo

Or classify pictures, dense and with fewer tokens: configs/classify_*.py.
"""

from vitjax import program

if __name__ == "__main__":
    program.use_large_pages()

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vitjax import classification, doctor, parallel, record
from vitjax.config import PROTOCOLS, EvalConfig, RerankConfig, to_dict, validate
from vitjax.data.msls import PlaceSource
from vitjax.data.pipeline import Batch, Skipped
from vitjax.data.scenes import SceneSource
from vitjax.data.sources import FolderSource, ImageSource, align_labels
from vitjax.data.tfds import TfdsSource
from vitjax.indexing import index_pictures
from vitjax.protocols import open_protocol, place_truth, protocol_truth
from vitjax.reranker import Reranker
from vitjax.retrieval import (
    Descriptors,
    Explanation,
    Gallery,
    Gate,
    Reranked,
    calibrate_gate,
    deletion,
    judge_gate,
    match_pairs,
    pair_plans,
    plan_sharpness,
    rerank,
    runs,
    search,
)
from vitjax.retrieval.gate import Calibration
from vitjax.retrieval.truth import Truth, judge, read_ground_truth
from vitjax.sweep import parse_sweep
from vitjax.viz.figures import matches_figure, ranking_figure, save_figure
from vitjax.viz.plans import Patches, PlanView, entries_within, patches_of, sparse_plan
from vitjax.viz.rankings import Rankings
from vitjax.viz.report import PLAN_BYTES, metric_name, write_report
from vitjax.viz.views import QueryView, Report, SkippedView
from vitjax.weights import cache_dir

WHOLE_RANKING = 2000  # galleries up to this size are ranked to the end
DELETIONS = 32  # first hits of which patches are taken away, to see whether the score hangs on them
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the search: its pictures, and the descriptors of those that could be read.

    `rows[i]` is the picture (position in file-name order) that row i of the descriptors describes. A gallery
    is on a disk, and is read where it is needed.
    """

    source: ImageSource
    descriptors: Descriptors | Gallery
    rows: np.ndarray
    skipped: list[Skipped]
    described: int  # pictures that this run had to describe

    def names(self) -> list[str]:
        """Name of the picture of each row."""
        return [self.source.names[i] for i in self.rows]

    def classes(self) -> list[str] | None:
        """Class name of each row; None where there are no classes."""
        labels = self.source.labels
        return None if labels is None else [self.source.class_names[labels[i]] for i in self.rows]

    def seen(self, row: int, reranker: Reranker) -> np.ndarray:
        """The picture of a row as the model saw it."""
        return reranker.preprocess.view(self.source.read(int(self.rows[row])))


def main(config: EvalConfig, workdir: str) -> None:
    """Runs the program; the last line on stdout is one JSON object with the final figures."""
    results = evaluate(config, workdir)
    if parallel.is_main_process():
        print(json.dumps(record.plain(results), allow_nan=False))


def evaluate(config: EvalConfig, workdir: str) -> dict[str, Any]:
    """Searches, reranks and measures; writes all under `workdir` and returns what results.json holds."""
    validate(config)
    sweep = parse_sweep(config.sweep, config.rerank)
    out = start(workdir)
    clock = record.Stopwatch()
    if config.task == "classify":
        results = classification.evaluate(config, out, say, bar)
        show_classes(results)
        return results

    with clock.stage("load"):
        gallery_source, query_source = open_sources(config)
        reranker = Reranker.from_config(config)
        config = measure(reranker, config)
    if not config.weights:
        say("[yellow]the weights are RANDOM: the figures say nothing; set config.weights[/yellow]")

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
    if not parallel.is_main_process():
        return results
    show_table(results)
    rankings = Rankings(
        before, after, queries.names(), gallery.names(), queries.classes(), gallery.classes(), truth.right,
        weight=config.rerank.weight, ranks=config.figures.candidates,
    )  # fmt: skip
    names = rankings.query_names, rankings.gallery_names
    runs.write_run(out / "run_pooled.trec", *names, before, found, tag="pooled")
    runs.write_run(out / "run.trec", *names, after.index, after.score, tag="reranked")
    if truth.positives is not None:
        runs.write_qrels(out / "qrels.trec", *names, truth.positives)
    results["explanations"] = draw(config, out, reranker, queries, gallery, rankings, results)
    record.append_row(out / "results.csv", csv_row(config, results))
    record.write_json(out / "results.json", results)
    say(f"wrote {out / 'results.json'}" + (f" and {out / 'report.html'}" if config.figures.report else ""))
    return results


def start(workdir: str) -> pathlib.Path:
    """Looks at the machine and opens the output folder, before any work is done."""
    parallel.initialize_distributed()
    out = program.open_workdir(workdir, writes=parallel.is_main_process())
    if reason := doctor.idle_accelerator():
        raise program.UserError(reason)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    device = record.device()
    say(f"computing on {device['count']} x {device['kind']}, {device['processes']} process(es)")
    return out


def measure(reranker: Reranker, config: EvalConfig) -> EvalConfig:
    """Measures what a recipe asks for on pictures without labels, and returns the config with its price."""
    if config.model.center != "none":
        say(f"measuring the centre of the tokens ({config.model.center})")
        reranker.center  # noqa: B018  (measured on first use; here it counts as loading)
    if config.task == "index":
        return config
    config = replace(config, rerank=reranker.rule)
    if config.rerank.price > 0:
        say(f"matches of a cost above {config.rerank.price:.3f} are not made")
    return config


def open_sources(config: EvalConfig) -> tuple[ImageSource, ImageSource]:
    """Gallery and query pictures; the same object where the gallery is searched in itself."""
    data = config.data
    if data.source == "scenes":
        return SceneSource("gallery"), SceneSource("query")
    if data.source in PROTOCOLS:
        return open_protocol(data)
    if data.source == "tfds":
        dataset: Any = TfdsSource(data.name, data.split, data.images)  # labels are read when asked for
        return dataset, dataset
    if not data.gallery:
        raise program.UserError("say where the pictures are: --config.data.gallery=DIR")
    gallery = FolderSource(data.gallery)
    same = not data.query or pathlib.Path(data.query).resolve() == pathlib.Path(data.gallery).resolve()
    return gallery, gallery if same else FolderSource(data.query)


def describe(reranker: Reranker, source: ImageSource, config: EvalConfig, what: str) -> Side:
    """Runs the model over one side's pictures, with a progress bar."""

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        return bar(batches, count, f"{what} ({len(source)} pictures)")

    descriptors, rows, skipped = reranker.describe(
        source, batch_size=config.batch_size, on_bad_image=config.data.on_bad_image, progress=progress
    )
    say_skipped(skipped)
    return Side(source, descriptors, rows, skipped, len(rows))


def index(reranker: Reranker, source: ImageSource, config: EvalConfig) -> Side:
    """The gallery's descriptors from `config.index.path`; those that are not there yet are made first."""
    path = config.index.path
    kept = len(Gallery.open(path)) if Gallery.exists(path) else 0

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        return bar(batches, count, f"gallery ({len(source)} pictures, {kept} of them described before)")

    gallery, rows, skipped = index_pictures(
        reranker, source, path, dtype=config.index.dtype, batch_size=config.batch_size,
        on_bad_image=config.data.on_bad_image, progress=progress,
    )  # fmt: skip
    say(f"{escape(path)} holds {len(gallery)} described pictures, {kept} of them from before")
    say_skipped(skipped)
    return Side(source, gallery, rows, skipped, len(gallery) - kept)


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """Names the first pictures that were left out."""
    for item in skipped[:5]:
        say(f"[yellow]skipped {escape(item.reason)}[/yellow]")
    if len(skipped) > 5:
        say(f"[yellow]skipped {len(skipped) - 5} more: results.json names them[/yellow]")


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
    """Right answers from the ground-truth file, else from classes, else none."""
    own = own_rows(queries, gallery)
    if config.data.ground_truth:
        listed = read_ground_truth(config.data.ground_truth, len(queries.source), len(gallery.source))
        positives = [np.flatnonzero(np.isin(gallery.rows, listed.get(int(i), []))) for i in queries.rows]
        return Truth(positives, None, own)
    if isinstance(queries.source, PlaceSource) and isinstance(gallery.source, PlaceSource):
        return place_truth(config.data, queries.source.take(queries.rows), gallery.source.take(gallery.rows))
    labels = align_labels(queries.source, gallery.source)
    if labels is None:
        return Truth(None, None, own)
    truth = Truth.from_labels(labels[0][queries.rows], labels[1][gallery.rows], own)
    return protocol_truth(config.data, truth) if config.data.source in PROTOCOLS else truth


def own_rows(queries: Side, gallery: Side) -> np.ndarray:
    """Per query, the gallery row that is the same file: it must not be its own first hit."""
    if queries is gallery:
        return np.arange(len(gallery.rows))
    if not (isinstance(queries.source, FolderSource) and isinstance(gallery.source, FolderSource)):
        return np.full(len(queries.rows), -1)
    row_of = {gallery.source.path(int(i)): row for row, i in enumerate(gallery.rows)}
    return np.array([row_of.get(queries.source.path(int(i)), -1) for i in queries.rows])


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
        gallery = parallel.replicate(gallery, mesh)
    step = 64
    starts = range(0, len(index), step)
    parts = [
        rerank(queries.take(rows), gallery, index[rows], config=config, mesh=mesh)
        for rows in bar((slice(i, i + step) for i in starts), len(starts), f"reranking {len(index)} queries")
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
    clock: record.Stopwatch,
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
    clock: record.Stopwatch,
) -> tuple[Side, Truth, Gate | None, Calibration | None]:
    """When to rerank: as given, or learned from some of the queries by lot; the others it never looks at.

    Returns:
        Those other queries, or all; what is known of them; the gate, None where all are reranked; and what it
        did on the queries it was learned from.
    """
    rule, count = config.rerank, len(queries.rows)
    if not rule.held_out:
        return queries, truth, Gate.read(rule.gate) if rule.gate else None, None
    if truth.positives is None:
        raise program.UserError("config.rerank.held_out learns from right answers, and there are none known")
    held = round(rule.held_out * count)
    if not 0 < held < count:
        raise program.UserError(f"config.rerank.held_out is {rule.held_out}: {held} of {count} queries")
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
    config: EvalConfig, out: pathlib.Path, reranker: Reranker, gallery: Side, clock: record.Stopwatch
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
    if parallel.is_main_process():
        record.write_json(out / "results.json", results)
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
    clock: record.Stopwatch,
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
        "weights": {
            "source": config.weights or "random",
            "report": str(reranker.load_report).splitlines() if reranker.load_report else [],
        },
        "skipped": [
            {"side": name, "index": item.index, "name": item.name, "reason": item.reason}
            for name, side in sides.items()
            for item in side.skipped
        ],
        "device": record.device(),
        "versions": record.versions(),
        "git_commit": record.git_commit(),
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


def show_table(results: dict[str, Any]) -> None:
    """Prints both orders side by side, in percent with 95 % intervals, and what a query costs."""
    show_metrics(f"{results['queries']} queries in {results['gallery']} pictures", results)
    for name, judged in results["groups"].items():
        show_metrics(f"{name}: {judged['metrics']['pooled']['queries']} queries", judged)
    show_sweep(results["sweep"])
    cost = results["milliseconds_per_query"]
    say("milliseconds per query: " + ", ".join(f"{stage} {value:.1f}" for stage, value in cost.items()))
    if count := results["transport"]["uniform_fallback_pairs"]:
        say(f"[yellow]{count} pairs had a marginal of zeros; uniform weights took its place[/yellow]")


def show_metrics(title: str, judged: dict[str, Any]) -> None:
    """Prints what `judge` returned, where anything is known."""
    before, after = shares(judged["metrics"]["pooled"]), shares(judged["metrics"]["reranked"])
    if not before:
        return
    table = Table("metric, %", title=title)
    for column in ("pooled search", "reranked", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, old in before.items():
        cells = f"{100 * old:.1f}", f"{100 * after[name]:.1f}", f"{100 * (after[name] - old):+.1f}"
        ends = [judged["intervals"][order].get(name) for order in ("pooled", "reranked", "difference")]
        row = (cell + interval(end) for cell, end in zip(cells, ends, strict=True))
        table.add_row(metric_name(name), *row)
    console.print(table)


def interval(ends: Sequence[float] | None) -> str:
    """The ends of an interval in percent, as they stand behind a figure."""
    return f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""


def show_sweep(rows: Sequence[dict[str, Any]]) -> None:
    """Prints one table of a sweep, the pooled search first."""
    pooled = shares(rows[0]["metrics"]["pooled"]) if rows else {}
    if not pooled:
        return
    fields, names = list(rows[0]["fields"]), list(pooled)[:5]
    table = Table(*(name.partition(".")[2] for name in fields), title="sweep, %")
    titles = [metric_name(name) for name in names]
    for column in (*titles, f"gain in {titles[0]}", "ms"):
        table.add_column(column, justify="right")
    table.add_row("pooled", *[""] * (len(fields) - 1), *(f"{100 * pooled[name]:.1f}" for name in names))
    for row in rows:
        found = row["metrics"]["reranked"]
        gain = f"{100 * (found[names[0]] - pooled[names[0]]):+.1f}"
        table.add_row(
            *(str(value) for value in row["fields"].values()),
            *(f"{100 * found[name]:.1f}" for name in names),
            gain + interval(row["intervals"]["difference"][names[0]]),
            f"{row['milliseconds_per_query']:.1f}",
        )
    console.print(table)


def show_classes(results: dict[str, Any]) -> None:
    """Prints the table of a classification."""
    if not parallel.is_main_process():
        return
    table = Table(title=f"{results['pictures']} pictures")
    for i, column in enumerate(classification.COLUMNS):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in results["rows"]:
        table.add_row(*classification.cells(row))
    console.print(table)


def shares(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are shares in [0, 1], without the counts of queries."""
    return {name: value for name, value in metrics.items() if not name.startswith("queries")}


def draw(
    config: EvalConfig,
    out: pathlib.Path,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    rankings: Rankings,
    results: dict[str, Any],
) -> dict[str, Any]:
    """Writes report.html, and PNG files of the queries whose first hit changed before the others.

    Returns:
        How true the explanations are; see `judge_explanations`.
    """
    figures, count = config.figures, len(queries.rows)
    in_report = range(min(figures.report, count))
    as_png = sorted(range(count), key=lambda q: not rankings.first_hit_changed(q))[: figures.count]
    views = view_queries(
        config, reranker, queries, gallery, rankings, list(dict.fromkeys([*in_report, *as_png]))
    )
    judged = judge_explanations(config, queries, gallery, rankings, views)
    images = view_images(reranker, queries, gallery, list(views.values()))
    for q in as_png:
        (out / "figures").mkdir(exist_ok=True)
        best = min(views[q].candidates, key=lambda candidate: candidate.rank_after or np.inf)
        ranking = ranking_figure(images, views[q], ranks=figures.candidates)
        save_figure(out / "figures" / f"{q:04d}_ranking.png", ranking)
        matches = matches_figure(images[views[q].image], images[best.image], best.matches)
        save_figure(out / "figures" / f"{q:04d}_matches.png", matches, limit=500_000)
    if in_report:
        shown = [views[q] for q in in_report]
        used = {key: images[key] for view in shown for key in keys_of(view)}
        patches = view_patches(reranker, queries, gallery, list(used))
        told = results | {"explanations": judged}
        write_report(
            out / "report.html", make_report(config, shown, used, patches, told, reranker.token_grid)
        )
    return judged


def view_queries(
    config: EvalConfig,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    rankings: Rankings,
    shown: list[int],
) -> dict[int, QueryView]:
    """What the page says of each query: its first candidates in both orders, and why they match."""
    pairs = [(q, row) for q in shown for row in rankings.matched(q)]
    rows = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    asked = (queries.descriptors, gallery.descriptors, *rows)
    top, tokens = config.figures.matches, (asked[0].sizes.tokens, asked[1].sizes.tokens)
    found = match_pairs(*asked, config=config.rerank, top=top)
    room = entries_within(PLAN_BYTES, tokens, len(pairs))
    explained: dict[int, dict[int, Explanation]] = {q: {} for q in shown}
    plans: dict[int, dict[int, PlanView]] = {q: {} for q in shown}
    for i, plan in enumerate(pair_plans(*asked, config=config.rerank)):
        q, row = pairs[i]
        explained[q][row] = found.explanation(i, reranker.token_grid)
        plans[q][row] = sparse_plan(plan, entries=room, strongest=top)
    return {q: rankings.view(q, explained[q], plans[q], tokens[0] * tokens[1]) for q in shown}


def judge_explanations(
    config: EvalConfig, queries: Side, gallery: Side, rankings: Rankings, views: dict[int, QueryView]
) -> dict[str, Any]:
    """Whether the parts of a plan make the score that ordered the candidates, and whether it hangs on them.

    Returns:
        Number of pairs, the largest gap between a score and its parts; and of up to `DELETIONS` first hits
        the mean structural score as it is, without the query patches that add most, and without as many
        random ones (an eighth to a half of them; see `vitjax.retrieval.deletion`).
    """
    gaps, found = [], []
    for q, view in views.items():
        for candidate in view.candidates:
            if candidate.plan is None or candidate.rank_after is None:
                continue
            score = rankings.after.structural[q, candidate.rank_after - 1]
            gaps.append(abs(candidate.plan.structural - float(score)))
            if candidate.rank_after == 1 and len(found) < DELETIONS and config.rerank.method != "pooled":
                pair = queries.descriptors.take([q]), gallery.descriptors.take([int(candidate.image[1:])])
                if np.asarray(pair[0].valid).sum() > 1:
                    found.append(
                        deletion(*pair, candidate.plan.adds[0][None], config=config.rerank, draws=30)
                    )
    judged: dict[str, Any] = {"pairs": len(gaps), "largest_additivity_error": max(gaps, default=None)}
    if found:
        gain = np.array([each.gain[0] for each in found])
        judged["deletion"] = {
            "pairs": len(found),
            "structural": float(np.mean([each.whole for each in found])),
            "without_first": float(np.mean([each.chosen for each in found])),
            "without_random": float(np.mean([each.random for each in found])),
            "gain": float(gain.mean()),
            "gain_standard_error": float(gain.std() / np.sqrt(len(gain))),
        }
    return judged


def say_judged(judged: dict[str, Any]) -> str:
    """The same in one sentence; empty where nothing was explained."""
    if not judged["pairs"]:
        return ""
    gap = f"{judged['largest_additivity_error']:.0e}"
    text = f"What the patches add makes up each of {judged['pairs']} scores, to {gap}"
    if fell := judged.get("deletion"):
        text += (
            f"; without the query patches that add most, the structural score of {fell['pairs']} first hits "
            f"falls from {fell['structural']:.3f} to {fell['without_first']:.3f}, without as many random "
            f"ones to {fell['without_random']:.3f} (an eighth to a half taken away; difference "
            f"{fell['gain']:.3f}, standard error {fell['gain_standard_error']:.3f})"
        )
    return text + "."


def view_patches(reranker: Reranker, queries: Side, gallery: Side, keys: list[str]) -> dict[str, Patches]:
    """What became of the patches of each picture on the page."""
    found = {}
    for side, letter in ((queries, "q"), (gallery, "g")):
        own = [key for key in keys if key[0] == letter]
        images = side.descriptors.take(np.array([int(key[1:]) for key in own], np.int32)) if own else None
        for i, key in enumerate(own):
            found[key] = patches_of(images, i, reranker.token_grid, reranker.patch_grid)
    return found


def view_images(
    reranker: Reranker, queries: Side, gallery: Side, views: Sequence[QueryView]
) -> dict[str, np.ndarray]:
    """The pictures that the views name, as the model saw them."""
    keys = list(dict.fromkeys(key for view in views for key in keys_of(view)))
    sides = {"q": queries, "g": gallery}
    return {key: sides[key[0]].seen(int(key[1:]), reranker) for key in bar(keys, len(keys), "drawing")}


def keys_of(view: QueryView) -> list[str]:
    """Names of the pictures in a view."""
    return [view.image, *(candidate.image for candidate in view.candidates)]


def make_report(
    config: EvalConfig,
    views: Sequence[QueryView],
    images: dict[str, np.ndarray],
    patches: dict[str, Patches],
    results: dict[str, Any],
    grid: tuple[int, int],
) -> Report:
    """Fills the page."""
    model, rule = config.model, config.rerank
    return Report(
        title="Search, and search again patch by patch",
        subtitle=f"{results['queries']} queries in {results['gallery']} pictures; the first {rule.top_k} "
        "candidates of each were matched patch by patch and put in a new order",
        images=images,
        queries=views,
        patches=patches,
        ranks=config.figures.candidates,
        weight=rule.weight,
        metrics_before=shares(results["metrics"]["pooled"]),
        metrics_after=shares(results["metrics"]["reranked"]),
        intervals={order: results["intervals"][order] for order in ("pooled", "reranked", "difference")},
        milliseconds=results["milliseconds_per_query"],
        explained=say_judged(results["explanations"]),
        settings={
            "model": model.name,
            "weights": results["weights"]["source"].partition("#")[0],
            "tokens": f"after block {model.block}, {grid[0]} x {grid[1]}",
            "taken out of the tokens": model.center,
            "method": rule.method,
            "marginals": rule.marginals,
            "epsilon": rule.epsilon,
            "mass": rule.mass,
            **({"price": rule.price} if rule.price else {}),
            "tau": rule.tau,
            "weight of pooled score": rule.weight,
            "iterations": rule.iterations,
            "largest marginal error": f"{results['transport']['largest_marginal_error']:.1e}",
        },
        environment={
            "device": f"{results['device']['count']} x {results['device']['kind']}",
            **results["versions"],
        },
        random_weights=not config.weights,
        skipped=[SkippedView(item["name"], item["reason"]) for item in results["skipped"]],
    )


def bar(items: Iterable[Any], count: int, what: str) -> Iterator[Any]:
    """Yields items with a progress bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not parallel.is_main_process()) as progress:
        yield from progress.track(items, total=count, description=what)


def say(text: str) -> None:
    """Prints a line for people, once per run."""
    if parallel.is_main_process():
        console.print(text)


if __name__ == "__main__":
    program.run(main, EvalConfig, __doc__ or "")
