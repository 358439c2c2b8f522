"""Images in MNIST's file format, whole and damaged."""

import gzip
import struct

import numpy as np
import pytest

from vitjax.data.sources.mnist import IdxSource


def packed(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, pixels: np.ndarray, labels: np.ndarray, *, gz: bool = False, split: str = "t10k") -> None:
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        path = folder / f"{split}-{name}-ubyte{'.gz' if gz else ''}"
        path.write_bytes(gzip.compress(packed(array)) if gz else packed(array))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


LABELS = np.array([3, 0, 1, 3, 2], np.uint8)


@pytest.mark.parametrize("gz", [True, False])
def test_images_and_labels_are_those_of_the_files(tmp_path, pixels, gz):
    write(tmp_path, pixels, LABELS, gz=gz)
    write(tmp_path, pixels[:2], LABELS[:2], gz=gz, split="train")
    source = IdxSource(tmp_path)
    assert len(source) == 5 and len(IdxSource(tmp_path, "train")) == 2
    assert source.labels is not None and source.labels.tolist() == LABELS.tolist()
    assert source.class_names == ["0", "1", "2", "3"]
    for i in range(5):
        rgb = np.asarray(source.read(i))
        assert rgb.shape == (28, 28, 3)
        np.testing.assert_array_equal(rgb, pixels[i][..., None].repeat(3, axis=2))


@pytest.mark.parametrize("gz", [True, False])
def test_damage_is_told_in_one_line_that_names_the_file(tmp_path, pixels, gz):
    write(tmp_path, pixels, LABELS, gz=gz)
    images = next(tmp_path.glob("t10k-images*"))
    whole = images.read_bytes()
    for broken in (b"", whole[:3], whole[:9], whole[:-1], whole[:40], b"x" + whole[1:], whole + b"0"):
        images.write_bytes(broken)
        with pytest.raises(ValueError, match="t10k-images") as error:
            IdxSource(tmp_path)
        assert "\n" not in str(error.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path, pixels):
    write(tmp_path, pixels, LABELS[:4])
    with pytest.raises(ValueError, match=r"has 5 images, .* 4 labels"):
        IdxSource(tmp_path)


def test_a_folder_without_them_is_told(tmp_path):
    with pytest.raises(ValueError, match="has no file t10k-images"):
        IdxSource(tmp_path)
