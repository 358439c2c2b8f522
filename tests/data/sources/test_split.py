"""Splits of a folder of classes into images to learn from and images held out."""

import json

import numpy as np
import pytest
from PIL import Image

from vitjax.data.sources.base import FolderSource
from vitjax.data.sources.open import open_source
from vitjax.data.sources.spec import DataSpec
from vitjax.data.sources.split import draw_split, read_split, take, write_split
from vitjax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    for name, count in {"ant": 5, "bass": 9, "crab": 4}.items():
        (root / name).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(root / name / f"{i}.png")
    return root


def _counts(names: list[str]) -> list[int]:
    return [sum(name.startswith(kind) for name in names) for kind in ("ant", "bass", "crab")]


def test_each_class_gives_so_many_to_learn_from_and_at_most_so_many_others(folder):
    source = FolderSource(folder)
    split = draw_split(source, 3, 4, seed=1)
    assert (_counts(split.train), _counts(split.test)) == ([3, 3, 3], [2, 4, 1])
    assert not set(split.train) & set(split.test)
    assert _counts(draw_split(source, 3, 0, seed=1).test) == [2, 6, 1]
    assert split == draw_split(source, 3, 4, seed=1) != draw_split(source, 3, 4, seed=2)


def test_a_class_without_an_image_to_hold_out_is_named(folder):
    with pytest.raises(UserError, match="'crab' has 4 images, too few to learn from 4"):
        draw_split(FolderSource(folder), 4, 0, seed=0)


def test_a_split_is_read_as_it_was_written_and_opens_both_parts(folder, tmp_path):
    split = draw_split(FolderSource(folder), 2, 2, seed=0)
    write_split(path := tmp_path / "split.json", split)
    assert read_split(path) == split
    spec = DataSpec(path=str(folder), split_file=str(path))
    for part in ("train", "test"):
        source = open_source("folder", spec, part)
        assert source is not None and source.names == getattr(split, part)
        assert source.class_names == ["ant", "bass", "crab"]
        kinds = [source.class_names[i] for i in np.asarray(source.labels)]
        assert kinds == [name.split("/")[0] for name in source.names]
    assert np.asarray(source.read(0))[0, 0, 0] == int(source.names[0].split("/")[1].removesuffix(".png"))


def test_a_split_of_another_folder_is_refused_with_a_name(folder):
    with pytest.raises(UserError, match=r"'dog/1\.png' and 1 more images that are not in the folder"):
        take(FolderSource(folder), ["ant/0.png", "dog/1.png", "dog/2.png"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "is not a split"),
        ("{", "is not a split"),
        ('{"train": ["a"], "test": []}', "is not a split"),
        ('{"train": ["a"], "test": [1]}', "is not a split"),
        ('{"train": ["a", "b"], "test": ["b"]}', "image 'b' comes twice"),
    ],
)
def test_files_that_are_no_split_are_refused(tmp_path, content, reason):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(UserError, match=reason):
        read_split(tmp_path / "split.json")


def test_classes_of_any_order_keep_their_numbers(folder, tmp_path):
    (path := tmp_path / "split.json").write_text(
        json.dumps({"train": ["crab/1.png", "ant/0.png"], "test": ["bass/3.png"]})
    )
    source = open_source("folder", DataSpec(path=str(folder), split_file=str(path)), "train")
    assert source is not None and np.asarray(source.labels).tolist() == [2, 0]
