r"""Precision with a gate: base order, always reranked, and gated, on queries outside of its hold-out.

    python -m benchmarks.gate --places DIR --classes DIR --cache DIR [--blocks 7 9 11 --share 0.3 --splits 50]

Sets and forward pass are those of `benchmarks.positions`. Each row is one set with the tokens and the pooled
vector after one block, counted from 0, no centre subtracted: from where reranking helps all queries to where
it harms some. A gate is fitted on a random hold-out of the queries and evaluated on the rest; means over
splits.
"""

import argparse
import collections
import dataclasses
import pathlib
import runpy
from collections.abc import Sequence

import numpy as np

from benchmarks.positions import Bias, Look, View, class_set, place_set
from vitjax.cli import flags
from vitjax.config import EvalConfig, RerankConfig
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, Reranked, calibrate_gate, judge_gate, plan_sharpness, rerank, search
from vitjax.retrieval.metrics.relevance import Truth

HEAD = (
    "| set | block | base | always | gated | in itself, base | gated | reranked | rule |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---|"
)


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    config: EvalConfig = runpy.run_path(str(args.config))["get_config"]("")
    reranker = Reranker.from_config(config)
    look = Look(reranker, args.cache)
    print(HEAD)
    for name, (queries, gallery, truth) in {
        "places": place_set(args.places, look),
        "classes": class_set(args.classes, look),
    }.items():
        for block in args.blocks:
            ours, theirs = (side.describe(View(block), Bias(), None) for side in (queries, gallery))
            print(_row(name, block, ours, theirs, truth, config.rerank, args), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/places.py"))
    parser.add_argument("--places", type=pathlib.Path, required=True, help="query/, ref/, ground_truth.json")
    parser.add_argument("--classes", type=pathlib.Path, required=True, help="sub-folders are classes")
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for what the model gives")
    parser.add_argument("--blocks", type=int, nargs="+", default=[7, 9, 10, 11])
    parser.add_argument("--share", type=float, default=0.3, help="of the queries, to learn from")
    parser.add_argument("--splits", type=int, default=50)
    return parser


def _row(
    name: str,
    block: int,
    queries: Descriptors,
    gallery: Descriptors,
    truth: Truth,
    config: RerankConfig,
    args: argparse.Namespace,
) -> str:
    _, before = search(queries, gallery, config.top_k, exclude=truth.own)
    after, right = rerank(queries, gallery, before, config=config), truth.hits(before)
    everything = np.arange(len(before))
    sharp = _remembered(queries, gallery, config)
    known, rest, rules = [], [], collections.Counter()
    for seed in range(args.splits):
        lot = np.random.default_rng(seed).permutation(len(before))
        parts = np.split(lot, [round(args.share * len(lot))])
        judged = []
        for rows in parts:
            some = Reranked(*(getattr(after, f.name)[rows] for f in dataclasses.fields(Reranked)))

            def sharpness(found: Reranked, rows: np.ndarray = everything[rows]) -> np.ndarray:
                return sharp(rows, found)

            judged.append((before[rows], some, right[rows], config, sharpness))
        gate = calibrate_gate(*judged[0][:4], sharpness=judged[0][4])
        rules[gate.signal] += 1
        known.append(judge_gate(gate, *judged[0][:4], sharpness=judged[0][4]))
        rest.append(judge_gate(gate, *judged[1][:4], sharpness=judged[1][4]))
    assert all(one.gated >= one.base for one in known)
    own, other = (np.mean([one[1:] for one in found], axis=0) for found in (known, rest))
    counts = ", ".join(f"{rule} {count}" for rule, count in rules.most_common())
    cells = [*other[:3], own[0], own[2], other[3]]
    return f"| {name} | {block} | " + " | ".join(f"{100 * x:.1f}" for x in cells) + f" | {counts} |"


def _remembered(queries: Descriptors, gallery: Descriptors, config: RerankConfig):
    """Sharpness of (query, first candidate) pairs, each solved once."""
    known: dict[tuple[int, int], float] = {}

    def sharp(rows: np.ndarray, found: Reranked) -> np.ndarray:
        pairs = list(zip(rows.tolist(), found.index[:, 0].tolist(), strict=True))
        new = [i for i, pair in enumerate(pairs) if pair not in known]
        if new:
            part = Reranked(*(getattr(found, f.name)[new] for f in dataclasses.fields(Reranked)))
            values = plan_sharpness(queries.take(rows[new]), gallery, part, config)
            known.update(zip([pairs[i] for i in new], values.tolist(), strict=True))
        return np.array([known[pair] for pair in pairs])

    return sharp


if __name__ == "__main__":
    flags.run_benchmark(main)
