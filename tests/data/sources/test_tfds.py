"""On a small dataset prepared here, without TensorFlow."""

import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets")

from vitjax.data.sources.tfds import TfdsSource  # noqa: E402  (needs nothing of TFDS itself)


class Fruits(tfds.core.GeneratorBasedBuilder):
    """Twelve images of three classes."""

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


def test_a_prepared_dataset_gives_images_labels_and_names_without_tensorflow(prepared, tmp_path, monkeypatch):
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


TFDS_DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
SEQUENCE = "tensorflow_datasets.core.features.sequence_feature.Sequence"


def modern(name: str) -> dict:
    return {"pythonClassName": name, "jsonFeature": {"json": "{}"}}


FOREIGN = {
    "at the top": modern,
    "nested": lambda name: {"pythonClassName": TFDS_DICT, "featuresDict": {"features": {"a": modern(name)}}},
    "in a sequence": lambda name: {"pythonClassName": SEQUENCE, "sequence": {"feature": modern(name)}},
    "in the other spelling": lambda name: {"python_class_name": name, "json_feature": {"json": "{}"}},
    "as older versions wrote it": lambda name: {
        "type": TFDS_DICT,
        "content": {"a": {"type": name, "content": {}}},
    },
    "in JSON inside of JSON": lambda name: {
        "pythonClassName": TFDS_DICT,
        "jsonFeature": {"json": json.dumps({"a": {"type": name, "content": {}}})},
    },
}


@pytest.mark.parametrize("place", [*FOREIGN, "in dataset_info.json", "behind a link"])
def test_no_module_that_a_data_folder_names_is_imported(prepared, tmp_path, monkeypatch, place):
    out = tmp_path / "out"
    folder = pathlib.Path(shutil.copytree(prepared, out)) / "fruits" / "1.0.0"
    file = "dataset_info.json" if place == "in dataset_info.json" else "features.json"
    if place == "in dataset_info.json":
        info = json.loads((folder / file).read_text()) | {"features": modern("named_in_a_file.Feature")}
    else:
        info = FOREIGN.get(place, modern)("named_in_a_file.Feature")
    (folder / file).write_text(json.dumps(info))
    if place == "behind a link":
        os.rename(folder, tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    here = tmp_path / "current"
    here.mkdir()
    (here / "named_in_a_file.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    with pytest.raises(
        ValueError, match=r"names a feature of the class 'named_in_a_file\.Feature'"
    ) as caught:
        TfdsSource("fruits:1.0.0", "train", str(out))
    assert "\n" not in str(caught.value)
    assert "named_in_a_file" not in sys.modules


@pytest.mark.parametrize("name", ["tensorflow_datasets_too.Feature", "tensorflow_datasets", "os.path", ""])
def test_only_the_package_itself_counts_as_tfds(prepared, tmp_path, name):
    folder = pathlib.Path(shutil.copytree(prepared, tmp_path / "out")) / "fruits" / "1.0.0"
    (folder / "features.json").write_text(json.dumps(modern(name)))
    with pytest.raises(ValueError, match="only features of tensorflow_datasets are read"):
        TfdsSource("fruits:1.0.0", "train", str(tmp_path / "out"))


def test_afterwards_tfds_finds_features_as_before(prepared, tmp_path):
    before = vars(tfds.features.FeatureConnector)["cls_from_name"]
    TfdsSource("fruits", "train", prepared)
    with pytest.raises(ValueError, match="cannot be read"):
        TfdsSource("nonesuch", "train", str(tmp_path))
    assert vars(tfds.features.FeatureConnector)["cls_from_name"] is before


@pytest.mark.parametrize("name", ["huggingface:mnist", "kaggle:a/b"])
def test_a_namespace_is_not_fetched(tmp_path, name):
    with pytest.raises(ValueError, match="fetched and run"):
        TfdsSource(name, "train", str(tmp_path))


def test_kept_labels_are_of_the_files_that_are_there(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    out = pathlib.Path(shutil.copytree(prepared, tmp_path / "out"))
    first = TfdsSource("fruits", "train", str(out)).labels
    (kept,) = (tmp_path / "cache" / "tfds-labels").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        kept.write_bytes(damaged)
        assert TfdsSource("fruits", "train", str(out)).labels.tolist() == first.tolist()
        assert kept.read_bytes() == whole
    # Records of other labels in these files' place: as many, of one length, and as old by their times.
    shards = sorted((out / "fruits" / "1.0.0").glob("*train*"))
    others = [shard.stat() for shard in shards]
    monkeypatch.setattr(Fruits, "_generate_examples", lambda self, count: relabelled(count))
    again = tmp_path / "again"
    Fruits(data_dir=again, file_format="array_record").download_and_prepare()
    for shard, before in zip(shards, others, strict=True):
        shutil.copyfile(again / "fruits" / "1.0.0" / shard.name, shard)
        assert shard.stat().st_size == before.st_size
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    source = TfdsSource("fruits", "train", str(out))
    assert source.labels.tolist() == [source.label(i) for i in range(12)] != first.tolist()


def relabelled(count: int):
    for i in range(count):
        file = io.BytesIO()
        Image.fromarray(np.full((10, 8, 3), 20 * i, np.uint8)).save(file, "PNG")
        file.seek(0)
        yield i, {"image": file, "label": (i + 1) % 3}
