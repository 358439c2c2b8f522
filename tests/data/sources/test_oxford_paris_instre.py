"""Miniatures of revisited Oxford and INSTRE: names, boxes, setups, and nothing is run."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.photos import image
from vitjax.data.sources.oxford_paris_instre import read_instre, read_revisited
from vitjax.errors import UserError

IMAGES = ["all_souls_1", "ashmolean_2", "worcester_3", "magdalen_4", "keble_5"]
QUERIES = ["all_souls_0", "keble_0"]
GND = [
    {"bbx": [3.4, 5.6, 30.5, 40.0], "easy": [0], "hard": [3, 1], "junk": [2]},
    {"bbx": [0, 0, 48, 20], "easy": [], "hard": [4], "junk": [0, 3]},
]


def write_photos(root: pathlib.Path, files: list[str]) -> None:
    for kind, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(kind, 0)).save(root / file)


def write_revisited(root: pathlib.Path, gnd: object = GND) -> pathlib.Path:
    """roxford5k with five images in sub-folders; returns the file of the ground truth."""
    write_photos(root, [f"jpg/paris/{name}.jpg" for name in IMAGES] + [f"jpg/{name}.jpg" for name in QUERIES])
    path = root / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps({"imlist": IMAGES, "qimlist": QUERIES, "gnd": gnd}, 2))
    return path


def rows(found) -> list[list[int]]:
    return [each.tolist() for each in found]


def test_setups_and_boxes_are_those_of_the_ground_truth(tmp_path: pathlib.Path):
    write_revisited(tmp_path / "roxford5k")
    gallery, queries = read_revisited(tmp_path, "roxford5k")
    assert gallery.names == [f"jpg/paris/{name}.jpg" for name in IMAGES]
    assert queries.names == [f"jpg/{name}.jpg" for name in QUERIES]
    setups = {name: (rows(s.positives), rows(s.junk)) for name, s in queries.setups.items()}
    assert setups == {
        "easy": ([[0], []], [[2, 3, 1], [0, 3, 4]]),
        "medium": ([[0, 3, 1], [4]], [[2], [0, 3]]),
        "hard": ([[3, 1], [4]], [[2, 0], [0, 3]]),
    }
    assert rows(queries.relevant()) == [[0, 1, 3], [4]]
    whole = Image.open(tmp_path / "roxford5k" / "jpg" / "all_souls_0.jpg").convert("RGB")
    np.testing.assert_array_equal(queries.read(0), whole.crop((3, 6, 30, 40)))
    assert queries.read(1).size == (48, 20)


def test_arrays_and_matlab_say_the_same(tmp_path: pathlib.Path):
    arrays = [{key: np.array(value) for key, value in entry.items()} for entry in GND]
    write_revisited(tmp_path / "a", arrays)
    write_revisited(tmp_path / "b").unlink()
    fields = [(key, object) for key in ("bbx", "easy", "hard", "junk")]
    structs = np.array(
        [tuple(np.array(e[k]) + (k != "bbx") for k, _ in fields) for e in GND], fields
    )  # MATLAB counts from 1
    cells = {key: np.array(names, object) for key, names in (("imlist", IMAGES), ("qimlist", QUERIES))}
    savemat(tmp_path / "b" / "gnd_roxford5k.mat", cells | {"gnd": structs})
    write_revisited(tmp_path / "c")
    found = [read_revisited(tmp_path / name, "roxford5k")[1] for name in "abc"]
    for other in found[:2]:
        assert other.boxes == found[2].boxes
        for name, setup in found[2].setups.items():
            assert rows(other.setups[name].positives) == rows(setup.positives)
            assert rows(other.setups[name].junk) == rows(setup.junk)


def test_instre_counts_from_1_in_matlab_and_from_0_in_pickles(tmp_path: pathlib.Path):
    images = [f"INSTRE-S1/01a/{i:03d}.jpg" for i in range(1, 4)] + ["INSTRE-M/01/001.jpg"]
    queries = ["INSTRE-S1/01a/000.jpg", "INSTRE-S2/02/000.jpg"]
    write_photos(tmp_path, images + queries)
    structs = np.array([([1, 4], [1, 2, 20, 30]), (3, [0, 0, 48, 48])], [("ok", object), ("bbx", object)])
    cells = {key: np.array(names, object) for key, names in (("imlist", images), ("qimlist", queries))}
    savemat(tmp_path / "gnd_instre.mat", cells | {"gnd": structs})
    gallery, asked = read_instre(tmp_path)
    assert (gallery.names, asked.names) == (images, queries)
    assert rows(asked.setups[""].positives) == [[0, 3], [2]]
    assert asked.boxes == [(1, 2, 20, 30), (0, 0, 48, 48)]
    assert asked.read(0).size == (19, 28)
    gnd = [{"ok": np.array([0, 3]), "bbx": (1, 2, 20, 30)}, {"ok": [2], "bbx": (0, 0, 48, 48)}]
    (tmp_path / "gnd_instre.pkl").write_bytes(
        pickle.dumps({"imlist": images, "qimlist": queries, "gnd": gnd})
    )
    assert rows(read_instre(tmp_path)[1].setups[""].positives) == [[0, 3], [2]]


class Shout:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("gnd", "words"),
    [
        (Shout(), r"gnd_roxford5k\.pkl is not read: it asks for .*print.*; nothing was run"),
        (GND[:1], "names 2 queries and judges 1"),
        ([GND[0], {**GND[1], "hard": [5]}], "query 1: hard lists an image that is none of the 5"),
        ([GND[0], {**GND[1], "junk": [-1]}], "query 1: junk lists an image that is none of the 5"),
        ([{**GND[0], "easy": [0.5]}, GND[1]], "query 0: easy lists an image that is none"),
        ([{**GND[0], "easy": ["a"]}, GND[1]], "query 0: easy is no list of numbers"),
        ([{**GND[0], "bbx": [9, 0, 3, 4]}, GND[1]], "query 0: bbx is no box"),
        ([{**GND[0], "bbx": None}, GND[1]], "query 0: bbx is no box"),
        ("nothing", "holds no list of queries 'gnd'"),
    ],
)
def test_another_ground_truth_is_one_line(tmp_path: pathlib.Path, capsys, gnd, words):
    write_revisited(tmp_path, gnd)
    with pytest.raises(UserError, match=words) as caught:
        read_revisited(tmp_path, "roxford5k")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_names_outside_of_the_download_and_missing_files_are_one_line(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match=r"neither gnd_rparis6k\.pkl nor gnd_rparis6k\.mat"):
        read_revisited(tmp_path, "rparis6k")
    path = write_revisited(tmp_path)
    path.write_bytes(pickle.dumps({"imlist": ["../secret"], "qimlist": QUERIES, "gnd": GND}))
    with pytest.raises(UserError, match=r"'\.\./secret' is no relative path inside"):
        read_revisited(tmp_path, "roxford5k")
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="holds a list; is it the published file"):
        read_revisited(tmp_path, "roxford5k")
    write_revisited(tmp_path)
    (tmp_path / "jpg" / "paris" / "keble_5.jpg").unlink()
    gallery, _ = read_revisited(tmp_path, "roxford5k")
    with pytest.raises(UserError, match=r"jpg/keble_5\.jpg' does not exist"):
        gallery.read(4)
