"""How well each rule finds the share of two images that match: composites whose overlap is known.

    python benchmarks/mass.py --photos DIR [--count 64 --csv mass.csv]

A query is a photo. Its composites are other photos, each with a strip of the query pasted at another
position: a quarter, half, three quarters or all of the image wide, rolled over its upper edge, a little
darker and compressed again. So the share of the query that a composite holds is known, and nothing lies where
it lay.

The table: mean |found - true share| and the rank correlation of the two over a query and its own composites,
then P@1 where every query searches one composite of each, whose shares are mixed: by the structural score
alone, and with the pooled cosine added. A fixed mass is the same share for every pair and cannot correlate.
"""

import argparse
import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata

from vitjax.cli import flags
from vitjax.config import RerankConfig, demo_config
from vitjax.data.augment import composite
from vitjax.data.sources.base import FolderSource
from vitjax.data.sources.synthetic import KINDS, SyntheticSource
from vitjax.data.transforms import Preprocess
from vitjax.reranker import SYNTHETIC_IMAGES, Reranker
from vitjax.retrieval import Descriptors, match_price, rerank

SHARES = 0.25, 0.5, 0.75, 1.0


class Row(NamedTuple):
    """One line of the table."""

    rule: str
    epsilon: float
    mass_error: float  # mean |found - true share|; NaN where the rule finds none
    rank_correlation: float  # Spearman's, of found and true share; NaN where all pairs have one
    p_at_1: float  # in percent, by the structural score
    p_at_1_with_pooled: float
    unrelated_mass: float  # found between a query and composites it has no part in


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    config = demo_config()
    config.model.center = args.center
    reranker = Reranker.from_config(config)
    queries, made = _describe(reranker, composites(args.photos, args.count, args.seed, reranker.preprocess))
    rows = [_judge(*rule, queries, made) for rule in _rules(args, reranker)]
    table = Table(title=f"{len(queries)} photos, {len(rows)} rules, center {args.center}")
    for name in Row._fields:
        table.add_column(name.replace("_", " "), justify="left" if name == "rule" else "right")
    for row in rows:
        table.add_row(row.rule, *(f"{value:.3g}" for value in row[1:]))
    Console(width=110).print(table)  # as wide as the headers, also into a file
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([Row._fields, *rows])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--photos", type=pathlib.Path, required=True, help="folder of photos")
    parser.add_argument("--count", type=int, default=64, help="queries; twice as many photos are taken")
    parser.add_argument("--center", default="position", help="config.model.center")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.05, 0.02], help="1 - cosine")
    parser.add_argument("--seed", type=int, default=0, help="of photos, places and shares")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    return parser


def composites(
    photos: pathlib.Path, count: int, seed: int, preprocess: Preprocess
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Queries, and their composites: those of the first share in the order of the queries, then the next."""
    source, draw = FolderSource(photos), np.random.default_rng(seed)
    if len(source) < 2 * count:
        raise SystemExit(f"--photos {photos}: {len(source)} photos; --count {count} needs twice that")
    chosen = draw.permutation(len(source))[: 2 * count]
    seen = [preprocess.view(source.read(int(i))) for i in chosen]
    pairs = list(zip(seen[:count], seen[count:], strict=True))
    return [q for q, _ in pairs], [composite(*pair, share, draw) for share in SHARES for pair in pairs]


def _describe(
    reranker: Reranker, images: tuple[list[np.ndarray], list[np.ndarray]]
) -> tuple[Descriptors, Descriptors]:
    queries, composites = (reranker.describe(part)[0] for part in images)
    return queries, composites


def _rules(args: argparse.Namespace, reranker: Reranker) -> list[tuple[str, RerankConfig]]:
    made = [reranker.describe(SyntheticSource(kind, SYNTHETIC_IMAGES))[0] for kind in KINDS]
    price, rules = match_price(*made), []
    for epsilon in args.epsilons:
        common = {"epsilon": epsilon, "tolerance": 1e-3, "top_k": len(SHARES) * args.count}
        rules += [(f"mass {mass}", RerankConfig(mass=mass, **common)) for mass in SHARES]
        rules += [(mass, RerankConfig(mass=mass, price=price, **common)) for mass in ("auto", "mutual")]
        # The same weight of the marginals, 0.1, at every epsilon; its mass says nothing.
        rules.append(("relaxed", RerankConfig(tau=0.1 / (0.1 + epsilon), **common)))
    return rules


def own_first(score: np.ndarray) -> np.ndarray:
    """Whether each query's own composite is first, (round, query), from scores (query, share, composite).

    In round r photo i is there with its composite of share i + r.
    """
    photo = np.arange(len(score))
    rounds = [score[:, (photo + r) % len(SHARES), photo] for r in range(len(SHARES))]
    return np.stack([x.argmax(axis=1) == photo for x in rounds])


def compared(
    queries: Descriptors, composites: Descriptors, config: RerankConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matched mass, structural score and cosine of every pair, each (query, share, composite)."""
    count = len(queries)
    found = rerank(queries, composites, np.tile(np.arange(len(composites)), (count, 1)), config=config)
    # Back in the order of the composites: (query, share, photo).
    order = np.argsort(found.index, axis=1)
    mass, structural, pooled = (
        np.take_along_axis(x, order, axis=1).reshape(count, len(SHARES), count)
        for x in (found.mass, found.structural, found.pooled)
    )
    return mass, structural, pooled


def _judge(name: str, config: RerankConfig, queries: Descriptors, composites: Descriptors) -> Row:
    count = len(queries)
    mass, structural, pooled = compared(queries, composites, config)
    photo = np.arange(count)
    own = mass[photo, :, photo]
    true = np.broadcast_to(SHARES, own.shape)
    varies = np.ptp(own) > 1e-3

    return Row(
        name,
        config.epsilon,
        float("nan") if config.tau < 1 else float(np.abs(own - true).mean()),
        float(np.corrcoef(rankdata(own), rankdata(true))[0, 1]) if varies else float("nan"),
        100 * float(own_first(structural).mean()),
        100 * float(own_first(structural + pooled).mean()),
        float("nan") if config.tau < 1 else float(mass[:, 0, :][~np.eye(count, dtype=bool)].mean()),
    )


if __name__ == "__main__":
    flags.run_benchmark(main)
