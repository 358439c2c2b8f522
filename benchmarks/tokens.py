r"""Recall, index and speed against tokens per image, for every reducer: one table, one figure.

    python -m benchmarks.tokens --gallery DIR --query DIR --ground-truth FILE [--config configs/places.py]
        [--tokens 32 64 98 --reducers grid ward tome topk --csv FILE --plot FILE.png]
        [--limit 600 --cache DIR]

Rows: all tokens; tokens averaged on a coarser grid, or in groups of alike ones, after the model; tokens
merged (ToMe) or dropped (top-k by CLS attention, EViT, at random, evenly) inside the model, each as close to
the wanted numbers as it comes. Of those that rank tokens, once more with the tokens' scores as marginals. No
row is trained. Everything else is as the config says.

Columns: tokens of one image; recall@1 of pooled search and of its reranking; bytes of one image in a float16
gallery, before compression; images/s of the model and reranked pairs/s, both without compilation, and the
latter in units of all tokens. Without --query the gallery is searched in itself. With --cache images pass
through the model once for all rows that have fewer tokens after it, and in later runs never; images/s are
then those of reducers inside the model alone.

`--read FILE.csv ...` prints and draws what earlier runs measured; each run has a row for all tokens, which
its speeds refer to, and the first of these is shown.
"""

import argparse
import csv
import importlib.util
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.kept_tokens import KeptTokens
from benchmarks.searched import config_of, searched
from vitjax.cli import flags
from vitjax.config import EvalConfig, ReduceConfig, blocks_of
from vitjax.data.sources.base import FolderSource
from vitjax.models.from_config import backbone
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, rerank, search
from vitjax.retrieval.aggregate import AGGREGATORS

WAYS = ("grid", *AGGREGATORS, "tome", "topk", "evit", "random", "uniform")
RANKING = ("topk", "evit")


class Row(NamedTuple):
    """One line of the table; `model` and `infer_samples_per_sec` are timm's names."""

    model: str
    tokens: int
    marginals: str
    recall_pooled: float
    recall_reranked: float
    index_bytes: int
    infer_samples_per_sec: float
    pairs_per_sec: float
    speedup: float  # of reranking, over all tokens


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib")
    if args.read:
        found = [row for file in args.read for row in read(file)]
        rows = [row for i, row in enumerate(found) if not i or row.model != found[0].model]
    else:
        rows = list(_measured(args))
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([Row._fields, *rows])
    if args.plot:
        plot(rows, args.plot)
    if args.read:
        print(HEAD, *map(line, rows), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", default="configs/places.py", help="FILE.py or FILE.py:preset")
    parser.add_argument("--gallery", type=pathlib.Path, help="folder of images")
    parser.add_argument("--query", type=pathlib.Path, help="folder of images")
    parser.add_argument("--ground-truth", type=pathlib.Path, help="JSON, as for eval.py")
    parser.add_argument("--limit", type=int, default=0, help="so many images drawn at random; 0 = all")
    parser.add_argument("--cache", type=pathlib.Path, help="folder for all tokens of the images")
    parser.add_argument("--tokens", type=int, nargs="*", default=[49, 64, 98, 137, 196])
    parser.add_argument("--reducers", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument(
        "--read", type=pathlib.Path, nargs="*", help="tables of earlier runs, to print or draw"
    )
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    parser.add_argument("--plot", type=pathlib.Path, help="image of the table; needs matplotlib")
    return parser


HEAD = (
    "| | tokens | marginals | pooled R@1 | reranked R@1 | bytes/image | images/s | pairs/s | speed |\n"
    "|---|---:|---|---:|---:|---:|---:|---:|---:|"
)


def line(row: Row) -> str:
    """A row in Markdown."""
    speed = "-" if math.isnan(row.infer_samples_per_sec) else f"{row.infer_samples_per_sec:.1f}"
    return (
        f"| {row.model} | {row.tokens} | {row.marginals} | {100 * row.recall_pooled:.1f} "
        f"| {100 * row.recall_reranked:.1f} | {row.index_bytes:,} | {speed} "
        f"| {row.pairs_per_sec:,.0f} | {row.speedup:.1f} |"
    )


def read(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a table that `--csv` wrote."""
    with path.open(newline="") as file:
        for found in csv.DictReader(file):
            yield Row(*(kind(found[name]) for name, kind in Row.__annotations__.items()))


def _measured(args: argparse.Namespace) -> Iterator[Row]:
    config = config_of(args.config)
    if not args.gallery:
        raise SystemExit("--gallery is missing; or --read tables of earlier runs")
    kept = KeptTokens(config, args.cache) if args.cache else None
    print(HEAD, flush=True)
    whole = 0.0
    for label, changed in variants(config, args.tokens, args.reducers):
        for row in _measure(label, changed, whole, args, None if changed.reduce.name else kept):
            whole = whole or row.pairs_per_sec
            print(line(row), flush=True)
            yield row


def variants(
    config: EvalConfig, counts: Sequence[int], ways: Sequence[str]
) -> Iterator[tuple[str, EvalConfig]]:
    """The configs of the table by label."""
    plain = replace(config, model=replace(config.model, grid=0))
    yield "all tokens", plain
    for way in ways:
        for count in counts:
            if way == "grid":
                yield way, replace(config, model=replace(config.model, grid=round(math.sqrt(count))))
            elif way in AGGREGATORS:
                model = replace(plain.model, tokens=count, aggregate=way)
                yield way, replace(plain, model=model)
            else:
                yield way, replace(plain, reduce=nearest(plain, way, count))


def nearest(config: EvalConfig, name: str, count: int) -> ReduceConfig:
    """How much a reducer must do so that about `count` tokens are left after the config's block."""
    if name == "tome":
        choices = [ReduceConfig(name, r=r) for r in range(64)]
    else:
        choices = [ReduceConfig(name, keep_ratio=thousandths / 1000) for thousandths in range(50, 1001)]

    def off(reduce: ReduceConfig) -> int:
        return abs(tokens_left(replace(config, reduce=reduce)) - count)

    return min(choices, key=off)


def tokens_left(config: EvalConfig) -> int:
    """Tokens of one image after the config's block, counted without running the model."""
    model = backbone(config, config.model.img_size)
    reducer, total = model.reducer.bound(model.depth), math.prod(model.grid)
    alive = total
    for block in range(blocks_of(config.model)[-1] % model.depth + 1):
        stage = reducer.stage(block)
        if stage is not None:
            alive = reducer.tokens_after(stage, alive=alive, total=total, prefix=model.prefix_count)
    return alive


def _measure(
    label: str, config: EvalConfig, whole: float, args: argparse.Namespace, kept: KeptTokens | None
) -> Iterator[Row]:
    ranked = label in RANKING
    weighed = replace(config, rerank=replace(config.rerank, marginals="keep")) if ranked else config
    reranker = Reranker.from_config(weighed)
    folders = [folder for folder in (args.gallery, args.query) if folder]
    for source in map(FolderSource, folders if kept is None else ()):  # compiles
        some = [source.read(0)] * min(len(source), config.batch_size)
        reranker.describe(some, batch_size=config.batch_size)
    begin = time.perf_counter()
    queries, gallery, truth = searched(
        reranker, args.gallery, args.query, args.ground_truth, limit=args.limit, kept=kept
    )
    images = len(gallery) + len(queries) * (queries is not gallery)
    speed = images / (time.perf_counter() - begin) if kept is None else math.nan
    _, before = search(queries, gallery, config.rerank.top_k, exclude=truth.own, mesh=reranker.mesh)
    for marginals in ("uniform", "keep") if ranked else (config.rerank.marginals,):
        used = replace(config, rerank=replace(config.rerank, marginals=marginals))
        after, pairs = _rerank(queries, gallery, before, used, reranker)
        recall = [truth.metrics(np.asarray(index))["recall_at_1"] for index in (before, after)]
        yield Row(
            model=label,
            tokens=gallery.sizes.tokens,
            marginals=marginals,
            recall_pooled=round(recall[0], 4),
            recall_reranked=round(recall[1], 4),
            index_bytes=index_bytes(gallery),
            infer_samples_per_sec=round(speed, 1),
            pairs_per_sec=round(pairs),
            speedup=round(pairs / (whole or pairs), 2),
        )


def _rerank(
    queries: Descriptors, gallery: Descriptors, before: np.ndarray, config: EvalConfig, reranker: Reranker
) -> tuple[np.ndarray, float]:
    """The new order, and pairs per second, the best of three."""
    times = []
    for _ in range(4):  # the first compiles
        begin = time.perf_counter()
        after = rerank(queries, gallery, before, config=config.rerank, mesh=reranker.mesh)
        jax.block_until_ready(after.score)
        times.append(time.perf_counter() - begin)
    return np.asarray(after.index), before.size / min(times[1:])


def index_bytes(gallery: Descriptors) -> int:
    """Of one image as `Gallery` stores it: float16 tokens, the rest as it is."""
    sizes, others = gallery.sizes, (gallery.pooled, gallery.weights, gallery.valid, gallery.positions)
    rest = sum(np.asarray(x).nbytes for x in others if x is not None)
    return 2 * sizes.tokens * sizes.length + rest // len(gallery)


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Recall after reranking over tokens per image, one line for each way to have fewer."""
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.model != rows[0].model:
            weighed = " weighed by score" if row.marginals == "keep" else ""
            lines.setdefault(row.model + weighed, [rows[0]]).append(row)
    for (name, found), marker in zip(lines.items(), "osD^vx+*", strict=False):
        points = sorted(found, key=lambda row: row.tokens)
        axes.plot([r.tokens for r in points], [r.recall_reranked for r in points], marker=marker, label=name)
    axes.axhline(rows[0].recall_pooled, color="gray", linestyle=":", label="pooled search alone")
    axes.set_xscale("log", base=2)
    marked = [row.tokens for row in rows if row.model in (rows[0].model, "grid")]
    axes.set_xticks(marked, labels=map(str, marked))
    axes.set(xlabel="tokens per image", ylabel="recall@1 after reranking")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    flags.run_benchmark(main)
