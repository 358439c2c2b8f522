r"""Are explanations true? Matches held against images whose correspondences are known.

    python -m benchmarks.explanations --flat DIR [--stereo LEFT RIGHT DISPARITY.npz] [--cub DIR --pairs 500]
        [--config configs/places.py --grid 8 --csv FILE]

DIR holds images of one flat thing, and homographies.json: "HAtoB" takes pixels of imgA to imgB; each
pair is asked both ways. DISPARITY is an array of the left image's shape, pixels, not finite where unknown;
scikit-image ships such a pair, as data/motorcycle_{left,right}.png and data/motorcycle_disp.npz. --cub takes
the unpacked CUB-200-2011 and asks whether parts of birds go to the same parts: see `benchmarks.keypoints`.

Rows: the config's own way of matching, balanced transport, best matches both ways (Chamfer), each patch's
nearest neighbour, mutual nearest neighbours, and what needs no image: the uniform plan and the same cell;
then the grid's ceiling, every visible patch on its true cell. All match the same tokens, weighed alike.

Columns, means over the pairs: see `vitjax.retrieval.explanation.faithfulness.MatchAccuracy` (the AUROC is
weighed by how many patches are visible times how many are not); then how much deeper the *config's* score
falls without the patches that the row ranks first than without random ones (`deletion`), and how far the
parts of the row's own score are from it in sum. A pair that has no number in a column is left out of its
mean.
"""

import argparse
import csv
import pathlib
import re
import runpy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import keypoints
from benchmarks.matchings import Explained, matchings
from vitjax.cli import flags
from vitjax.config import EvalConfig
from vitjax.data.images import read_image
from vitjax.data.sources.folders import list_images
from vitjax.reranker import Reranker
from vitjax.retrieval.explanation.correspondence import (
    Correspondence,
    disparity_correspondence,
    homography_correspondence,
)
from vitjax.retrieval.explanation.faithfulness import (
    MatchAccuracy,
    deletion,
    match_accuracy,
    true_plan,
)
from vitjax.system.files import read_json


class Pair(NamedTuple):
    """Two images and the truth about them."""

    name: str
    query: Image.Image
    candidate: Image.Image
    truth: Correspondence


class Row(NamedTuple):
    """One line of the table; NaN where there is nothing to measure."""

    pair: str
    explanation: str
    accuracy: MatchAccuracy
    deletion: float
    additivity_error: float

    def values(self) -> list[float]:
        """The columns behind the names."""
        return [*self.accuracy, self.deletion, self.additivity_error]


COLUMNS = [*MatchAccuracy._fields, "deletion", "additivity_error"]


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    config: EvalConfig = runpy.run_path(str(args.config))["get_config"]("")
    config.model.grid = config.model.grid if args.grid is None else args.grid
    if config.rerank.method == "pooled":
        raise SystemExit("--config: method 'pooled' matches no patches, so there is nothing to explain")
    reranker = Reranker.from_config(config)
    if args.cub:
        keypoints.show(args.cub, reranker, pairs=args.pairs)
        if not args.flat and not args.stereo:
            return
    rows = [row for pair in _pairs(args, reranker) for row in _judge(pair, reranker)]
    for group in dict.fromkeys(row.pair.split(" ")[0] for row in rows):
        _show(group, [row for row in rows if row.pair.startswith(group)], reranker)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows(
                [["pair", "explanation", *COLUMNS], *([*row[:2], *row.values()] for row in rows)]
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--flat", type=pathlib.Path, help="folder of images with homographies.json")
    parser.add_argument("--stereo", type=pathlib.Path, nargs=3, metavar=("LEFT", "RIGHT", "DISPARITY"))
    parser.add_argument("--cub", type=pathlib.Path, help="folder CUB_200_2011, or the one it lies in")
    parser.add_argument("--pairs", type=int, default=500, help="of --cub, drawn at random (default: 500)")
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/places.py"))
    parser.add_argument("--grid", type=int, help="config.model.grid, if another than the config's")
    parser.add_argument("--csv", type=pathlib.Path, help="write every pair's rows here")
    return parser


def _pairs(args: argparse.Namespace, reranker: Reranker) -> Iterator[Pair]:
    if not args.flat and not args.stereo:
        raise SystemExit(
            "give pairs whose truth is known: --flat DIR, --stereo LEFT RIGHT DISPARITY, --cub DIR"
        )
    if args.flat:
        yield from flat_pairs(args.flat, reranker)
    if args.stereo:
        yield stereo_pair(args.stereo, reranker)


def stereo_pair(files: Sequence[pathlib.Path], reranker: Reranker) -> Pair:
    """Two views of a scene, and where the patches of the left one truly are.

    Args:
        files: left image, right image, disparity (.npy, or .npz whose first array counts).
        reranker: its grid and preprocessing count.
    """
    query, candidate = (read_image(file) for file in files[:2])
    disparity = np.load(files[2])
    if not isinstance(disparity, np.ndarray):
        disparity = disparity[disparity.files[0]]
    if disparity.shape != query.size[::-1]:
        raise SystemExit(f"--stereo: disparity {disparity.shape}, left image {query.size[::-1]}")
    truth = disparity_correspondence(disparity, **_geometry(query, candidate, reranker))
    return Pair(f"stereo {files[0].stem}", query, candidate, truth)


def flat_pairs(folder: pathlib.Path, reranker: Reranker) -> Iterator[Pair]:
    """Pairs of images of one flat thing, each both ways, and where their patches truly are.

    Args:
        folder: images, and homographies.json: "HAtoB" takes pixels of imgA to imgB.
        reranker: its grid and preprocessing count.
    """
    files = {pathlib.Path(file).stem: folder / file for file in list_images(folder)}
    for name, matrix in read_json(folder / "homographies.json").items():
        found = re.fullmatch(r"H(\w+?)to(\w+)", name)
        if not found or not {f"img{x}" for x in found.groups()} <= set(files):
            raise SystemExit(f"{folder}: {name!r} is not 'HAtoB' with images imgA and imgB there")
        both = [read_image(files[f"img{x}"]) for x in found.groups()]
        for (query, candidate), move, pair in (
            (both, np.array(matrix), "{}-{}"),
            (both[::-1], np.linalg.inv(matrix), "{1}-{0}"),
        ):
            truth = homography_correspondence(move, **_geometry(query, candidate, reranker))
            yield Pair("flat " + pair.format(*found.groups()), query, candidate, truth)


def _geometry(query: Image.Image, candidate: Image.Image, reranker: Reranker) -> dict:
    # The homographies' convention for pixel centres is not known; half a pixel is a thousandth of an image.
    return {
        "query_grid": reranker.token_grid,
        "query_placement": reranker.preprocess.placement(*query.size),
        "candidate_placement": reranker.preprocess.placement(*candidate.size),
    }


def _judge(pair: Pair, reranker: Reranker) -> list[Row]:
    query, candidate = (reranker.describe([image], batch_size=1)[0] for image in (pair.query, pair.candidate))
    explained = matchings(query, candidate, reranker)
    ceiling = true_plan(pair.truth)
    similarity = explained["uniform plan"].contribution * ceiling.size  # of every patch pair
    explained["ceiling of the grid"] = Explained(ceiling, ceiling * similarity, float("nan"))
    patch = np.arange(query.sizes.tokens)[None, :] if query.positions is None else np.asarray(query.positions)
    # A token that lies on no patch is the last one to be pointed at.
    adds = [np.append(e.contribution.sum(axis=1), -np.inf)[patch[0]] for e in explained.values()]
    gain = deletion(query, candidate, np.stack(adds), config=reranker.rule).gain
    return [
        Row(pair.name, name, match_accuracy(e.plan, pair.truth), float(g), e.additivity_error)
        for (name, e), g in zip(explained.items(), gain, strict=True)
    ]


def _show(group: str, rows: list[Row], reranker: Reranker) -> None:
    h, w = reranker.token_grid
    count = len({row.pair for row in rows})
    table = Table(title=f"{group}: {count} pairs, {h} x {w} patches")
    for name in ("explanation", *COLUMNS):
        table.add_column(name.replace("_", " "), justify="left" if name == "explanation" else "right")
    for name in dict.fromkeys(row.explanation for row in rows):
        own = np.array([row.values() for row in rows if row.explanation == name])
        # The AUROC speaks of (visible, hidden) pairs of patches, so a pair with one hidden patch says little.
        weight = np.isfinite(own).astype(float)
        visible = own[:, COLUMNS.index("visible")]
        weight[:, COLUMNS.index("auroc")] *= visible * (1 - visible)
        total = weight.sum(axis=0)
        means = (weight * np.nan_to_num(own)).sum(axis=0) / np.where(total > 0, total, np.nan)
        cells = [f"{x:.3f}" for x in means[:-1]] + [f"{means[-1]:.0e}"]
        table.add_row(name, *("-" if "nan" in cell else cell for cell in cells))
    Console(width=150).print(table)


if __name__ == "__main__":
    flags.run_benchmark(main)
