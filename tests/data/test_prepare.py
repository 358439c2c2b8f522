"""Miniature downloads written as TFDS datasets and read back, without TensorFlow."""

import hashlib
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.data.layouts import write_cars, write_cub, write_msls, write_sop
from tests.photos import write_folder
from vitjax.data.sources.cub_cars_sop import read_cub, read_cub_parts
from vitjax.data.sources.msls import read_msls

tfds = pytest.importorskip("tensorflow_datasets")

from vitjax.data.prepare import main, prepare  # noqa: E402
from vitjax.data.sources.tfds import TfdsSource  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))


def raw_records(name: str, split: str, out: pathlib.Path) -> list[dict]:
    """Records as TFDS reads them, image files undecoded."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    return list(tfds.data_source(name, split=split, data_dir=str(out), decoders=decoders))


def test_cub_is_written_with_boxes_and_parts_and_read_back_in_order(tmp_path):
    root, out = write_cub(tmp_path), tmp_path / "out"
    assert prepare("cub", str(root), str(out)) == out / "vitjax" / "cub" / "1.0.0"
    source, wanted = TfdsSource("vitjax/cub", "test", str(out)), read_cub(root).source(test=True)
    assert source.class_names == wanted.class_names
    assert source.labels.tolist() == wanted.labels.tolist()
    for i in range(len(wanted)):
        np.testing.assert_array_equal(np.asarray(source.read(i)), np.asarray(wanted.read(i)))
    records = raw_records("vitjax/cub", "train", out)
    listing, parts = read_cub(root), read_cub_parts(root)[1]
    assert [record["file"].decode() for record in records] == listing.files[:6]
    for record, file, box, places in zip(records, listing.files, listing.boxes, parts, strict=False):
        assert record["image"] == (listing.root / file).read_bytes()
        np.testing.assert_array_equal(record["box"], box)
        np.testing.assert_array_equal(record["parts"], places)
    assert "tensorflow" not in sys.modules


def test_places_keep_every_digit(tmp_path):
    root, out = write_msls(tmp_path), tmp_path / "out"
    prepare("msls", str(root), str(out))
    for side in ("query", "database"):
        wanted, records = read_msls(root, side), raw_records("vitjax/msls", side, out)
        places = [[float(r["easting"].decode()), float(r["northing"].decode())] for r in records]
        np.testing.assert_array_equal(places, wanted.places)
        np.testing.assert_array_equal([r["angle"] for r in records], wanted.angles)
        assert [r["night"] for r in records] == wanted.night.tolist()
        assert [r["label"] for r in records] == wanted.cities.tolist()
        assert [r["file"].decode() for r in records] == wanted.names


def test_cities_that_are_not_for_validation_are_to_learn_from(tmp_path):
    root = write_msls(tmp_path)
    (root / "train_val" / "sf").rename(root / "train_val" / "oslo")
    prepare("msls", str(root), str(tmp_path / "out"))
    (record,) = raw_records("vitjax/msls", "train_query", tmp_path / "out")
    assert record["file"] == b"oslo/query/images/q6.jpg"
    source = TfdsSource("vitjax/msls", "train_database", str(tmp_path / "out"))
    assert [source.class_names[i] for i in source.labels] == ["oslo", "oslo"]


@pytest.mark.parametrize(
    ("name", "write", "counts"),
    [
        ("cars", write_cars, {"train": 4, "test": 6}),
        ("sop", write_sop, {"train": 6, "test": 6}),
        ("folder", lambda root: write_folder(root / "shop"), {"train": 12}),
    ],
)
def test_other_downloads_are_written(tmp_path, name, write, counts):
    prepare(name, str(write(tmp_path)), str(tmp_path / "out"), dataset="mine")
    builder = tfds.builder("vitjax/mine", data_dir=str(tmp_path / "out"))
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == counts
    for split in counts:
        assert TfdsSource("vitjax/mine", split, str(tmp_path / "out")).read(0).size == (48, 48)


def test_folders_of_splits_share_their_classes(tmp_path):
    write_folder(tmp_path / "raw" / "train", kinds=3)
    write_folder(tmp_path / "raw" / "test", kinds=2)
    prepare("folder", str(tmp_path / "raw"), str(tmp_path / "out"))
    train, test = (TfdsSource("vitjax/folder", split, str(tmp_path / "out")) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["class_0", "class_1", "class_2"]
    assert (len(train), len(test)) == (9, 6)


def test_loose_images_are_left_out_with_a_note(tmp_path, capsys):
    write_folder(tmp_path / "raw", kinds=2)
    shutil.copy(next((tmp_path / "raw").glob("*/*")), tmp_path / "raw" / "loose.png")
    assert main(["folder", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    assert "1 of 7 images lie beside the sub-folders of classes: left out" in capsys.readouterr().err
    train = TfdsSource("vitjax/folder", "train", str(tmp_path / "out"))
    assert (train.class_names, len(train)) == (["class_0", "class_1"], 6)


def test_mistakes_are_one_line(tmp_path, capsys):
    root = write_cub(tmp_path)
    (root / "images" / "102.Phoebe" / "Phoebe_0000_102.jpg").unlink()
    for raw, words in ((root, "Phoebe_0000_102.jpg' is listed"), (tmp_path / "no", "is not a folder")):
        assert main(["cub", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 1
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_other_files_is_not_taken_for_this_one(tmp_path):
    root, out = write_folder(tmp_path / "raw", kinds=2), tmp_path / "out"
    folder = prepare("folder", str(root), str(out))
    assert prepare("folder", str(root), str(out)) == folder
    (root / "class_0" / "2.png").rename(root / "class_1" / "3.png")
    with pytest.raises(ValueError, match=r"was prepared from other files, labels or classes.*--dataset"):
        prepare("folder", str(root), str(out))
    assert prepare("folder", str(root), str(out), dataset="second") != folder


@pytest.mark.slow
def test_a_second_process_leaves_the_dataset_and_eval_searches_it(tmp_path):
    root, out = write_cub(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "vitjax.data.prepare", "cub", "--raw", str(root), "--out", str(out)]

    def state() -> list[str]:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
        folder = pathlib.Path(run.stdout.splitlines()[-1])
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]

    assert state() == state()
    from tests.evaluation.test_protocols import call

    plain = call("cub200.py", tmp_path / "plain", root)[1]
    more = ["--config.data.source=tfds", "--config.data.name=vitjax/cub", "--config.data.split=test"]
    code, results, err = call("cub200.py", tmp_path / "kept", out, *more)
    assert code == 0, err
    for name, value in results["metrics"]["reranked"].items():
        assert value == plain["metrics"]["reranked"].get(name, value)
    assert results["queries"] == 9
