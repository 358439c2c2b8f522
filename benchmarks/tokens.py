r"""Recall against tokens per image, for every way to have fewer: one table and, with --plot, one picture.

    python -m benchmarks.tokens --gallery DIR --query DIR --ground-truth FILE [--config configs/places.py]
        [--csv FILE] [--plot FILE.png]

Rows: all tokens; tokens averaged to coarser grids after the model; tokens merged (ToMe) or dropped (top-k by
CLS attention, EViT, at random, evenly) inside the model, at several amounts. No row is trained. Everything
else is as the config says, `model.grid` apart, which is 0 for all rows but those of grids. Columns: tokens of
one image, recall@1 of pooled search and of its reranking, bytes of one image in a float16 gallery, images/s
of the model, and reranked pairs/s, the last two without compilation.
"""

import argparse
import csv
import pathlib
import runpy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from vitjax.config import EvalConfig, ReduceConfig
from vitjax.data.sources import FolderSource
from vitjax.reranker import Reranker
from vitjax.retrieval import rerank, search
from vitjax.retrieval.truth import Truth, read_ground_truth


class Row(NamedTuple):
    """One line of the table; `model` and `infer_samples_per_sec` are timm's names."""

    model: str
    tokens: int
    recall_pooled: float
    recall_reranked: float
    index_bytes: int
    infer_samples_per_sec: float
    pairs_per_sec: float


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    config = runpy.run_path(str(args.config))["get_config"]("")
    config.data.gallery, config.data.query = str(args.gallery), str(args.query)
    config.data.ground_truth = str(args.ground_truth)
    rows: list[Row] = []
    print(
        f"{'':20}{'tokens':>8}{'pooled R@1':>12}{'reranked R@1':>14}{'bytes/image':>13}{'images/s':>10}"
        f"{'pairs/s':>10}"
    )
    for label, changed in variants(config, args):
        row = _measure(label, changed)
        print(
            f"{row.model:20}{row.tokens:8}{row.recall_pooled:12.3f}{row.recall_reranked:14.3f}"
            f"{row.index_bytes:13,}{row.infer_samples_per_sec:10.1f}{row.pairs_per_sec:10,.0f}",
            flush=True,
        )
        rows.append(row)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)
    if args.plot:
        plot(rows, args.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/places.py"))
    parser.add_argument("--gallery", type=pathlib.Path, required=True, help="folder of pictures")
    parser.add_argument("--query", type=pathlib.Path, required=True, help="folder of pictures")
    parser.add_argument("--ground-truth", type=pathlib.Path, required=True, help="JSON, as for eval.py")
    parser.add_argument("--grid", type=int, nargs="*", default=[8, 7, 5], help="sides of coarser grids")
    parser.add_argument("--r", type=int, nargs="*", default=[13, 21, 23], help="merged per block, for ToMe")
    parser.add_argument("--ratio", type=float, nargs="*", default=[0.7, 0.5, 0.4], help="kept per stage")
    parser.add_argument("--reducers", nargs="*", default=["topk", "evit", "random", "uniform"])
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    parser.add_argument("--plot", type=pathlib.Path, help="picture of the table; needs matplotlib")
    return parser


def variants(config: EvalConfig, args: argparse.Namespace) -> Iterator[tuple[str, EvalConfig]]:
    """The configs of the table by label."""
    plain = replace(config, model=replace(config.model, grid=0))
    yield "all tokens", plain
    for side in args.grid:
        yield f"grid {side}x{side}", replace(config, model=replace(config.model, grid=side))
    for r in args.r:
        yield f"tome r={r}", replace(plain, reduce=ReduceConfig(name="tome", r=r))
    for name in args.reducers:
        for ratio in args.ratio:
            yield f"{name} {ratio:g}", replace(plain, reduce=ReduceConfig(name=name, keep_ratio=ratio))


def _measure(label: str, config: EvalConfig) -> Row:
    reranker = Reranker.from_config(config)
    sources = FolderSource(config.data.gallery), FolderSource(config.data.query)
    reranker.describe([sources[0].read(0)] * 2, batch_size=config.batch_size)  # compiles
    begin = time.perf_counter()
    (gallery, rows, _), (queries, asked, _) = (
        reranker.describe(source, batch_size=config.batch_size) for source in sources
    )
    speed = (len(gallery) + len(queries)) / (time.perf_counter() - begin)
    listed = read_ground_truth(config.data.ground_truth, len(sources[1]), len(sources[0]))
    truth = Truth(
        [np.flatnonzero(np.isin(rows, listed.get(int(i), []))) for i in asked], None, np.full(len(asked), -1)
    )
    _, before = search(queries, gallery, config.rerank.top_k, mesh=reranker.mesh)
    times = []
    for _ in range(2):  # the first compiles
        begin = time.perf_counter()
        after = rerank(queries, gallery, before, config=config.rerank, mesh=reranker.mesh)
        jax.block_until_ready(after.score)
        times.append(time.perf_counter() - begin)
    recall = [truth.metrics(np.asarray(index))["recall_at_1"] for index in (before, after.index)]
    tokens, length = gallery.tokens.shape[1:]
    return Row(
        model=label,
        tokens=tokens,
        recall_pooled=round(recall[0], 4),
        recall_reranked=round(recall[1], 4),
        index_bytes=2 * tokens * length + 4 * gallery.pooled.shape[1],
        infer_samples_per_sec=round(speed, 1),
        pairs_per_sec=round(before.size / times[-1]),
    )


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Recall after reranking over tokens per image, one line for each way to have fewer."""
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    lines: dict[str, list[Any]] = {}
    for row in rows[1:]:
        lines.setdefault(row.model.split()[0], [rows[0]]).append(row)
    for (name, found), marker in zip(lines.items(), "osD^vx+*", strict=False):
        line = sorted(found, key=lambda row: row.tokens)
        axes.plot([r.tokens for r in line], [r.recall_reranked for r in line], marker=marker, label=name)
    pooled = rows[0].recall_pooled
    axes.axhline(pooled, color="gray", linestyle=":", label="pooled search alone")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens per image", ylabel="recall@1 after reranking")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
