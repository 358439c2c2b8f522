r"""Whether acceptance keeps its promise: thresholds of random parts of a run, judged on the rest.

    python -m benchmarks.accept RUN [RUN ...] [--alpha 0.1 --delta 0.1 --splits 200 --share 0.7]
        [--signals score margin]

RUN is the workdir of a finished search with known relevant images, as `vitjax threshold` takes it: scores
are read, nothing is computed again. In every split a threshold is learned on queries drawn with replacement,
.7 times as many as there are, so that the run's queries are the population that the promise is about; the
rest are those that were never drawn, about half.

Columns, over the splits: share of all first hits that are wrong; share of the splits that keep the promise
(it is to be at least 1 - delta), which is that at most alpha of what the threshold accepts is wrong, among
all queries, and among the rest alone; the mean share of wrong ones among what was accepted of the rest; true
acceptance, the share of the right first hits of the rest that was accepted, its mean and its least; in how
many splits nothing was proven, so nothing accepted. The rest is a small sample, unlucky where the first was
lucky, so its share is above alpha more often than that of the population.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vitjax.cli import flags
from vitjax.evaluation.threshold import read_hits
from vitjax.retrieval.reranking.accept import Acceptance, margin

HEAD = (
    "| run | signal | queries | wrong first hits | kept, of all | kept, of the rest | wrong of accepted "
    "| true acceptance | least | nothing accepted |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


class Split(NamedTuple):
    """What a threshold does with queries it was not learned on; shares in [0, 1]."""

    wrong: float  # of what was accepted; 0 where nothing was
    wrong_of_all: float  # the same among all queries, those it was learned on included
    true_acceptance: float  # of the right first hits
    nothing: bool  # whether nothing was accepted, because nothing was proven


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    print(HEAD)
    for run in args.runs:
        hits = read_hits(run)
        values = {"score": hits.score[:, 0], "margin": margin(hits.score)}
        for name in args.signals:
            found = splits(
                values[name],
                ~hits.relevant[:, 0],
                alpha=args.alpha,
                delta=args.delta,
                count=args.splits,
                share=args.share,
            )
            print(line(run.name, name, ~hits.relevant[:, 0], found, args.alpha), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", type=pathlib.Path, nargs="+", metavar="RUN", help="workdirs of finished runs")
    parser.add_argument("--alpha", type=float, default=0.1, help="share of accepted hits that may be wrong")
    parser.add_argument("--delta", type=float, default=0.1, help="probability that more are")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.7, help="draws to learn from, over queries")
    parser.add_argument("--signals", nargs="+", choices=("score", "margin"), default=["score", "margin"])
    return parser


def splits(
    value: Float[np.ndarray, " q"],
    wrong: Bool[np.ndarray, " q"],
    *,
    alpha: float,
    delta: float,
    count: int = 200,
    share: float = 0.7,
) -> list[Split]:
    """Learns a threshold on queries drawn with replacement and judges it on the rest, so many times."""
    found = []
    for seed in range(count):
        known = np.random.default_rng(seed).integers(len(value), size=round(share * len(value)))
        rest = np.setdiff1d(np.arange(len(value)), known)
        learned = Acceptance.learn(value[known], wrong[known], alpha=alpha, delta=delta)
        accepted, bad = value[rest] >= learned.threshold, wrong[rest]
        found.append(
            Split(
                wrong=_share(bad, accepted),
                wrong_of_all=_share(wrong, value >= learned.threshold),
                true_acceptance=float(accepted[~bad].mean()) if not bad.all() else float("nan"),
                nothing=learned.threshold == np.inf,
            )
        )
    return found


def _share(wrong: Bool[np.ndarray, " q"], accepted: Bool[np.ndarray, " q"]) -> float:
    return float(wrong[accepted].mean()) if accepted.any() else 0.0


def line(name: str, signal: str, wrong: Bool[np.ndarray, " q"], found: Sequence[Split], alpha: float) -> str:
    """A row in Markdown, in percent."""
    rest, whole, accepted, nothing = (np.array(x) for x in zip(*found, strict=True))
    kept = [(share <= alpha).mean() for share in (whole, rest)]
    cells = [wrong.mean(), *kept, rest.mean(), np.nanmean(accepted), np.nanmin(accepted)]
    shown = " | ".join(f"{100 * x:.1f}" for x in cells)
    return f"| {name} | {signal} | {len(wrong)} | {shown} | {nothing.sum()} of {len(found)} |"


if __name__ == "__main__":
    flags.run_benchmark(main)
