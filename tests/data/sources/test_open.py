"""Datasets by name, and one of your own."""

import numpy as np
import pytest
from PIL import Image

from tests.data.layouts import write_msls
from vitjax.config import EvalConfig, validate
from vitjax.config.train_config import TrainConfig
from vitjax.config.train_config import validate as validate_training
from vitjax.data.sources.open import SOURCES, open_source, sources_with
from vitjax.data.sources.spec import DataSpec
from vitjax.errors import UserError
from vitjax.evaluation import classify
from vitjax.evaluation.protocols import open_protocol
from vitjax.training.data import open_sources


class Stripes:
    """Four grey images in two classes; a split has its own brightness."""

    def __init__(self, spec: DataSpec, split: str) -> None:
        self.names = [f"{split}/{i}" for i in range(4)]
        self.labels = np.array([0, 0, 1, 1], np.int32)
        self.class_names = ["dark", "light"]
        self._grey = {"gallery": 10, "query": 20, "train": 30, "test": 40}[split] + int(spec.name or 0)

    def __len__(self) -> int:
        return 4

    def read(self, i: int) -> Image.Image:
        return Image.new("RGB", (32, 32), (self._grey + i,) * 3)


@pytest.fixture
def stripes(monkeypatch):
    monkeypatch.setitem(SOURCES, "stripes", Stripes)


def greys(*sources) -> list[int]:
    return [source.read(0).getpixel((0, 0))[0] for source in sources]


def test_one_entry_of_the_dictionary_serves_both_programs(stripes):
    config = EvalConfig()
    config.data.source, config.data.name = "stripes", "5"
    validate(config)
    assert greys(*open_protocol(config.data)) == [15, 25]
    config.task = "classify"
    validate(config)
    assert greys(classify.open_source(config)) == [45]
    training = TrainConfig()
    training.data.source = "stripes"
    validate_training(training)
    assert greys(*open_sources(training)) == [30, 40]


def test_a_gallery_searched_in_itself_is_one_object(monkeypatch):
    opened = lambda spec, split: None if split == "query" else Stripes(spec, split)  # noqa: E731
    monkeypatch.setitem(SOURCES, "stripes", opened)
    config = EvalConfig()
    config.data.source = "stripes"
    gallery, queries = open_protocol(config.data)
    assert gallery is queries


def test_classes_are_held_out_where_no_images_are(monkeypatch):
    opened = lambda spec, split: None if split == "test" else Stripes(spec, split)  # noqa: E731
    monkeypatch.setitem(SOURCES, "stripes", opened)
    config = TrainConfig()
    config.data.source = "stripes"
    assert [source.class_names for source in open_sources(config)] == [["dark"], ["light"]]


def test_a_name_that_nobody_added_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'stripes' is unknown.*folder, scenes"):
        open_source("stripes", DataSpec(), "gallery")
    with pytest.raises(ValueError, match="'digits' has no split 'gallery'; it has train, test"):
        open_source("digits", DataSpec(), "gallery")


def test_an_error_of_an_empty_folder_has_the_field_that_it_comes_from():
    with pytest.raises(UserError, match="where the images are: 'path' is empty") as error:
        open_source("idx", DataSpec(), "test")
    assert error.value.fields == ()
    with pytest.raises(UserError, match="'path' is empty") as error:
        open_source("cub", DataSpec(fields={"path": "data.images"}), "gallery")
    assert error.value.fields == ("data.images",)


def test_places_are_learned_from_cities_that_are_not_held_out(tmp_path):
    spec = DataSpec(path=str(write_msls(tmp_path)), train="cph,sf", test="sf")
    learn, held_out = (open_source("msls", spec, split) for split in ("train", "test"))
    assert (learn.class_names, held_out.class_names) == (["cph"], ["sf"])


def test_each_program_offers_the_sources_that_have_its_splits():
    assert sources_with("train") == ["folder", "msls", "tfds", "idx", "cifar", "digits"]
    published = [
        "roxford5k",
        "rparis6k",
        "pitts30k",
        "pitts250k",
        "nordland",
        "amstertime",
        "gldv2",
        "instre",
    ]
    searched = ["folder", "scenes", "cub", "cars", "sop", "msls", *published, "ilias", "tfds"]
    assert sources_with("gallery") == searched
