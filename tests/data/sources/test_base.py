import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.data.corpus import encoded, photo
from tests.photos import write_folder
from vitjax.data import (
    FolderSource,
    ImageError,
    ImageSource,
    ListSource,
    SourceTail,
    align_labels,
    fingerprint,
)

PNG = encoded(photo(8, 6), "PNG")


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return folder


def test_flat_folder_has_no_labels(tmp_path):
    source = FolderSource(fill(tmp_path, "b.png", "a.png"))
    assert isinstance(source, ImageSource)
    assert (source.names, source.labels, source.class_names, len(source)) == (["a.png", "b.png"], None, [], 2)
    assert source.read(1).size == (8, 6)


def test_folders_that_hold_images_are_classes(tmp_path):
    source = FolderSource(
        fill(tmp_path, "pear/x.png", "apple/red/1.png", "apple/red/2.png", "apple/green/1.png")
    )
    assert source.class_names == ["apple/green", "apple/red", "pear"]
    assert [source.class_names[i] for i in source.labels] == ["apple/green", "apple/red", "apple/red", "pear"]


def test_images_of_the_root_beside_sub_folders_are_a_class_of_their_own(tmp_path):
    source = FolderSource(fill(tmp_path, "x.png", "a/y.png"))
    assert [source.class_names[i] for i in source.labels] == ["a", "."]
    assert "1 of 2 images lie beside the sub-folders" in source.notes()[0]


def test_folders_alone_have_no_loose_images(tmp_path):
    fill(tmp_path, "a/1.png")
    assert FolderSource(tmp_path).notes() == FolderSource(tmp_path / "a").notes() == []


def test_files_of_other_formats_are_counted(tmp_path):
    source = FolderSource(fill(tmp_path, "a.png", "b.TIF", "deep/c.tif", "d.bmp", ".e.gif", "notes.txt"))
    (note,) = source.notes()
    assert len(source) == 1 and note.endswith("convert them: 1 .bmp, 2 .tif")
    assert FolderSource(tmp_path / "a.png").notes() == []
    with pytest.raises(ValueError, match=r"no JPEG, PNG or WebP images .*1 \.tif\); give another folder"):
        FolderSource(tmp_path / "deep")


def test_one_file_is_a_source_of_one(tmp_path):
    source = FolderSource(fill(tmp_path, "x.png", "y.png") / "y.png")
    assert (source.names, source.labels, source.read(0).size) == (["y.png"], None, (8, 6))


@pytest.mark.parametrize("path", ["missing", ""])
def test_missing_folder_says_what_to_give(path):
    with pytest.raises(ValueError, match="give a folder of images"):
        FolderSource(path)


def test_hostile_file_names_are_kept_apart_and_printable(tmp_path):
    names = [
        "<script>alert(1)<",
        "\"quotes' & spaces",
        "new\nline",
        "x" * 251,
        "bild-\u00e4\u00f6-\u732b-\u202e",
        "a..",
        "%2e%2e",
        os.fsdecode(b"\xff\xfe"),
    ]
    made = []
    for name in names:
        try:
            fill(tmp_path, name + ".png")
            made.append(name)
        except OSError:  # not every file system takes every name
            continue
    source = FolderSource(tmp_path)
    assert len(source) == len(made) >= 6
    assert len(set(source.names)) == len(source)
    json.dumps(source.names).encode("utf-8")
    "".join(source.names).encode("utf-8")
    for i in range(len(source)):
        assert source.read(i).size == (8, 6)


def test_a_hostile_name_stays_on_one_line_of_an_error(tmp_path):
    (tmp_path / "a\nb.png").write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        FolderSource(tmp_path).read(0)
    assert str(caught.value).isprintable()


def test_list_takes_paths_images_arrays_and_bytes(tmp_path):
    path = fill(tmp_path, "x.png") / "x.png"
    source = ListSource([path, str(path), photo(8, 6), np.zeros((6, 8, 3), np.uint8), PNG])
    assert isinstance(source, ImageSource)
    assert len(set(source.names)) == len(source) == 5
    assert {source.read(i).size for i in range(5)} == {(8, 6)}
    with pytest.raises(ImageError, match="item 0 is a int"):
        ListSource([3]).read(0)
    assert ListSource(np.array(["a.png", "b.png"])).names == ListSource(iter(["a.png", "b.png"])).names


@pytest.mark.parametrize("one", ["x.png", PNG, np.zeros((6, 8, 3), np.uint8)], ids=type)
def test_one_image_is_no_list(one):
    with pytest.raises(TypeError, match=f"ListSource: items is one {type(one).__name__}; give a list"):
        ListSource(one)


def test_labels_of_two_folders_meet_by_class_name(tmp_path):
    gallery = FolderSource(fill(tmp_path / "g", "a/1.png", "c/1.png"))
    query = FolderSource(fill(tmp_path / "q", "b/1.png", "c/1.png"))
    of_query, of_gallery = align_labels(query, gallery)
    np.testing.assert_array_equal(of_query[:, None] == of_gallery[None, :], [[False, False], [False, True]])
    assert align_labels(query, FolderSource(fill(tmp_path / "n", "1.png"))) is None


def test_a_fingerprint_changes_with_the_images_and_with_nothing_else(tmp_path):
    folder = write_folder(tmp_path / "photos", kinds=2, variants=2)
    first = fingerprint(FolderSource(folder))
    assert fingerprint(FolderSource(folder)) == first
    file = folder / "class_0" / "1.png"
    file.write_bytes(file.read_bytes() + b"\0")
    second = fingerprint(FolderSource(folder))
    file.rename(folder / "class_0" / "2.png")
    third = fingerprint(FolderSource(folder))
    assert len({first, second, third}) == 3
    pixels = np.zeros((4, 4, 3), np.uint8)
    items = [pixels, pixels + 1, Image.fromarray(pixels), b"x", str(file), folder / "class_0" / "0.png"]
    assert len({fingerprint(ListSource([item])) for item in items}) == 6
    assert fingerprint(ListSource([pixels])) == fingerprint(ListSource([pixels.copy()]))
    assert fingerprint(SourceTail(FolderSource(folder), 1)) != fingerprint(
        SourceTail(FolderSource(folder), 2)
    )


def test_the_tail_of_a_source_is_the_source_from_there_on(tmp_path):
    whole = FolderSource(write_folder(tmp_path / "photos", kinds=2, variants=2))
    tail = SourceTail(whole, 3)
    assert len(tail) == 1 and tail.names == whole.names[3:] and tail.labels.tolist() == [1]
    np.testing.assert_array_equal(tail.read(0), whole.read(3))
