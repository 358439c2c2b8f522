"""A path that begins with ~ means the home folder at every door of the library, and makes no folder ~."""

import os
import pathlib

import pytest
from PIL import Image

from vitjax.cli.flags import open_workdir
from vitjax.data.images import read_image
from vitjax.data.prepare import prepare
from vitjax.data.sources.base import FolderSource
from vitjax.data.sources.cifar import CifarSource
from vitjax.data.sources.cub_cars_sop import read_cars, read_cub, read_sop
from vitjax.data.sources.mnist import IdxSource
from vitjax.data.sources.msls import all_cities, read_msls
from vitjax.data.sources.tfds import TfdsSource
from vitjax.retrieval import Gallery, Gate
from vitjax.retrieval.gallery.storage import locate
from vitjax.weights import fetch


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "home" / "shop").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "home" / "shop" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_what_is_read_and_what_is_written_lies_in_the_home_folder(home):
    assert FolderSource("~/shop").names == ["a.png"] and FolderSource("~/shop/a.png").names == ["a.png"]
    assert read_image("~/shop/a.png").size == read_image(pathlib.Path("~/shop/a.png")).size == (8, 6)
    assert fetch("~/w.npz") == home / "w.npz"
    assert locate("~/g").folder == home / "g"
    Gallery.create("~/g")
    assert Gallery.exists("~/g") and (home / "g").is_dir()
    assert open_workdir("~/run") == home / "run"
    (home / "gate.json").write_text('{"signal": "gain", "threshold": 0.5, "weight": 1.0}')
    assert Gate.read("~/gate.json").signal == "gain"
    assert os.listdir(".") == []


@pytest.mark.parametrize(
    "door",
    [
        IdxSource,
        lambda path: CifarSource(path, "test"),
        lambda path: read_msls(path, "query"),
        lambda path: all_cities(path) or read_msls(path, "query", cities="cph"),
        read_cub, read_cars, read_sop,
        lambda path: prepare("folder", path, "~/out"),
        lambda path: TfdsSource("vitjax/none", "train", path),
        Gate.read,
    ],
)  # fmt: skip
def test_what_is_not_there_is_looked_for_in_the_home_folder(home, door):
    with pytest.raises(ValueError, match=r"home/gone"):
        door("~/gone")
    assert os.listdir(".") == []
