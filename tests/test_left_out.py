"""What both programs say of images that they leave out: one note, on the screen and in results.json."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.test_protocols import call, first_hits
from tests.photos import image
from vitjax.config import EvalConfig
from vitjax.config.train_config import OptimConfig, StudentConfig, TrainConfig, TrainDataConfig
from vitjax.evaluation import classify
from vitjax.training import preemption

FAST = ["--config.rerank.method=pooled", "--config.figures.report=0"]


def put(folder: pathlib.Path, *names: str, kind: int = 0) -> pathlib.Path:
    for variant, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(kind, variant)).save(folder / name)
    return folder


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two classes, one of them in part of a format that is not read, a third wholly so, and a loose image."""
    for kind, name in enumerate(("cat", "dog")):
        put(tmp_path / "photos", *(f"{name}/{i}.png" for i in range(4)), kind=kind)
    put(tmp_path / "photos", "cat/a.gif", "owl/1.bmp", "owl/2.bmp", "overview.png")
    return tmp_path / "photos"


def lines(photos: pathlib.Path) -> list[str]:
    return [
        f"{photos}: left out as only JPEG, PNG and WebP are read, convert them: 2 .bmp, 1 .gif",
        f"{photos}: 1 sub-folder without a JPEG, PNG or WebP image, no class: owl (2 .bmp)",
        f"{photos}: 1 of 9 images lie beside the sub-folders of classes: ",
    ]


def train(photos: pathlib.Path, out: pathlib.Path, **data: str) -> dict:
    import train as program_under_test

    config = TrainConfig(
        batch_size=4,
        steps=1,
        model=StudentConfig(
            name="deit_small_patch16_224", img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2
        ),
        data=TrainDataConfig(train=str(photos), resize="squash", **data),
        optim=OptimConfig(warmup_epochs=0.0),
    )
    out.mkdir()
    return program_under_test.train(config, out, preemption.Stop())


def test_training_notes_what_searching_notes(photos, tmp_path, capsys):
    trained = train(photos, tmp_path / "trained", test=str(photos))
    said = " ".join(capsys.readouterr().err.split())
    code, searched, err = call(
        "folder.py", tmp_path / "out", photos, f"--config.data.gallery={photos}", *FAST
    )
    assert code == 0, err
    for line in lines(photos):
        assert line in said and line in " ".join(err.split())
        for results in (trained, searched, json.loads((tmp_path / "trained" / "results.json").read_text())):
            assert sum(note.startswith(line) for note in results["notes"]) == 1
    assert trained["notes"][2].endswith("left out")
    assert searched["gallery"] == 9 and searched["queries_counted"] == 8


def test_a_held_out_image_that_cannot_be_read_is_named(photos, tmp_path):
    held_out = put(tmp_path / "val", "cat/0.png", "dog/0.png")
    (held_out / "dog" / "1.png").write_bytes(b"no image")
    (photos / "overview.png").unlink()
    results = train(photos, tmp_path / "trained", test=str(held_out))
    (skipped,) = results["skipped"]
    assert (skipped["side"], skipped["name"], skipped["index"]) == ("test", "dog/1.png", 2)
    assert "is not a JPEG, PNG or WebP image" in skipped["reason"]


def test_classification_leaves_out_what_has_no_class(photos):
    config = EvalConfig(task="classify")
    config.data.images = str(photos)
    source = classify.open_source(config)
    assert source.class_names == ["cat", "dog"] and len(source) == 8
    assert [note.startswith(line) for note, line in zip(source.notes(), lines(photos), strict=True)] == [
        True
    ] * 3


def test_figures_are_those_of_the_trec_files_where_some_queries_are_gallery_files(tmp_path):
    for kind, name in enumerate(("red", "green")):
        put(tmp_path / "gallery", *(f"{name}/{i}.png" for i in range(3)), kind=kind)
        (tmp_path / "query" / name).mkdir(parents=True)
        (tmp_path / "query" / name / "soft.png").symlink_to(tmp_path / "gallery" / name / "0.png")
    (tmp_path / "query" / "red" / "hard.png").hardlink_to(tmp_path / "gallery" / "red" / "2.png")
    put(tmp_path / "query", "red/new.png", "blue/new.png", kind=0)
    sides = [f"--config.data.{side}={tmp_path / side}" for side in ("gallery", "query")]
    code, results, err = call("folder.py", tmp_path / "out", tmp_path, *sides, *FAST)
    assert code == 0, err
    assert results["queries_found_in_gallery_and_left_out"] == 3
    assert (results["queries"], results["queries_counted"]) == (5, 4)
    assert "5 queries in 6 pictures, 4 of them counted" in err
    assert "1 of classes that the gallery lacks (blue)" in results["notes"][0]
    right: dict[str, set[str]] = {}
    for line in (tmp_path / "out" / "qrels.trec").read_text().splitlines():
        right.setdefault(line.split()[0], set()).add(line.split()[2])
    assert right["red/hard.png"] == {"red/0.png", "red/1.png"} and len(right["red/new.png"]) == 3
    for order, file in (("pooled", "run_pooled.trec"), ("reranked", "run.trec")):
        ranked = first_hits(tmp_path / "out" / file)
        shares = [len(set(ranked[q][: len(names)]) & names) / len(names) for q, names in right.items()]
        assert results["metrics"][order]["r_precision"] == pytest.approx(np.mean(shares), rel=1e-9)


@pytest.mark.parametrize("task", ["retrieve", "classify", "index"])
def test_where_no_image_can_be_read_the_first_are_named_with_the_reason(tmp_path, task):
    for i in range(5):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"IMG_{i}.jpg").write_bytes(b"\0\0\0\x18ftypheic" + b"0" * 300)
    more = [f"--config.data.gallery={tmp_path / 'photos'}", f"--config.task={task}", *FAST]
    more += [f"--config.index.path={tmp_path / 'index'}"] if task == "index" else []
    code, _, err = call("folder.py", tmp_path / "out", tmp_path / "photos", *more)
    last = err.splitlines()[-1]
    assert code == 1 and "Traceback" not in err
    assert all(f"IMG_{i}.jpg" in last for i in range(3)) and "and 2 more" in last
    assert "is not a JPEG, PNG or WebP image" in last
