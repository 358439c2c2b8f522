"""The table of rerankers, from a few images and a small random model, with figures worked out again."""

import csv
import json
import pathlib

import jax
import numpy as np
import pytest

from benchmarks import rerankers
from benchmarks.searched import Searched, searched
from tests.benchmarks.test_keypoints import CONFIG
from tests.photos import write_folder
from tests.retrieval.cases import random_descriptors
from vitjax.errors import UserError
from vitjax.models.elvis import Elvis
from vitjax.retrieval.metrics.relevance import Truth
from vitjax.weights.write import write_weights

ROWS = [
    "pooled search", "ours", "ours on codes, sign", "ours on codes, itq", "ours, then k-reciprocal",
    "Chamfer", "MaxSim", "mutual nearest neighbours", "released transport", "Chamfer on codes, itq", "ELViS",
    "k-reciprocal, pooled", "alpha-QE, pooled",
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[str]]:
    """Folder of the outputs, and the names of the rows."""
    folder = tmp_path_factory.mktemp("table")
    write_folder(folder / "images", kinds=3, variants=4)
    (folder / "config.py").write_text(CONFIG)
    head = Elvis(local_dim=16)
    write_weights(folder / "elvis.safetensors", head.init(jax.random.key(0), *head.blank()), {})
    rerankers.main([
        f"--images={folder / 'images'}", f"--config={folder / 'config.py'}", "--top-k=5", "--bits=8",
        f"--elvis={folder / 'elvis.safetensors'}", f"--csv={folder / 'a.csv'}", f"--json={folder / 'a.json'}",
    ])  # fmt: skip
    with (folder / "a.csv").open() as file:
        return folder, [row["method"] for row in csv.DictReader(file)]


def test_every_way_has_a_row_in_both_files(table, capsys):
    folder, names = table
    assert names == ROWS
    told = json.loads((folder / "a.json").read_text())
    assert [row["method"] for row in told["rows"]] == ROWS
    first = told["rows"][0]
    assert first["precision_at_1_gain"] == first["mean_average_precision_at_r_gain_high"] == 0
    assert all(row["recall_at_1"] == row["precision_at_1"] <= row["recall_at_5"] for row in told["rows"])
    codes, whole = (next(r for r in told["rows"] if r["method"] == name) for name in (ROWS[3], "ours"))
    assert codes["bytes_per_image"] < whole["bytes_per_image"]
    assert first["bytes_per_image"] == 2 * 16


def test_metrics_are_of_each_query_with_relevant_images():
    truth = Truth.from_rows([[3, 1], [0], []], np.full(3, -1))
    order = np.array([[1, 0, 3, *range(4, 11)], [2, 3, 1, 4, 5, 6, 0, 7, 8, 9], list(range(10))])
    found = rerankers.per_query(truth, order)
    assert found["precision_at_1"][:2].tolist() == [1, 0]
    assert found["mean_average_precision_at_r"][:2].tolist() == [0.5, 0]
    assert found["recall_at_5"][:2].tolist() == [1, 0]
    assert found["recall_at_10"][:2].tolist() == [1, 1]
    assert all(np.isnan(values[2]) for values in found.values())
    way = rerankers.Way("x", lambda before: before, 5)
    other = {name: np.where(np.isnan(values), np.nan, 0.0) for name, values in found.items()}
    row = rerankers.row(way, found, other, 2.0)
    assert (row["precision_at_1"], row["precision_at_1_gain"]) == (0.5, 0.5)
    assert row["recall_at_10_gain_low"] == row["recall_at_10_gain_high"] == 1.0


def test_scores_of_their_own_order_the_candidates():
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(8, seed=2)
    images = Searched(queries, gallery, Truth.from_rows([[0]] * 3, np.full(3, -1)))
    before = np.stack([np.random.default_rng(i).permutation(8)[:6] for i in range(3)])
    before[2, 5] = -1
    for score, other in ((rerankers.late_interaction, late), (rerankers.released, published)):
        found = rerankers.by_score(score, images)(before)
        for q in range(3):
            rows = before[q][before[q] >= 0]
            scores = [other(queries, gallery, q, rows)[i] for i in range(len(rows))]
            assert found[q][: len(rows)].tolist() == rows[np.argsort(-np.array(scores))].tolist()
    assert found[2, 5] == -1


def late(queries, gallery, q, rows) -> np.ndarray:
    return np.array([(queries.tokens[q] @ gallery.tokens[r].T).max(axis=1).sum() for r in rows])


def published(queries, gallery, q, rows) -> np.ndarray:
    """Balanced transport with the stop rule of the released code, in float64, candidate in the rows."""
    x, y = gallery.tokens[rows].astype(np.float64), queries.tokens[q].astype(np.float64)
    similarity = x @ y.T
    u = np.maximum(x @ queries.pooled[q], 0)
    v = np.maximum(gallery.pooled[rows] @ y.T, 0)
    u, v = (w / (w.sum(axis=1, keepdims=True) + 1e-5) for w in (u, v))
    kernel, r, c = np.exp(-(1 - similarity) / 0.05), np.ones_like(u), np.ones_like(v)
    for _ in range(100):
        old, r = r, u / np.einsum("knm,km->kn", kernel, c)
        c = v / np.einsum("knm,kn->km", kernel, r)
        if np.abs(r - old).mean() < 0.1:
            break
    structural = (r[:, :, None] * kernel * c[:, None, :] * similarity).sum(axis=(1, 2))
    return structural + gallery.pooled[rows] @ queries.pooled[q]


def test_what_is_missing_is_one_line(tmp_path):
    write_folder(tmp_path / "a", kinds=1)
    with pytest.raises(UserError, match="no sub-folders as classes"):
        searched(None, tmp_path / "a" / "class_0")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="queries need a ground truth"):
        searched(None, tmp_path / "a", tmp_path / "a")  # pyright: ignore[reportArgumentType]
