"""On miniature copies of the downloads, files as they are published."""

import pathlib
import shutil

import numpy as np
import pytest

from tests.data.layouts import CARS_CLASSES, write_cars, write_cub, write_sop
from vitjax.data.images import ImageError
from vitjax.data.sources.cub_cars_sop import read_cars, read_cub, read_cub_parts, read_sop


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cub_is_searched_in_classes_above_100(tmp_path: pathlib.Path, end):
    folder = write_cub(tmp_path, end=end)
    listing = read_cub(tmp_path)
    assert listing.files == read_cub(folder).files
    test, train = listing.source(test=True), listing.source(test=False)
    assert (len(test), len(train)) == (9, 6)
    assert [test.class_names[i] for i in test.labels[::3]] == ["101.Pelican", "102.Phoebe", "103.Raven"]
    assert set(test.labels) & set(train.labels) == set()
    assert test.names[0] == "101.Pelican/Pelican_0000_101.jpg"
    assert test.read(0).size == (48, 48)
    np.testing.assert_array_equal(listing.boxes[2], [3, 2, 13, 22.5])


def test_cub_says_where_parts_are(tmp_path: pathlib.Path):
    names, places = read_cub_parts(write_cub(tmp_path, end="\r\n"))
    assert names == ["back", "left wing"]
    assert places.shape == (15, 2, 3)
    np.testing.assert_array_equal(places[3], [[4.5, 1, 0], [4.5, 2, 1]])


@pytest.mark.parametrize("devkit", [False, True])
def test_cars_are_searched_in_classes_above_98_by_class_id(tmp_path: pathlib.Path, devkit):
    listing = read_cars(write_cars(tmp_path, devkit=devkit))
    test, train = listing.source(test=True), listing.source(test=False)
    assert sorted(set(test.labels)) == [number - 1 for number in CARS_CLASSES if number > 98]
    assert sorted(set(train.labels)) == [number - 1 for number in CARS_CLASSES if number <= 98]
    assert (len(test), len(train)) == (6, 4)
    assert test.class_names[test.labels[0]] == f"Car {test.labels[0] + 1} 2012"
    assert [test.read(i).size for i in range(6)] == [(48, 48)] * 6
    np.testing.assert_array_equal(listing.boxes[0], [1, 2, 31, 40])


def test_cars_of_one_image_are_read(tmp_path: pathlib.Path):
    """MATLAB's arrays of one have no length once they are squeezed."""
    write_cars(tmp_path, variants=1, devkit=True)
    from scipy.io import savemat

    one = np.array([(1, 2, 3, 4, 99, "00001.jpg")], [(n, object) for n in "abcdef"])
    one.dtype.names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": one})
    assert read_cars(tmp_path).files[-1] == "cars_test/00001.jpg"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_products_are_searched_as_the_official_file_says(tmp_path: pathlib.Path, end):
    listing = read_sop(write_sop(tmp_path, end=end))
    test = listing.source(test=True)
    assert len(test) == 6
    assert [test.class_names[i] for i in test.labels[::3]] == ["bicycle/11319", "lamp/11320"]
    assert test.names[0] == "bicycle_final/122319_0.JPG"
    assert test.read(5).size == (48, 48)


def test_a_listed_image_that_is_missing_is_named_when_it_is_read(tmp_path: pathlib.Path):
    folder = write_cub(tmp_path)
    (folder / "images" / "101.Pelican" / "Pelican_0001_101.jpg").unlink()
    source = read_cub(folder).source(test=True)
    with pytest.raises(ImageError, match=r"Pelican_0001_101\.jpg' does not exist"):
        source.read(1)


READERS = {"cub": (write_cub, read_cub), "cars": (write_cars, read_cars), "sop": (write_sop, read_sop)}
DAMAGE = [
    ("cub", "images.txt", "3 001.Auk/", "3", r"images\.txt, line 3 .* is malformed"),
    ("cub", "images.txt", "1 001.Auk/", "1 ../001.Auk/", "line 1 .* no relative path"),
    ("cub", "images.txt", "3 001.Auk/", "2 001.Auk/", r"line 3 .*number 2 comes twice"),
    ("cub", "images.txt", "_1.jpg", "_1.exe", r"line 1 .* does not end in one of \.jpg"),
    ("cub", "image_class_labels.txt", "4 2\n", "4 two\n", r"image_class_labels\.txt, line 4 '4 two'"),
    ("cub", "image_class_labels.txt", "4 2\n", "", r"image_class_labels\.txt: no line for image 4"),
    ("cub", "classes.txt", "102 102.Phoebe\n", "", "no class 102"),
    ("cub", "bounding_boxes.txt", "1 1.0 2.0 10.0", "1 nan 2.0 10.0", "line 1 .* 4 finite numbers"),
    ("sop", "Ebay_test.txt", "7 11319 1 ", "7 11319 ", r"Ebay_test\.txt, line 2 .* is malformed"),
    ("sop", "Ebay_train.txt", "2 1 1 bicycle_final", "2 1 1 /etc", "line 3 .* no relative path"),
]


@pytest.mark.parametrize(("name", "file", "old", "new", "words"), DAMAGE)
def test_a_malformed_line_is_named(tmp_path: pathlib.Path, name, file, old, new, words):
    write, read = READERS[name]
    path = write(tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=words) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_of_an_unknown_image_or_too_few_are_named(tmp_path: pathlib.Path):
    path = write_cub(tmp_path) / "parts" / "part_locs.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"part_locs\.txt: no line for image 15, part 2"):
        read_cub_parts(tmp_path)
    path.write_text("\n".join([*lines, "99 1 0 0 1"]))
    with pytest.raises(ValueError, match=r"line 31 .*: 99 is not known"):
        read_cub_parts(tmp_path)


@pytest.mark.parametrize(("name", "file"), [("cub", "classes.txt"), ("sop", "Ebay_train.txt")])
def test_a_missing_file_is_named(tmp_path: pathlib.Path, name, file):
    write, read = READERS[name]
    (write(tmp_path) / file).unlink()
    with pytest.raises(ValueError, match=f"{file} does not exist"):
        read(tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_another_folder_is_refused_with_what_was_looked_for(tmp_path: pathlib.Path, name):
    with pytest.raises(ValueError, match=r"images\.txt|cars_annos\.mat|Ebay_test\.txt"):
        READERS[name][1](tmp_path)


def test_other_mat_files_are_refused(tmp_path: pathlib.Path):
    path = write_cars(tmp_path / "a") / "cars_annos.mat"
    whole = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(100))
    with pytest.raises(ValueError, match=r"cars_annos\.mat cannot be read \(it is no MATLAB 5 file"):
        read_cars(tmp_path / "a")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cars_annos\.mat cannot be read"):
        read_cars(tmp_path / "a")
    folder = write_cars(tmp_path / "b", devkit=True)
    shutil.copy(folder / "devkit" / "cars_meta.mat", folder / "cars_test_annos_withlabels.mat")
    with pytest.raises(ValueError, match=r"cars_test_annos_withlabels\.mat holds no 'annotations'"):
        read_cars(folder)


def test_a_test_sheet_without_classes_is_named(tmp_path: pathlib.Path):
    from scipy.io import savemat

    folder = write_cars(tmp_path, devkit=True)
    rows = np.array([(1, 2, 3, 4, "00001.jpg")] * 2, [(n, object) for n in "abcde"])
    rows.dtype.names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "fname")
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(ValueError, match=r"cars_test_annos_withlabels\.mat, entry 1"):
        read_cars(folder)


def test_two_classes_of_one_name_are_refused(tmp_path):
    root = write_cub(tmp_path)
    path = root / "classes.txt"
    lines = path.read_text().splitlines()
    lines[1] = f"{lines[1].split()[0]} {lines[0].split()[1]}"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"classes\.txt: class names: .* comes twice, as numbers 0 and 1"):
        read_cub(root)
