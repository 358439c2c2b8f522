r"""Positional bias, raced: what `model.center` gains at each block, with paired intervals.

    python -m benchmarks.centers --places DIR --classes DIR --flat DIR --photos DIR --cache DIR
        [--stereo LEFT RIGHT DISPARITY.npz] [--model NAME --weights SOURCE --grid 7] [--blocks 5 6 5,6]

Folders and options as in `benchmarks.positions`. The column of composites is the rule that chooses without
labels: queries are photos of --photos, and photos with a strip of the query pasted into them must be found
among others (`benchmarks.mass`). All else shows what the choice does on labelled sets.

Every cell: the figure in percent, then its difference to no centre with a 95 % interval of paired resamples.
"""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from benchmarks.explanations import stereo_pair
from benchmarks.mass import SHARES, compared, composites, own_first
from benchmarks.positions import (
    Bias,
    Judge,
    Look,
    View,
    corresponding,
    judges_of,
    named_config,
    parser,
)
from vitjax.cli import flags
from vitjax.config import EvalConfig
from vitjax.data.sources.base import ListSource
from vitjax.data.sources.synthetic import SyntheticSource
from vitjax.reranker import FLAT_IMAGES, SYNTHETIC_IMAGES, Reranker
from vitjax.retrieval import positional_subspace, token_center
from vitjax.retrieval.metrics.bootstrap import bootstrap_intervals

CENTERS = "none", "position", "subspace", "position+subspace"


def main(argv: Sequence[str] | None = None) -> None:
    asked = parser(__doc__)
    asked.add_argument("--photos", type=pathlib.Path, required=True, help="folder of photos, for composites")
    asked.add_argument("--count", type=int, default=128, help="queries of them; twice as many are taken")
    asked.add_argument("--stereo", type=pathlib.Path, nargs=3, metavar=("LEFT", "RIGHT", "DISPARITY"))
    asked.set_defaults(blocks=[5, 6, 7])
    args = asked.parse_args(argv)
    reranker = Reranker.from_config(named_config(args))
    look = Look(reranker, args.cache, args.blocks)
    judges = {
        "composites, P@1": _composites(args.photos, args.count, reranker, look),
        **dict(judges_of(args, reranker, look)),
    }
    if args.stereo:
        judges["stereo, right cell"] = corresponding([stereo_pair(args.stereo, reranker)], look)
    print("| block, center | " + " | ".join(judges) + " |\n|---|" + "---:|" * len(judges))
    for line in _race(reranker.config, look, judges):
        print(line, flush=True)


def _race(config: EvalConfig, look: Look, judges: dict[str, Judge]) -> Iterator[str]:
    side = look.reranker.preprocess.image_size
    made = look(SyntheticSource("leaves", SYNTHETIC_IMAGES))
    flat = look(ListSource([np.full((side, side, 3), grey, np.uint8) for grey in FLAT_IMAGES]))
    for view in look.views:
        center = token_center(made.tokens[view], "position", photos=False)
        pairs = zip(
            *(np.split(seen.tokens[view], len(view.blocks), axis=2) for seen in (flat, made)), strict=True
        )
        subspace = np.asarray(block_diag(*(positional_subspace(*pair) for pair in pairs)))
        plain = [judge(config, view, Bias(), None) for judge in judges.values()]
        for name in CENTERS:
            bias = Bias(
                center if name.startswith("position") else None,
                subspace if name.endswith("subspace") else None,
            )
            found = (
                [judge(config, view, bias, None) for judge in judges.values()] if name != "none" else plain
            )
            cells = [_cell(*pair) for pair in zip(found, plain, strict=True)]
            size = f" ({subspace.shape[1]})" if bias.subspace is not None else ""
            block = " and ".join(map(str, view.blocks))
            yield f"| {block}, {name}{size} | " + " | ".join(cells) + " |"


def _cell(found: np.ndarray, plain: np.ndarray) -> str:
    """A figure, and its difference to another of the same queries."""
    if found is plain:
        return f"{100 * np.nanmean(found):.1f}"
    low, high = 100 * bootstrap_intervals((found - plain)[:, None])[0]
    return f"{100 * np.nanmean(found):.1f} [{low:+.1f}, {high:+.1f}]"


def _composites(photos: pathlib.Path, count: int, reranker: Reranker, look: Look) -> Judge:
    """Whether a photo finds its own composite first, of each photo and share."""
    both = composites(photos, count, 0, reranker.preprocess)
    queries, made = (look(ListSource(images)) for images in both)

    def judge(config: EvalConfig, view: View, bias: Bias, start: int | None) -> np.ndarray:
        rule = replace(config.rerank, top_k=len(SHARES) * count)
        _, structural, pooled = compared(
            queries.describe(view, bias, start), made.describe(view, bias, start), rule
        )
        return own_first(structural + rule.weight * pooled).astype(float).ravel()

    return judge


if __name__ == "__main__":
    flags.run_benchmark(main)
