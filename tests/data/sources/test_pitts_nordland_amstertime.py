"""Miniatures of three place sets, as downloaded and with positions in file names."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.photos import image
from vitjax.data.sources.pitts_nordland_amstertime import read_amstertime, read_nordland, read_pittsburgh
from vitjax.errors import UserError
from vitjax.evaluation.protocols import near

DATABASE = {
    "000/000829_pitch1_yaw1.jpg": (584825.0, 4476945.5),
    "001/001000_pitch2_yaw9.jpg": (584900.0, 4476945.5),
}
ASKED = {
    "000/000546_pitch1_yaw1.jpg": (584840.0, 4476965.5),
    "000/000547_pitch1_yaw2.jpg": (584940.0, 4476945.5),
}


def write_photos(root: pathlib.Path, files) -> None:
    for kind, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(kind, 0)).save(root / file)


def write_pittsburgh(root: pathlib.Path, **changed: object) -> None:
    """pitts30k with two photos a side: the first query is 25 m from the first photo, the other near none."""
    write_photos(root, [*DATABASE, *(f"queries_real/{file}" for file in ASKED)])
    fields = {
        "whichSet": "test",
        "dbImageFns": np.array(list(DATABASE), object)[:, None],
        "utmDb": np.array(list(DATABASE.values())).T,
        "qImageFns": np.array(list(ASKED), object)[:, None],
        "utmQ": np.array(list(ASKED.values())).T,
        "posDistThr": 25.0,
    }
    (root / "datasets").mkdir(exist_ok=True)
    savemat(root / "datasets" / "pitts30k_test.mat", {"dbStruct": fields | changed})


def found(sides, radius: float = 25.0) -> list[list[int]]:
    gallery, queries = sides
    return [rows.tolist() for rows in near(queries, gallery, radius=radius)]


def test_pittsburgh_reads_names_and_positions_of_its_struct(tmp_path: pathlib.Path):
    write_pittsburgh(tmp_path)
    gallery, queries = read_pittsburgh(tmp_path, "pitts30k")
    assert gallery.names == list(DATABASE)
    assert queries.names == [f"queries_real/{file}" for file in ASKED]
    np.testing.assert_array_equal(gallery.places, list(DATABASE.values()))
    np.testing.assert_array_equal(queries.places, list(ASKED.values()))
    assert found((gallery, queries)) == [[0], []]
    assert found((gallery, queries), 40.0) == [[0], [1]]
    assert queries.read(1).size == (48, 48)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"utmQ": np.ones((2, 3))}, "utmQ holds no position for each of 2 photos"),
        ({"utmDb": np.full((2, 2), np.nan)}, "utmDb holds no position"),
        ({"qImageFns": np.array(["/etc/a.jpg", "b.jpg"], object)}, "'/etc/a.jpg' is no relative path"),
        ({"dbImageFns": np.array(["../a.jpg", "b.jpg"], object)}, "no relative path"),
        ({"dbImageFns": np.array(["a.exe", "b.jpg"], object)}, "does not end in one of"),
    ],
)
def test_another_struct_is_one_line(tmp_path: pathlib.Path, changed, words):
    write_pittsburgh(tmp_path, **changed)
    with pytest.raises(UserError, match=words):
        read_pittsburgh(tmp_path, "pitts30k")


def test_missing_files_of_pittsburgh_are_one_line(tmp_path: pathlib.Path):
    with pytest.raises(
        UserError, match=r"neither pitts250k_test\.mat, also not in datasets/, nor images/test"
    ):
        read_pittsburgh(tmp_path, "pitts250k")
    savemat(tmp_path / "pitts250k_test.mat", {"dbStruct": {"dbImageFns": 1, "utmDb": 2}})
    with pytest.raises(UserError, match="dbStruct holds no 'qImageFns'"):
        read_pittsburgh(tmp_path, "pitts250k")


def test_frames_of_nordland_are_relevant_up_to_ten_away(tmp_path: pathlib.Path):
    names = [f"images-{202 + i + 5 * (i > 6):05d}.png" for i in range(14)]  # a tunnel is left out
    write_photos(tmp_path, [f"{season}/{name}" for season in ("summer", "winter", "fall") for name in names])
    sides = read_nordland(tmp_path)
    assert [side.names[0] for side in sides] == ["summer/images-00202.png", "winter/images-00202.png"]
    assert found(sides) == [[j for j in range(14) if abs(i - j) <= 10] for i in range(14)]
    assert found(sides, 17.0) == [[j for j in range(14) if abs(i - j) <= 7] for i in range(14)]
    assert read_nordland(tmp_path, query="fall")[1].names[3] == "fall/images-00205.png"
    (tmp_path / "winter" / names[4]).unlink()
    with pytest.raises(UserError, match="only one of summer and winter has frame 'images-00206'"):
        read_nordland(tmp_path)
    with pytest.raises(UserError, match="spring does not exist"):
        read_nordland(tmp_path, query="spring")


def test_photos_of_amstertime_are_relevant_by_name(tmp_path: pathlib.Path):
    write_photos(tmp_path, ["new/2.png", "new/10.png", "new/7.png", "old/2.jpg", "old/10.jpg", "old/7.jpg"])
    gallery, queries = read_amstertime(tmp_path)
    assert gallery.names == ["new/10.png", "new/2.png", "new/7.png"]
    assert queries.names == ["old/10.jpg", "old/2.jpg", "old/7.jpg"]
    assert found((gallery, queries)) == [[0], [1], [2]]
    (tmp_path / "old" / "7.jpg").unlink()
    with pytest.raises(UserError, match="only one of new and old has photo '7'"):
        read_amstertime(tmp_path)


READERS = [lambda root: read_pittsburgh(root, "pitts250k"), read_nordland, read_amstertime]


@pytest.mark.parametrize("read", READERS)
def test_positions_in_names_are_read_of_all_three(tmp_path: pathlib.Path, read):
    write_photos(
        tmp_path / "images" / "test",
        [
            "database/@0@0@17@T@a@.jpg", "database/@0@30@17@T@b@.jpg", "queries/@0@25.0@17@T@c@.jpg",
            "queries/@0@3000@17@T@d@.jpg",
        ],
    )  # fmt: skip
    sides = read(tmp_path)
    assert [len(side) for side in sides] == [2, 2]
    assert found(sides) == [[0, 1], []]
    assert sides[1].read(0).size == (48, 48)
    Image.fromarray(image(0, 0)).save(tmp_path / "images" / "test" / "database" / "x.jpg")
    with pytest.raises(ValueError, match="has no place in its name"):
        read(tmp_path)
