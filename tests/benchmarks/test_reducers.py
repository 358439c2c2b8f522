"""The table of reducers, from a few images and a small random model."""

import hashlib
import json
import pathlib
import re
from collections import Counter
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmarks import reduced, reduced_photos, reducers, reducers_page
from benchmarks.reduced import Reduced, Seen, every_owner, scheduled
from benchmarks.reduced_tasks import TASKS, Tasks, on_patches
from tests.photos import image, write_folder
from vitjax.config import EvalConfig, ModelConfig, ReduceConfig, RerankConfig
from vitjax.errors import UserError

ROWS = [(task, images) for task, sets in TASKS.items() for images in sets if images != "imagenet"]


def tiny() -> EvalConfig:
    """Two blocks on 4 x 4 patches."""
    model = ModelConfig(
        name="vit_tiny_patch16_224",
        img_size=64,
        depth=2,
        embed_dim=16,
        num_heads=2,
        grid=2,
        center="position",
    )
    return EvalConfig(model=model, rerank=RerankConfig(method="chamfer", top_k=5))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Sets of photos and their lists."""
    root = tmp_path_factory.mktemp("photos")
    write_folder(root / "caltech101", kinds=3, variants=5)
    write_folder(root / "grocery", kinds=3, variants=3)
    for side, count in (("query", 3), ("ref", 4)):
        (root / "corridor" / side).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(image(i, side == "ref")).save(root / "corridor" / side / f"{i}.png")
    truth = {str(i): [i, i + 1] for i in range(3)}
    (root / "corridor" / "ground_truth.json").write_text(json.dumps(truth))
    (root / "graffiti").mkdir()
    for i in (1, 2):
        Image.fromarray(image(7, i)).save(root / "graffiti" / f"img{i}.png")
    move = [[1.0, 0, -4], [0, 1, -4], [0, 0, 1]]
    (root / "graffiti" / "homographies.json").write_text(json.dumps({"H1to2": move}))
    for i, side in enumerate(("left", "right")):
        Image.fromarray(image(5, i)).save(root / f"{side}.png")
    np.save(root / "disparity.npy", np.full((48, 48), 12.0))
    lists = {
        "caltech101": [f"class_{k}/{v}.png" for k in range(3) for v in range(2)],
        "grocery": [f"class_{k}/{v}.png" for k in range(3) for v in range(3)],
        "corridor": [*(f"query/{i}.png" for i in range(3)), *(f"ref/{i}.png" for i in range(4))],
        "graffiti": ["img1.png", "img2.png"],
    }
    (root / "lists").mkdir()
    for name, names in lists.items():
        (root / "lists" / f"{name}.txt").write_text("".join(f"{each}\n" for each in names))
    return root


@pytest.fixture
def run(
    folders: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list]:
    """Runs the program on them and returns the rows of the file."""
    monkeypatch.setattr(reduced_photos, "LISTS", folders / "lists")
    monkeypatch.setitem(reducers.MODELS, "tiny", tiny)
    given = [f"--{name}={folders / name}" for name in ("caltech101", "grocery", "corridor", "graffiti")]
    given += ["--stereo", *(str(folders / name) for name in ("left.png", "right.png", "disparity.npy"))]

    def main(*more: str) -> list[reducers.Row]:
        table = tmp_path / "table.csv"
        cache = f"--cache={folders / 'cache'}"
        reducers.main(["--all", "--model=tiny", *given, cache, f"--csv={table}", *more])
        with table.open(newline="") as file:
            return list(reducers.read(file))

    return main


def test_every_task_has_a_row_and_a_stop_costs_only_what_was_not_written(
    run: Callable[..., list], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    rows = run("--schedule=r:3", "--reducer", "dense", "grid", "tome", "sit")
    assert [(row.task, row.images) for row in rows] == 3 * ROWS
    assert "tiny, sit: left out, untrained" in capsys.readouterr().out
    for row in rows:
        assert 0 <= row.low <= row.value <= row.high <= 1 and row.count > 0
        assert 0 <= row.low_2 <= row.value_2 <= row.high_2 <= 1
        assert row.peak_mb > 0 and row.images_per_sec_1 == 0
    dense, grid, tome = (
        next(row for row in rows if row.reducer == name) for name in ("dense", "grid", "tome")
    )
    assert (dense.tokens, grid.tokens) == (16, 4) and tome.tokens == 10
    assert (dense.macs_share, grid.macs_share) == (1, 1) and 0.5 < tome.macs_share < 1
    assert dense.index_bytes > tome.index_bytes > grid.index_bytes
    counts = {(row.task, row.images): row.count for row in rows[: len(ROWS)]}
    assert counts["classify", "caltech101"] == 6 and counts["retrieve", "grocery"] == 9
    assert counts["rerank", "corridor"] == 3 and counts["correspond", "graffiti"] == 2
    assert counts["correspond", "stereo"] == 12  # visible patches: the first column leaves the image

    whole = (tmp_path / "table.csv").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "table.csv").write_text("".join(lines[:-2]) + lines[-2][:20])  # cut off within a row
    asked = []
    score = Tasks.score
    monkeypatch.setattr(Tasks, "score", lambda *a: asked.append(a[2:4]) or score(*a))
    again = run("--schedule=r:3", "--reducer", "dense", "grid", "tome")
    assert asked == ROWS[-2:]
    timeless = [row._replace(compile_seconds=0) for row in again]
    assert timeless == [row._replace(compile_seconds=0) for row in rows]


def test_speeds_are_added_to_rows_that_have_none(run: Callable[..., list], monkeypatch) -> None:
    monkeypatch.setattr(reducers, "speeds", lambda *_: [1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(Tasks, "score", lambda *_: reducers.Scores(1, "a", 0.5, 0.4, 0.6, "b", 0.5, 0.4, 0.6))
    monkeypatch.setattr(Reduced, "see", lambda self, views: _seen(len(views)))
    first = run("--reducer", "dense", "--task", "classify")
    assert first[0].images_per_sec_8 == 0
    (row,) = run("--reducer", "dense", "--task", "classify", "--speed")
    assert row == first[0]._replace(
        images_per_sec_1=1.0, images_per_sec_8=2.0, images_per_sec_32=3.0, speed_up_32=4.0
    )


def _seen(count: int) -> Seen:
    every = np.tile(np.arange(16, dtype=np.int32), (count, 1))
    return Seen(
        np.ones((count, 16), np.float32), np.ones((count, 16, 16), np.float16), every, every, every + 1.0
    )


@pytest.mark.parametrize(("name", "nearest"), [("random", 0.837), ("tome", 5)])
def test_the_setting_is_the_nearest_to_the_budget(name: str, nearest: float, monkeypatch) -> None:
    def cost(config: EvalConfig) -> int:
        reduce = config.reduce
        share = {"": 1.0, "random": reduce.keep_ratio**2, "tome": 1 - 0.057 * reduce.r}[reduce.name]
        return round(1e6 * share)

    monkeypatch.setattr(reduced, "macs", cost)
    config = EvalConfig(model=tiny().model, reduce=ReduceConfig(name))
    found = scheduled(config, "mac:0.7").reduce
    assert (found.r if name == "tome" else found.keep_ratio) == nearest
    given = scheduled(config, "r:3" if name == "tome" else "keep:0.3").reduce
    assert (given.r if name == "tome" else given.keep_ratio) == (3 if name == "tome" else 0.3)
    with pytest.raises(UserError, match=f"'{name}' takes"):
        scheduled(config, "keep:0.7" if name == "tome" else "r:3")
    for text in ("mac", "mac:0", "half"):
        with pytest.raises(UserError, match="is unknown; give"):
            scheduled(config, text)


def test_a_dropped_patch_has_the_nearest_token_and_masses_are_shared_out() -> None:
    owner = every_owner(
        np.array([[0, -1, -1, -1, -1, -1, -1, -1, 1], [-1, -1, -1, 0, 1, 1, -1, -1, 2]]), (3, 3)
    )
    assert owner.tolist() == [[0, 0, 0, 0, 0, 1, 0, 1, 1], [0, 1, 1, 0, 1, 1, 0, 1, 2]]
    plan = np.array([[0.5, 0.1], [0.0, 0.4]])
    spread = on_patches(plan, np.array([1, 0, 1, 1]), np.array([0, 0, 1]))
    assert spread.sum() == pytest.approx(plan.sum())
    np.testing.assert_allclose(spread[1], [0.25, 0.25, 0.1])
    np.testing.assert_allclose(spread[0], [0, 0, 0.4 / 3])


def test_composites_know_which_class_each_patch_shows() -> None:
    shades = np.array([20, 120, 220, 60], np.uint8)
    views = np.broadcast_to(shades[:, None, None, None], (4, 64, 64, 3)).copy()
    made = reduced_photos.composites(views, np.array([3, 5, 6, 9]), (4, 4))
    of = {3: 20, 5: 120, 6: 220, 9: 60}
    shown = made.views.reshape(4, 4, 16, 4, 16, 3).mean(axis=(2, 4, 5)).reshape(4, 16)
    expected = np.vectorize(of.get)(made.labels) * 0.85
    assert np.abs(shown - expected).max() < 4
    assert {tuple(sorted(set(row))) for row in made.labels.tolist()} == {(3, 6), (5, 9)}


LISTS = {
    "caltech101": (500, "3c2a1b317226ca0b"),
    "grocery": (300, "0d4c4f5a74c85b5f"),
    "corridor": (222, "eff59d3a124bcfc1"),
    "graffiti": (6, "50eadadc75b2a0c0"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_what_they_were(name: str) -> None:
    names = reduced_photos.listed(name)
    assert (len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]) == LISTS[name]
    assert len(set(names)) == len(names)
    if name in ("caltech101", "grocery"):
        assert len(set(Counter(each.partition("/")[0] for each in names).values())) == 1


def test_names_at_the_ends_of_curves_keep_their_distance_and_their_order() -> None:
    found = reducers_page.spread([5, 6, 7, 50, 98, 99], 10, 0, 100)
    assert np.diff(found).min() >= 10 and found[0] >= 0 and found[-1] <= 100
    assert found[3] == 50


def test_the_page_has_a_panel_for_each_set_and_a_name_for_each_curve(tmp_path: pathlib.Path) -> None:
    cells = ("mac:0.6", "rerank", "grocery", 9, "precision_at_1")
    costs = {
        "setting": "r=9",
        "gmacs": 1.0,
        "tokens": 5,
        "index_bytes": 9,
        "compile_seconds": 1,
        "peak_mb": 1.0,
    }
    rows = [
        reducers.Row(
            model,
            name,
            *cells,
            value,
            value - 0.1,
            value + 0.1,
            "b",
            0.1,
            0.1,
            0.1,
            macs_share=share,
            **costs,
        )
        for model in ("a<b", "c")
        for name, share, value in (
            ("dense", 1.0, 0.8),
            ("tome", 0.6, 0.7),
            ("tome", 0.4, 0.5),
            ("topk", 0.6, 0.4),
        )
    ]
    table = reducers.Table(tmp_path / "t.csv")
    for row in rows:
        table.append(row)
    reducers_page.main([str(tmp_path / "t.csv"), str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == text.count("</svg>") == 2
    assert text.count(">tome</text>") == text.count(">topk</text>") == 2
    assert "a&lt;b" in text and "a<b" not in text and "http" not in text
    svgs = [
        ElementTree.fromstring(each + "</svg>") for each in re.findall(r"<svg.*?(?=</svg>)", text, re.DOTALL)
    ]
    lines = [line.get("points", "").split() for line in svgs[0].iter("polyline")]
    assert sorted(map(len, lines)) == [1, 2, 3]
    assert all(line[0] == lines[0][0] for line in lines)  # each begins at the dense model
