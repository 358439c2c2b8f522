r"""Search a gallery of pictures, rerank the best by matching patches, measure both orders, and show why.

python eval.py --config configs/demo.py --workdir runs/demo
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vitjax import doctor, parallel, program, record
from vitjax.config import EvalConfig, RerankConfig, to_dict, validate
from vitjax.data.pipeline import Batch, Skipped
from vitjax.data.scenes import SceneSource
from vitjax.data.sources import FolderSource, ImageSource, align_labels
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, Reranked, match_pairs, rerank, runs, search
from vitjax.retrieval.metrics import relevance_metrics, retrieval_metrics, same_label
from vitjax.viz.figures import matches_figure, ranking_figure, save_figure
from vitjax.viz.report import CandidateView, MatchView, QueryView, Report, SkippedView, write_report
from vitjax.weights import cache_dir

KS = (1, 5, 10)  # of recall
WHOLE_RANKING = 2000  # galleries up to this size are ranked to the end
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Side:
    """One side of the search: its pictures, and the descriptors of those that could be read.

    `rows[i]` is the picture (position in file-name order) that row i of the descriptors describes.
    """

    source: ImageSource
    descriptors: Descriptors
    rows: np.ndarray
    skipped: list[Skipped]

    def name(self, row: int) -> str:
        """Name of the picture that a row describes."""
        return self.source.names[self.rows[row]]


@dataclass(frozen=True)
class Truth:
    """What is known about right answers; row numbers are those of the descriptors.

    Attributes:
        positives: per query, the gallery rows that are right; None = nothing is known.
        labels: classes of queries and gallery, where the truth comes from classes.
        own: per query, the gallery row that is the query itself; -1 = none.
    """

    positives: list[np.ndarray] | None
    labels: tuple[np.ndarray, np.ndarray] | None
    own: np.ndarray

    def right(self, query: int, row: int) -> bool | None:
        """Whether a gallery row answers a query; None where nothing is known."""
        return None if self.positives is None else bool(np.isin(row, self.positives[query]))

    def metrics(self, index: np.ndarray) -> dict[str, float]:
        """Metrics of a ranking: with classes those of metric learning, else those of place recognition."""
        if self.labels is not None:
            searched_in_itself = bool((self.own >= 0).all())
            return retrieval_metrics(
                index, *self.labels, ref_includes_query=searched_in_itself, ks=KS, on_short="omit"
            )
        return {} if self.positives is None else relevance_metrics(index, self.positives, ks=KS)


def main(config: EvalConfig, workdir: str) -> None:
    """Runs the program; the last line on stdout is one JSON object with the final figures."""
    results = evaluate(config, workdir)
    if parallel.is_main_process():
        print(json.dumps(record.plain(results), allow_nan=False))


def evaluate(config: EvalConfig, workdir: str) -> dict:
    """Searches, reranks and measures; writes all under `workdir` and returns what results.json holds."""
    validate(config)
    parallel.initialize_distributed()
    out = open_workdir(workdir)
    if reason := doctor.idle_accelerator():
        raise program.UserError(reason)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    clock = record.Stopwatch()
    device = record.device()
    say(f"computing on {device['count']} x {device['kind']}, {device['processes']} process(es)")

    with clock.stage("load"):
        gallery_source, query_source = open_sources(config)
        reranker = Reranker.from_config(config)
    for note in notes_on_weights(config, reranker):
        say(f"[yellow]{note}[/yellow]")

    with clock.stage("extract"):
        gallery = describe(reranker, gallery_source, config, "gallery")
        queries = (
            gallery if query_source is gallery_source else describe(reranker, query_source, config, "queries")
        )
    truth = find_truth(config, queries, gallery)

    with clock.stage("search"):
        depth = ranking_depth(config, truth, len(gallery.rows))
        found, before = search(
            queries.descriptors, gallery.descriptors, depth, exclude=truth.own, mesh=reranker.mesh
        )
    with clock.stage("rerank"):
        after = rerank_in_steps(
            queries.descriptors, gallery.descriptors, before, config.rerank, reranker.mesh
        )
    clock.close()
    spent = sum(clock.compile_seconds.values())
    say(f"compiled {clock.compiled} programs in {spent:.1f} s ({clock.cached} from the cache)")

    results = summarize(config, reranker, queries, gallery, truth, before, after, clock)
    if not parallel.is_main_process():
        return results
    show_table(results)
    names = (
        [queries.name(i) for i in range(len(queries.rows))],
        [gallery.name(i) for i in range(len(gallery.rows))],
    )
    runs.write_run(out / "run_pooled.trec", *names, before, found, tag="pooled")
    runs.write_run(out / "run.trec", *names, after.index, after.score, tag="reranked")
    if truth.positives is not None:
        runs.write_qrels(out / "qrels.trec", *names, truth.positives)
    draw(config, out, reranker, queries, gallery, truth, before, after, results)
    record.write_json(out / "results.json", results)
    record.append_row(out / "results.csv", csv_row(config, results))
    say(f"wrote {out / 'results.json'}" + (f" and {out / 'report.html'}" if config.figures.report else ""))
    return results


def open_workdir(workdir: str) -> pathlib.Path:
    """Makes the output folder and proves that it can be written to, before any work is done."""
    out = pathlib.Path(workdir)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if parallel.is_main_process():
            record.write_text(out / ".writable", "")
            (out / ".writable").unlink()
    except OSError as error:
        raise program.UserError(
            f"--workdir {workdir}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    return out


def open_sources(config: EvalConfig) -> tuple[ImageSource, ImageSource]:
    """Gallery and query pictures; the same object where the gallery is searched in itself."""
    data = config.data
    if data.source == "scenes":
        return SceneSource("gallery"), SceneSource("query")
    if not data.gallery:
        raise program.UserError("say where the pictures are: --config.data.gallery=DIR")
    gallery = FolderSource(data.gallery)
    same = not data.query or pathlib.Path(data.query).resolve() == pathlib.Path(data.gallery).resolve()
    return gallery, gallery if same else FolderSource(data.query)


def notes_on_weights(config: EvalConfig, reranker: Reranker) -> list[str]:
    """What a person must know about the weights before believing a figure."""
    if not config.weights:
        return ["the weights are RANDOM: the figures say nothing about the model; set config.weights"]
    return list(reranker.load_report.notes) if reranker.load_report else []


def describe(reranker: Reranker, source: ImageSource, config: EvalConfig, what: str) -> Side:
    """Runs the model over one side's pictures, with a progress bar."""

    def progress(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        return bar(batches, count, f"{what} ({len(source)} pictures)")

    descriptors, rows, skipped = reranker.describe(
        source, batch_size=config.batch_size, on_bad_image=config.data.on_bad_image, progress=progress
    )
    for item in skipped[:5]:
        say(f"[yellow]skipped {escape(item.reason)}[/yellow]")
    if len(skipped) > 5:
        say(f"[yellow]skipped {len(skipped) - 5} more: results.json names them[/yellow]")
    return Side(source, descriptors, rows, skipped)


def find_truth(config: EvalConfig, queries: Side, gallery: Side) -> Truth:
    """Right answers from the ground-truth file, else from classes, else none."""
    own = own_rows(queries, gallery)
    if config.data.ground_truth:
        listed = read_ground_truth(config.data.ground_truth, len(queries.source), len(gallery.source))
        positives = [np.flatnonzero(np.isin(gallery.rows, listed.get(int(i), []))) for i in queries.rows]
        return Truth(positives, None, own)
    labels = align_labels(queries.source, gallery.source)
    if labels is None:
        return Truth(None, None, own)
    labels = labels[0][queries.rows], labels[1][gallery.rows]
    return Truth(same_label(*labels, own), labels, own)


def own_rows(queries: Side, gallery: Side) -> np.ndarray:
    """Per query, the gallery row that is the same file; it must not be its own first hit."""
    if queries is gallery:
        return np.arange(len(gallery.rows))
    if not (isinstance(queries.source, FolderSource) and isinstance(gallery.source, FolderSource)):
        return np.full(len(queries.rows), -1)
    row_of = {gallery.source.path(int(i)): row for row, i in enumerate(gallery.rows)}
    return np.array([row_of.get(queries.source.path(int(i)), -1) for i in queries.rows])


def read_ground_truth(path: str, queries: int, gallery: int) -> dict[int, list[int]]:
    """Reads {query index: [right gallery indices]}, an index being a position in file-name order."""
    try:
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        truth = {int(query): [int(i) for i in np.atleast_1d(right)] for query, right in pairs}
    except OSError as error:
        raise program.UserError(f"data.ground_truth {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise program.UserError(
            f'data.ground_truth {path}: expected JSON like {{"0": [3, 4], "1": [5]}}: query -> gallery indices'
        ) from None
    largest = max((i for right in truth.values() for i in right), default=-1)
    if max(truth, default=-1) >= queries or largest >= gallery:
        raise program.UserError(
            f"data.ground_truth {path} names query {max(truth)} and gallery picture {largest}, but there are "
            f"{queries} queries and {gallery} gallery pictures; an index is a place in file-name order, from 0"
        )
    return truth


def ranking_depth(config: EvalConfig, truth: Truth, gallery: int) -> int:
    """How many candidates per query are ranked: enough for every metric, and for reranking."""
    largest = max(map(len, truth.positives), default=0) if truth.positives else 0
    wanted = gallery if gallery <= WHOLE_RANKING else max(config.rerank.top_k, largest)
    return max(wanted, *KS)


def rerank_in_steps(
    queries: Descriptors, gallery: Descriptors, index: np.ndarray, config: RerankConfig, mesh: Mesh
) -> Reranked:
    """Reranks some queries at a time, to show progress; the gallery goes to the devices once."""
    gallery, step = parallel.replicate(gallery, mesh), 64
    starts = range(0, len(index), step)
    parts = [
        rerank(queries.take(rows), gallery, index[rows], config=config, mesh=mesh)
        for rows in bar((slice(i, i + step) for i in starts), len(starts), f"reranking {len(index)} queries")
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


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
    pictures = len(gallery.rows) + (0 if queries is gallery else len(queries.rows))
    skipped = {"gallery": gallery.skipped, "query": [] if queries is gallery else queries.skipped}
    count, matched = len(queries.rows), np.isfinite(after.structural)
    return {
        "task": config.task,
        "metrics": {"pooled": truth.metrics(before), "reranked": truth.metrics(after.index)},
        "milliseconds_per_query": {
            "extract": 1e3 * clock.seconds["extract"] / pictures,
            "search": 1e3 * clock.seconds["search"] / count,
            "rerank": 1e3 * clock.seconds["rerank"] / count,
        },
        "images_per_second": pictures / clock.seconds["extract"],
        "seconds": clock.seconds | {"compile": sum(clock.compile_seconds.values())},
        "queries": count,
        "gallery": len(gallery.rows),
        "own_file_left_out": int((truth.own >= 0).sum()),
        "transport": {
            "pairs": int(matched.sum()),
            "unmatched_pairs": int((after.index[:, : config.rerank.top_k] >= 0).sum() - matched.sum()),
            "largest_marginal_error": float(np.max(after.error[matched], initial=0.0)),
            "uniform_fallback_pairs": int(after.fallback.sum()),
        },
        "weights": {
            "source": config.weights or "random",
            "report": str(reranker.load_report) if reranker.load_report else "random",
        },
        "skipped": [
            {"side": side, "index": s.index, "name": s.name, "reason": s.reason}
            for side, items in skipped.items()
            for s in items
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
        "marginals": config.rerank.marginals,
        "epsilon": config.rerank.epsilon,
        "mass": config.rerank.mass,
    }
    for order, metrics in results["metrics"].items():
        row |= {f"{order}_{name}": value for name, value in metrics.items()}
    return row


def show_table(results: dict[str, Any]) -> None:
    """Prints both orders side by side, in percent, and what a query costs."""
    before, after = results["metrics"]["pooled"], results["metrics"]["reranked"]
    shares = [name for name in before if not name.startswith("queries")]
    if shares:
        table = Table("metric, %", title=f"{results['queries']} queries in {results['gallery']} pictures")
        for column in ("pooled search", "reranked", "difference"):
            table.add_column(column, justify="right")
        for name in shares:
            old, new = 100 * before[name], 100 * after[name]
            table.add_row(name.replace("_", " "), f"{old:.1f}", f"{new:.1f}", f"{new - old:+.1f}")
        console.print(table)
    cost = results["milliseconds_per_query"]
    say("milliseconds per query: " + ", ".join(f"{stage} {value:.1f}" for stage, value in cost.items()))
    transport = results["transport"]
    if transport["uniform_fallback_pairs"]:
        say(
            f"[yellow]{transport['uniform_fallback_pairs']} pairs had a marginal of zeros; "
            "uniform weights took its place[/yellow]"
        )


def draw(
    config: EvalConfig,
    out: pathlib.Path,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    truth: Truth,
    before: np.ndarray,
    after: Reranked,
    results: dict[str, Any],
) -> None:
    """Writes report.html and the PNG files under figures/."""
    figures = config.figures
    shown = range(min(len(queries.rows), max(figures.count, figures.report)))
    if not shown:
        return
    views = view_queries(config, reranker, queries, gallery, truth, before, after, shown)
    images = view_images(reranker, queries, gallery, views)
    if figures.count:
        (out / "figures").mkdir(exist_ok=True)
        for i, view in enumerate(views[: figures.count]):
            save_figure(
                out / "figures" / f"{i:03d}_ranking.png",
                ranking_figure(images, view, ranks=figures.candidates),
            )
            best = min(view.candidates, key=lambda c: c.rank_after or len(before))
            picture = matches_figure(images[view.image], images[best.image], best.matches)
            save_figure(out / "figures" / f"{i:03d}_matches.png", picture)
    if figures.report:
        kept = views[: figures.report]
        used = {key for view in kept for key in (view.image, *(c.image for c in view.candidates))}
        write_report(
            out / "report.html",
            make_report(config, kept, {key: images[key] for key in used}, results, reranker),
        )


def view_queries(
    config: EvalConfig,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    truth: Truth,
    before: np.ndarray,
    after: Reranked,
    shown: Iterable[int],
) -> list[QueryView]:
    """What the page says of each query: its first candidates before and after, and their matches."""
    ranks = config.figures.candidates
    chosen = {
        q: [int(r) for r in dict.fromkeys([*after.index[q, :ranks], *before[q, :ranks]]) if r >= 0]
        for q in shown
    }
    place = {
        q: (
            {int(r): i + 1 for i, r in enumerate(before[q])},
            {int(r): i for i, r in enumerate(after.index[q])},
        )
        for q in chosen
    }
    pairs = [
        (q, row)
        for q, rows in chosen.items()
        for row in rows
        if np.isfinite(after.structural[q, place[q][1][row]])
    ]
    found = match_pairs(
        queries.descriptors,
        gallery.descriptors,
        np.array([q for q, _ in pairs], np.int32),
        np.array([row for _, row in pairs], np.int32),
        config=config.rerank,
        top=config.figures.matches,
    )
    explained = {pair: found.explanation(i, reranker.token_grid) for i, pair in enumerate(pairs)}
    tokens = queries.descriptors.tokens.shape[1] * gallery.descriptors.tokens.shape[1]
    views = []
    for q, rows in chosen.items():
        was, now = place[q]
        candidates = []
        for row in rows:
            i, why = now[row], explained.get((q, row))
            candidates.append(
                CandidateView(
                    image=f"g{row}",
                    name=gallery.name(row),
                    rank_before=was[row],
                    rank_after=i + 1,
                    pooled=float(after.pooled[q, i]),
                    structural=why.structural if why else None,
                    score=why.structural + config.rerank.weight * float(after.pooled[q, i]) if why else None,
                    right=truth.right(q, row),
                    label=label_of(gallery, row),
                    matches=[
                        MatchView(m.query_box, m.candidate_box, m.similarity, m.mass, m.contribution)
                        for m in why.matches
                    ]
                    if why
                    else (),
                    remaining_pairs=tokens - len(why.matches) if why else 0,
                    remaining_contribution=why.remainder if why else 0.0,
                    note="a marginal was all zero: uniform weights were used" if after.fallback[q, i] else "",
                )
            )
        views.append(
            QueryView(image=f"q{q}", name=queries.name(q), candidates=candidates, label=label_of(queries, q))
        )
    return views


def label_of(side: Side, row: int) -> str:
    """Class name of a row, empty where there are no classes."""
    labels = side.source.labels
    return "" if labels is None else side.source.class_names[labels[side.rows[row]]]


def view_images(
    reranker: Reranker, queries: Side, gallery: Side, views: Sequence[QueryView]
) -> dict[str, np.ndarray]:
    """The pictures that the views name, as the model saw them."""
    keys = dict.fromkeys(key for view in views for key in (view.image, *(c.image for c in view.candidates)))
    sides = {"q": queries, "g": gallery}
    return {
        key: reranker.preprocess.view(side.source.read(int(side.rows[int(key[1:])])))
        for key in bar(list(keys), len(keys), "drawing")
        for side in [sides[key[0]]]
    }


def make_report(
    config: EvalConfig,
    views: Sequence[QueryView],
    images: dict[str, np.ndarray],
    results: dict[str, Any],
    reranker: Reranker,
) -> Report:
    """Fills the page."""
    model, rule, metrics = config.model, config.rerank, results["metrics"]
    h, w = reranker.token_grid
    return Report(
        title="Search, and search again patch by patch",
        subtitle=f"{results['queries']} queries in {results['gallery']} pictures; the first {rule.top_k} "
        "candidates of each were matched patch by patch and put in a new order",
        images=images,
        queries=views,
        ranks=config.figures.candidates,
        weight=rule.weight,
        metrics_before={k: v for k, v in metrics["pooled"].items() if not k.startswith("queries")},
        metrics_after={k: v for k, v in metrics["reranked"].items() if not k.startswith("queries")},
        milliseconds=results["milliseconds_per_query"],
        settings={
            "model": model.name,
            "weights": results["weights"]["source"],
            "tokens": f"after block {model.block}, {h} x {w}",
            "marginals": rule.marginals,
            "epsilon": rule.epsilon,
            "mass": rule.mass,
            "weight of pooled score": rule.weight,
            "iterations": rule.iterations,
            "largest marginal error": f"{results['transport']['largest_marginal_error']:.1e}",
        },
        environment={
            "device": f"{results['device']['count']} x {results['device']['kind']}",
            **results["versions"],
        },
        random_weights=not config.weights,
        notes=notes_on_weights(config, reranker) if config.weights else (),
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
