"""On a small dataset prepared here, without TensorFlow."""

import io
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets")

from vitjax.data.tfds import TfdsSource  # noqa: E402  (needs nothing of TFDS itself)


class Fruits(tfds.core.GeneratorBasedBuilder):
    """Twelve pictures of three classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b", "c"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full((10, 8, 3), 20 * i, np.uint8)).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i % 3}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tfds")
    Fruits(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def test_a_prepared_dataset_gives_pictures_labels_and_names_without_tensorflow(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path))
    source = TfdsSource("fruits", "train", prepared)
    assert len(source) == 12
    assert source.class_names == ["a", "b", "c"]
    values = [int(np.asarray(source.read(i))[0, 0, 0]) for i in range(12)]
    assert sorted(values) == [20 * i for i in range(12)]
    assert [source.label(i) for i in range(12)] == [value // 20 % 3 for value in values]
    assert source.labels.tolist() == [source.label(i) for i in range(12)]
    assert TfdsSource("fruits", "train", prepared).labels.tolist() == source.labels.tolist()
    assert len(list((tmp_path / "tfds-labels").iterdir())) == 1
    assert source.read(0).size == (8, 10)
    assert len(TfdsSource("fruits", "train[:50%]", prepared)) == 6
    assert "tensorflow" not in sys.modules


def test_a_dataset_that_is_not_there_is_named(tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match=r"'nonesuch'.*cannot be read"):
        TfdsSource("nonesuch", "train", str(tmp_path))
