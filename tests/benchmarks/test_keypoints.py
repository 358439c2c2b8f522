"""Keypoint transfer on CUB-200-2011, from a miniature of it and a small random model."""

import numpy as np
import pytest

from benchmarks import explanations, keypoints
from tests.data.layouts import write_cub
from vitjax.data.sources.cub_cars_sop import read_cub

CONFIG = """
from vitjax.config import EvalConfig, ModelConfig, RerankConfig

def get_config(arg):
    model = ModelConfig(name="vit_tiny_patch16_224", img_size=48, depth=1, embed_dim=16, num_heads=2)
    return EvalConfig(model=model, rerank=RerankConfig(method="chamfer", iterations=5))
"""


def test_pairs_are_of_one_searched_class_and_always_the_same(tmp_path):
    listing = read_cub(write_cub(tmp_path))
    drawn = keypoints.draw(listing, 20)
    assert drawn.shape == (20, 2) and (drawn[:, 0] != drawn[:, 1]).all()
    assert listing.test[drawn].all()
    assert (listing.labels[drawn[:, 0]] == listing.labels[drawn[:, 1]]).all()
    np.testing.assert_array_equal(keypoints.draw(listing, 20), drawn)


def test_a_download_without_two_images_of_a_class_is_told(tmp_path):
    with pytest.raises(SystemExit, match="no class has two images"):
        keypoints.draw(read_cub(write_cub(tmp_path, variants=1)), 4)


def test_the_table_of_a_small_download(tmp_path, capsys):
    write_cub(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    arguments = ["--cub", str(tmp_path), "--pairs", "4", "--config", str(tmp_path / "config.py")]
    explanations.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert "4 pairs, 4 parts, 3 x 3 patches" in lines[0]  # of two parts one is visible
    rows = {line.split("\u2502")[1].strip(): line.split("\u2502")[2:5] for line in lines if "\u2502" in line}
    assert {"the config's: chamfer", "mutual nearest neighbours", "same cell", "uniform plan"} < set(rows)
    assert list(rows)[-1] == "ceiling of the grid"
    shares = {name: [float(x) for x in cells] for name, cells in rows.items()}
    assert all(
        0 <= x <= top
        for cells in shares.values()
        for x, top in zip(cells, shares["ceiling of the grid"], strict=True)
    )
