"""Keypoint transfer between birds of one class: `python -m benchmarks.explanations --cub DIR`.

Pairs of images of one class of CUB-200-2011's test half, drawn at random. Rows are those of the other
tables, matching the same tokens; the ceiling is every part in the cell that it truly lies in. Columns: PCK,
the share of parts visible in both images that land within alpha times the longer side of the candidate's
box (`vitjax.retrieval.part_transfer`).
"""

import pathlib

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.matchings import matchings
from vitjax.data.images import read_image
from vitjax.data.sources.cub_cars_sop import Listing, read_cub, read_cub_parts
from vitjax.reranker import Reranker
from vitjax.retrieval import part_transfer

ALPHAS = (0.05, 0.1, 0.2)
CEILING = "ceiling of the grid"


def show(folder: pathlib.Path, reranker: Reranker, *, pairs: int) -> None:
    """Prints the table."""
    found, parts = measure(folder, reranker, pairs=pairs)
    h, w = reranker.token_grid
    table = Table(title=f"birds: {pairs} pairs, {parts} parts, {h} x {w} patches")
    for name in ("explanation", *(f"PCK@{alpha:g}" for alpha in ALPHAS)):
        table.add_column(name, justify="left" if name == "explanation" else "right")
    for name, hits in found.items():
        table.add_row(name, *(f"{x:.3f}" for x in hits / max(parts, 1)))
    Console(width=100).print(table)


def measure(folder: pathlib.Path, reranker: Reranker, *, pairs: int) -> tuple[dict[str, np.ndarray], int]:
    """Parts that each way of matching transfers within each alpha, and how many both images show."""
    listing, (_, places) = read_cub(folder), read_cub_parts(folder)
    drawn = draw(listing, pairs)
    rows = np.unique(drawn)
    files = [listing.root / listing.files[row] for row in rows]
    described, *_ = reranker.describe(files)
    placements = [reranker.preprocess.placement(*read_image(file).size) for file in files]
    found: dict[str, np.ndarray] = {}
    parts = 0
    for query, candidate in drawn:
        i, j = np.searchsorted(rows, [query, candidate])
        assert listing.boxes is not None
        left, top, right, bottom = listing.boxes[candidate].tolist()
        box = (right - left, bottom - top)
        asked = (places[query, :, 2] > 0) & (places[candidate, :, 2] > 0)
        transfer = None
        for name, each in matchings(described.take([i]), described.take([j]), reranker).items():
            transfer = part_transfer(
                each.plan, places[query, :, :2], places[candidate, :, :2], asked, box,
                query_grid=reranker.token_grid, query_placement=placements[i],
                candidate_placement=placements[j], alphas=ALPHAS,
            )  # fmt: skip
            found[name] = found.get(name, 0) + transfer.hits
        if transfer is not None:
            found[CEILING] = found.get(CEILING, 0) + transfer.ceiling
            parts += transfer.parts
    found[CEILING] = found.pop(CEILING)  # last
    return found, parts


def draw(listing: Listing, pairs: int) -> np.ndarray:
    """(pairs, 2) images of one class each, of the test half; the same ones every time."""
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(listing.test)
    queries = rng.permutation(rows)
    drawn = []
    for query in np.resize(queries, max(pairs, 1)):
        others = rows[(listing.labels[rows] == listing.labels[query]) & (rows != query)]
        if len(others):
            drawn.append((query, rng.choice(others)))
    if not drawn:
        raise SystemExit(f"{listing.root}: no class has two images, so there is no pair to ask")
    return np.array(drawn)
