import pathlib

import numpy as np
import pytest

from vitjax.data.sources.cifar import CifarSource


@pytest.fixture
def cifar10(tmp_path: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] = range(4)
        records.tofile(tmp_path / name)
    (tmp_path / "batches.meta.txt").write_text(
        "\n".join(["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
    )
    return tmp_path


def test_planes_of_colour_become_images(cifar10):
    source = CifarSource(cifar10, "train")
    assert len(source) == 20
    assert source.labels is not None
    assert source.labels[:6].tolist() == [0, 1, 2, 3, 0, 1]
    assert source.class_names[2] == "bird"
    raw = np.fromfile(cifar10 / "data_batch_2.bin", np.uint8).reshape(4, 3073)[1, 1:].reshape(3, 32, 32)
    pixels = np.asarray(source.read(5))
    np.testing.assert_array_equal(pixels[..., 1], raw[1])
    assert len(CifarSource(cifar10, "test")) == 4


def test_of_cifar_100_the_fine_label_counts(tmp_path):
    records = np.zeros((3, 3074), np.uint8)
    records[:, 0], records[:, 1] = 7, (99, 0, 50)
    records.tofile(tmp_path / "train.bin")
    source = CifarSource(tmp_path, "train")
    assert source.labels is not None
    assert source.labels.tolist() == [99, 0, 50]
    assert len(source.class_names) == 100


def test_files_that_are_missing_or_cut_off_are_named(cifar10, tmp_path_factory):
    with pytest.raises(ValueError, match=r"train\.bin does not exist"):
        CifarSource(tmp_path_factory.mktemp("empty"), "train")
    path = cifar10 / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has 12291 bytes"):
        CifarSource(cifar10, "train")


def test_a_class_name_that_comes_twice_is_refused(cifar10):
    names = [f"kind {i}" for i in range(9)] + ["kind 3"]
    (cifar10 / "batches.meta.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=r"batches\.meta\.txt: 'kind 3' comes twice, as numbers 3 and 9"):
        CifarSource(cifar10, "test")
