"""Result tables on stderr, and the JSON result line on stdout."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from vitjax import sharding
from vitjax.cli import run_files
from vitjax.cli.console import console, count_of, say, warn
from vitjax.evaluation import classify
from vitjax.retrieval.metrics.relevance import shares
from vitjax.viz.rankings import NamedRanking
from vitjax.viz.report import metric_name


def searched(results: dict[str, Any]) -> str:
    """Numbers of queries and gallery images."""
    queries = count_of(results["queries"], "query", "queries")
    return f"{queries} in {count_of(results['gallery'], 'picture', 'pictures')}"


def counted(judged: dict[str, Any]) -> str:
    """How many of the queries the metrics count; nothing where there are no metrics."""
    pooled = judged["metrics"]["pooled"]
    if "queries_counted" not in pooled:
        return ""
    alike = pooled["queries_counted"] == pooled["queries"]
    return ", all counted" if alike else f", {pooled['queries_counted']} of them counted"


def show_table(results: dict[str, Any]) -> None:
    """Prints both orders side by side, in percent with 95 % intervals, and what a query costs."""
    show_metrics(searched(results) + counted(results), results)
    for name, judged in results["groups"].items():
        queries = count_of(judged["metrics"]["pooled"]["queries"], "query", "queries")
        show_metrics(f"{name}: {queries}{counted(judged)}", judged)
    show_sweep(results["sweep"])
    cost = results["milliseconds_per_query"]
    say("milliseconds per query: " + ", ".join(f"{stage} {value:.1f}" for stage, value in cost.items()))
    if count := results["transport"]["uniform_fallback_pairs"]:
        warn(f"{count} pairs had a marginal of zeros; uniform weights replaced it")


def show_answers(ranking: NamedRanking, *, queries: int = 3, first: int = 5) -> None:
    """Prints the first results of each query, where there are no more than a few queries."""
    if len(ranking.query_names) > queries:
        return
    for query, name in enumerate(ranking.query_names):
        say(f"{name}: rank, score, image")
        rows, scores = (x[query, :first] for x in (ranking.after.index, ranking.after.score))
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1):
            if row >= 0:
                say(f"{rank:>4}  {score:.3f}  {ranking.gallery_names[int(row)]}")


def print_results(results: dict[str, Any]) -> None:
    """Prints the results as the last line on stdout, one JSON object, for whoever reads it through a pipe.

    On a terminal it would push the tables away, and the line before has named the file that holds the same.
    """
    if sharding.is_main_process() and not sys.stdout.isatty():
        print(json.dumps(run_files.plain(results), allow_nan=False))


def show_metrics(title: str, judged: dict[str, Any]) -> None:
    """Prints what `judge` returned, where anything is known."""
    if not measured(judged):
        return
    whole = metrics_table(title, judged, ends=True)
    console.print(whole if fits(whole) else metrics_table(title, judged, ends=False))


def measured(judged: dict[str, Any]) -> bool:
    """Whether any metric of what `judge` returned is a number."""
    return any(math.isfinite(value) for value in shares(judged["metrics"]["pooled"]).values())


def metrics_table(title: str, judged: dict[str, Any], *, ends: bool) -> Table:
    """A row for each metric in both orders, with the 95 % intervals or without."""
    before, after = shares(judged["metrics"]["pooled"]), shares(judged["metrics"]["reranked"])
    table = Table(title=title)
    table.add_column("metric, %", no_wrap=True)
    for column in ("pooled search", "reranked", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, old in before.items():
        cells = f"{100 * old:.1f}", f"{100 * after[name]:.1f}", f"{100 * (after[name] - old):+.1f}"
        found = [judged["intervals"][order].get(name) for order in ("pooled", "reranked", "difference")]
        row = (cell + interval(end if ends else None) for cell, end in zip(cells, found, strict=True))
        table.add_row(metric_name(name), *row)
    return table


def fits(table: Table) -> bool:
    """Whether a table is as wide as it wants to be; a pipe has 80 columns unless COLUMNS says otherwise."""
    return console.measure(table, options=console.options.update(width=1000)).maximum <= console.width


def interval(ends: Sequence[float] | None) -> str:
    """The ends of an interval in percent, as they stand behind a figure."""
    return f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""


def show_sweep(rows: Sequence[dict[str, Any]]) -> None:
    """Prints one table of a sweep, the pooled search first; of as many metrics as there is room for."""
    if not rows or not measured(rows[0]):
        return
    shown = [sweep_table(rows, count, ends=ends) for ends in (True, False) for count in (5, 3, 1)]
    console.print(next(filter(fits, shown), shown[-1]))


def sweep_table(rows: Sequence[dict[str, Any]], count: int, *, ends: bool) -> Table:
    """A row for each combination with the first few metrics, and the gain in the first of them."""
    pooled = shares(rows[0]["metrics"]["pooled"])
    fields, names = list(rows[0]["fields"]), list(pooled)[:count]
    table = Table(title="sweep, %")
    for name in fields:
        table.add_column(name.partition(".")[2], no_wrap=True)
    titles = [metric_name(name) for name in names]
    for column in (*titles, f"gain in {titles[0]}", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("pooled", *[""] * (len(fields) - 1), *(f"{100 * pooled[name]:.1f}" for name in names))
    for row in rows:
        found = row["metrics"]["reranked"]
        gain = f"{100 * (found[names[0]] - pooled[names[0]]):+.1f}"
        table.add_row(
            *(str(value) for value in row["fields"].values()),
            *(f"{100 * found[name]:.1f}" for name in names),
            gain + interval(row["intervals"]["difference"][names[0]] if ends else None),
            f"{row['milliseconds_per_query']:.1f}",
        )
    return table


def show_classes(results: dict[str, Any]) -> None:
    """Prints the table of a classification."""
    if not sharding.is_main_process():
        return
    table = Table(title=count_of(results["images"], "image", "images"))
    for i, column in enumerate(classify.COLUMNS):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in results["rows"]:
        table.add_row(*classify.cells(row))
    console.print(table)
