import pathlib
import unicodedata

import numpy as np
import pytest

from vitjax.data.sources.base import (
    FolderSource,
    ListedSource,
    align_labels,
    class_numbers,
    notes_of,
    read_classes,
)
from vitjax.data.sources.folders import list_folder, list_images
from vitjax.retrieval.metrics.relevance import Truth

NFC, NFD = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")


def fill(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Empty files, as listing looks at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_all_that_no_class_holds_is_counted_and_named(tmp_path):
    fill(
        tmp_path,
        *(f"cat/{i}.png" for i in range(3)),
        "cat/a.gif",
        "dog/red/1.JPG",
        "dog/old/1.tiff",
        "top.png",
    )
    fill(tmp_path, "owl/1.bmp", "owl/2.bmp", "owl/notes.txt", "deep/er/1.ppm", "cat/.hidden.gif")
    (tmp_path / "empty").mkdir()
    (tmp_path / "kitty").symlink_to(tmp_path / "cat")
    source = FolderSource(tmp_path, loose=False)
    assert source.class_names == ["cat", "dog/red"] and len(source) == 4
    assert [line.removeprefix(f"{tmp_path}: ") for line in source.notes()] == [
        "left out as only JPEG, PNG and WebP are read, convert them: 2 .bmp, 1 .gif, 1 .ppm, 1 .tiff",
        "1 sub-folder linked to folders that are listed already, left out: kitty",
        "4 sub-folders without a JPEG, PNG or WebP image, no class: deep (1 .ppm), dog/old (1 .tiff), "
        "empty (empty) and 1 more",
        "1 of 5 images lie beside the sub-folders of classes: left out",
    ]
    kept = FolderSource(tmp_path)
    assert len(kept) == 5 and kept.notes()[:3] == source.notes()[:3]
    assert kept.notes()[3].endswith("they have no class, so nothing is relevant to them")
    assert notes_of(kept, kept, ListedSource(tmp_path, ["cat/0.png"])) == kept.notes()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, "cat/1.png", "dog/1.png", "owl/1.png")
    import os

    scan = os.scandir

    def denied(path):
        if pathlib.Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    listing = list_folder(tmp_path)
    assert listing.images == ["cat/1.png", "owl/1.png"]
    assert listing.notes(classes=True) == [
        f"{tmp_path}: 1 sub-folder not readable, check the permissions, left out: dog"
    ]


def test_a_flat_folder_says_nothing_of_empty_folders_beside_its_images(tmp_path):
    fill(tmp_path, "1.png", "2.png")
    (tmp_path / "thumbnails").mkdir()
    assert FolderSource(tmp_path).notes() == []


def test_the_order_of_names_is_that_of_their_composed_form(tmp_path):
    files = ["caf\u0065\u0301.png", "cafz.png", "cafa.png"]  # decomposed, the first would be before cafz
    fill(tmp_path, *files)
    assert [unicodedata.normalize("NFC", name) for name in list_images(tmp_path)] == sorted(
        unicodedata.normalize("NFC", name) for name in files
    )
    assert FolderSource(tmp_path).names == ["cafa.png", "cafz.png", f"{NFC}.png"]


def test_class_names_of_either_unicode_form_meet_and_it_is_said(tmp_path):
    gallery = FolderSource(fill(tmp_path / "g", f"{NFC}/1.png", "dog/1.png", f"{NFC}/2.png"))
    query = FolderSource(fill(tmp_path / "q", f"{NFD}/1.png", "dog/1.png"))
    of_query, of_gallery = align_labels(query, gallery)
    assert (of_query[:, None] == of_gallery[None]).tolist() == [[True, True, False], [False, False, True]]
    assert query.class_names == gallery.class_names and query.names[0] == f"{NFC}/1.png"
    assert gallery.notes() == []
    assert query.notes() == [
        f"{tmp_path / 'q'}: 1 of 2 class names are not in the Unicode form NFC, in which names are compared"
    ]
    both = FolderSource(fill(tmp_path / "b", f"{NFD}/1.png", f"{NFC}/2.png", "dog/1.png"))
    assert both.class_names == [NFC, "dog"] and both.labels.tolist() == [0, 0, 1]


def test_names_stay_unique_where_their_composed_form_is_one(tmp_path):
    source = FolderSource(fill(tmp_path, f"{NFC}.png", f"{NFD}.png", "plain.png"))
    assert len(set(source.names)) == 3 and "plain.png" in source.names
    assert all(name.isascii() for name in source.names)
    assert {source.path(i).name for i in range(3)} == {f"{NFC}.png", f"{NFD}.png", "plain.png"}


def test_images_without_a_class_are_relevant_to_nothing(tmp_path):
    gallery = FolderSource(fill(tmp_path / "g", "x.png", "y.png", "a/1.png", "a/2.png"))
    query = FolderSource(fill(tmp_path / "q", "x.png", "z.png", "a/3.png"))
    of_query, of_gallery = align_labels(query, gallery)
    relevant = Truth.from_labels(of_query, of_gallery, np.full(3, -1)).positives
    assert [[gallery.names[i] for i in rows] for rows in relevant] == [["a/1.png", "a/2.png"], [], []]
    itself = align_labels(gallery, gallery)
    truth = Truth.from_labels(*itself, np.arange(4))
    ranking = np.array([[j for j in range(4) if j != i] for i in range(4)])
    assert truth.metrics(ranking)["queries_counted"] == 2


@pytest.mark.parametrize("twice", [["hen", "crane", "owl", "crane"], ["a", NFC, "b", NFD]])
def test_a_class_name_twice_is_refused_with_both_numbers(tmp_path, twice):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(twice))
    with pytest.raises(ValueError, match=rf"{twice[1]}' comes twice, in lines 2 and 4"):
        read_classes(path)
    with pytest.raises(ValueError, match=rf"learned: '{twice[1]}' comes twice, as numbers 1 and 3"):
        class_numbers(twice, "learned")


def test_a_list_of_classes_may_have_a_mark_and_gaps(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(f"\ufeffhen \r\n\r\n{NFD}\r\n\r\nowl\r\n\r\n\r\n".encode())
    assert read_classes(path) == ["hen", "", NFC, "", "owl"]


def test_links_and_hard_links_are_the_file_they_name(tmp_path):
    source = FolderSource(fill(tmp_path, "a.png", "b.png"))
    (tmp_path / "soft.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "b.png")
    linked = FolderSource(tmp_path)
    same = [linked.identity(i) == source.identity(1) for i in range(4)]
    assert dict(zip(linked.names, same, strict=True)) == {
        "a.png": False, "b.png": True, "hard.png": True, "soft.png": True,
    }  # fmt: skip
