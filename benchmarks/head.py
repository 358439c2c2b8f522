"""What a trained head gains on sets that it never saw, with paired intervals.

    python -m benchmarks.head HEAD.safetensors [HEAD ...] --places DIR --classes DIR --flat DIR --cache DIR

--places holds query/, ref/ and ground_truth.json (recall@1, by configs/places.py). --classes is a folder of
classes, of which --per-class photos each are searched in themselves (precision@1, by configs/folder.py).
--flat holds images of one flat thing and homographies.json, as for `benchmarks.explanations` (share of
visible patches sent to their true cell). Images are described once and kept in --cache; a row of the table is
one head, beside tokens that weigh alike, by the reranked score and by the structural score alone.
"""

import argparse
import pathlib
import pickle
import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.explanations import flat_pairs
from vitjax.cli import flags
from vitjax.config import RerankConfig
from vitjax.data.sources.base import FolderSource, RowsSource
from vitjax.models.token_head import TokenHead
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, match_accuracy, pair_plans, rerank, search
from vitjax.retrieval.metrics.bootstrap import bootstrap_intervals
from vitjax.retrieval.metrics.relevance import Truth, read_ground_truth
from vitjax.weights import load_weights

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
Weigh = Callable[[Descriptors], Descriptors]


class Set(NamedTuple):
    """A set that is searched: a value of each query, by weights of tokens and a rule."""

    name: str
    rule: RerankConfig
    judge: Callable[[Weigh, RerankConfig], np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    heads = {path.name: _weigh(path) for path in args.heads}
    print("| set | score | head | alike | weighed | gain |\n|---|---|---|---:|---:|---:|", flush=True)
    for found in (_places(args), _classes(args), _flat(args)):
        for score, rule in (("as ranked", found.rule), ("structural", replace(found.rule, weight=0.0))):
            if score == "structural" and found.rule.weight == 0:
                continue
            alike = found.judge(lambda x: x, rule)
            for name, weigh in heads.items():
                weighed = found.judge(weigh, rule)
                low, high = 100 * bootstrap_intervals((weighed - alike)[:, None])[0]
                mean, ours = 100 * np.nanmean(alike), 100 * np.nanmean(weighed)
                print(
                    f"| {found.name} | {score} | {name} | {mean:.1f} | {ours:.1f} | "
                    f"{ours - mean:+.1f} [{low:+.1f}, {high:+.1f}] |",
                    flush=True,
                )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("heads", type=pathlib.Path, nargs="+", help="weights that task rerank wrote")
    parser.add_argument("--places", type=pathlib.Path, required=True, help="query/, ref/, ground_truth.json")
    parser.add_argument("--classes", type=pathlib.Path, required=True, help="sub-folders are classes")
    parser.add_argument("--flat", type=pathlib.Path, required=True, help="images and homographies.json")
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for descriptors")
    parser.add_argument("--per-class", type=int, default=10, help="photos of every class")
    return parser


def _weigh(path: pathlib.Path) -> Weigh:
    """Descriptors as they are, to descriptors whose tokens a head weighs."""

    def weigh(found: Descriptors) -> Descriptors:
        head = TokenHead(found.tokens.shape[-1])
        variables, apply = load_weights(path, head), jax.jit(head.apply)
        blocks = np.array_split(np.arange(len(found)), -(-len(found) // 64))
        each: list[Any] = [apply(variables, found.tokens[rows], found.valid[rows]) for rows in blocks]
        return found.replace(weights=np.concatenate([np.asarray(x.weights) for x in each]))  # pyright: ignore[reportAttributeAccessIssue]

    return weigh


def _of(args: argparse.Namespace, config: str, name: str) -> tuple[Reranker, Callable[..., Descriptors]]:
    """A reranker by a config, and how images are described by it once."""
    reranker = Reranker.from_config(runpy.run_path(str(CONFIGS / f"{config}.py"))["get_config"](""))
    args.cache.mkdir(parents=True, exist_ok=True)

    def describe(images: Any, part: str = "") -> Descriptors:
        file = args.cache / f"{name}{part}.pickle"
        if not file.exists():
            file.write_bytes(pickle.dumps(reranker.describe(images)[0]))
        return pickle.loads(file.read_bytes())

    return reranker, describe


def _given(rule: RerankConfig) -> RerankConfig:
    return replace(rule, marginals="keep")


def _searched(queries: Descriptors, gallery: Descriptors, truth: Truth) -> Any:
    """Whether the first hit of each query is relevant, once the pooled search's candidates are reranked."""
    before = search(queries, gallery, 50, exclude=truth.own)[1]
    relevant = [set(np.asarray(rows).tolist()) for rows in truth.positives or ()]

    def judge(weigh: Weigh, rule: RerankConfig) -> np.ndarray:
        ours = weigh(queries)
        theirs = ours if gallery is queries else weigh(gallery)
        first = np.asarray(rerank(ours, theirs, before, config=_given(rule)).index)[:, 0].tolist()
        return np.array([hit in right for hit, right in zip(first, relevant, strict=True)], float)

    return judge


def _places(args: argparse.Namespace) -> Set:
    sides = [FolderSource(args.places / side) for side in ("query", "ref")]
    reranker, describe = _of(args, "places", "places")
    queries, gallery = (describe(side, f"_{i}") for i, side in enumerate(sides))
    listed = read_ground_truth(args.places / "ground_truth.json", *map(len, sides))
    right = [np.array(listed.get(i, []), int) for i in range(len(sides[0]))]
    truth = Truth(right, None, np.full(len(right), -1))
    return Set("places, R@1", reranker.rule, _searched(queries, gallery, truth))


def _classes(args: argparse.Namespace) -> Set:
    source = FolderSource(args.classes)
    every, rng = np.asarray(source.labels), np.random.default_rng(0)
    picked = [rng.permutation(np.flatnonzero(every == c))[: args.per_class] for c in np.unique(every)]
    rows = np.concatenate([np.sort(each) for each in picked])
    reranker, describe = _of(args, "folder", f"classes_{args.per_class}")
    found, labels = describe(RowsSource(source, rows)), every[rows]
    right = [np.setdiff1d(np.flatnonzero(labels == label), [i]) for i, label in enumerate(labels)]
    truth = Truth(right, None, np.arange(len(rows)))
    return Set("classes, P@1", reranker.rule, _searched(found, found, truth))


def _flat(args: argparse.Namespace) -> Set:
    reranker, describe = _of(args, "folder", "flat")
    pairs = list(flat_pairs(args.flat, reranker))
    found = describe([np.asarray(image) for pair in pairs for image in (pair.query, pair.candidate)])
    one = np.arange(0, 2 * len(pairs), 2)

    def judge(weigh: Weigh, rule: RerankConfig) -> np.ndarray:
        ours = weigh(found)
        plans = pair_plans(ours, ours, one, one + 1, config=_given(rule))
        return np.array(
            [match_accuracy(p.mass, pair.truth).hit_0 for p, pair in zip(plans, pairs, strict=True)]
        )

    return Set("flat, true cell", replace(reranker.rule, weight=0.0), judge)


if __name__ == "__main__":
    flags.run_benchmark(main)
