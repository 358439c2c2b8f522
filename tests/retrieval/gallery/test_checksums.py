"""A file that is whole but belongs elsewhere: another place, another gallery, another commit."""

import pathlib
import shutil

import numpy as np
import pytest

from tests.retrieval.cases import doors, random_descriptors, tree
from vitjax.retrieval import Gallery, GalleryError, RerankConfig, rerank
from vitjax.retrieval.gallery import arrays, checksums

ARRAYS = ("pooled", "tokens", "scale", "weights", "valid", "places", "owner", "id_ends", "id_text")


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2**13)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2**9)
    real = arrays.layout

    def layout(*args):
        found = real(*args)
        return found | {"id_text": arrays.ArrayLayout("uint8", (), 256, 64)} if "id_text" in found else found

    monkeypatch.setattr(arrays, "layout", layout)


def described(seed: int, n: int = 75):
    """Descriptors that have every array; 32 rows in a file."""
    rng = np.random.default_rng(seed)
    found = random_descriptors(n, tokens=9, seed=seed)
    found.valid[:] = rng.random(found.valid.shape) < 0.6
    return found.replace(
        positions=rng.integers(0, 99, (n, 9)).astype(np.int32),
        owner=rng.integers(0, 9, (n, 25)).astype(np.int32),
    )


def names(seed: int, n: int = 75) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{seed}/{i}" + "x" * rng.integers(0, 9) for i in range(n)]


def built(path: pathlib.Path, seed: int) -> dict[str, bytes]:
    """Makes a gallery in two commits; returns the files as they were after the first."""
    with Gallery.create(path, dtype="int8") as gallery:
        gallery.add(described(seed).take(slice(0, 70)), names(seed)[:70])
        before = tree(path)
        gallery.add(described(seed).take(slice(70, 75)), names(seed)[70:])
    before.pop("writer.lock")
    return before


@pytest.fixture
def galleries(tmp_path):
    """A gallery, its files, those of its first commit, and those of another gallery of equal shape."""
    before = built(tmp_path / "mine", 1)
    built(tmp_path / "other", 2)
    return tmp_path / "mine", tree(tmp_path / "mine"), before, tree(tmp_path / "other")


def assert_named_or_not_read(path: pathlib.Path, file: str, want: dict) -> int:
    """Every door says which file it is, or gives what it gave before; returns how many say it."""
    named = 0
    for door, got in doors(path).items():
        if isinstance(got, str):
            assert file in got and "of the same commit" in got, f"{door}: {got}"
            named += 1
        else:
            np.testing.assert_equal(got, want[door], err_msg=f"{file}, {door}")
    return named


def test_every_foreign_outdated_or_exchanged_file_is_named(galleries):
    path, whole, before, other = galleries
    want = doors(path)
    assert not any(isinstance(x, str) for x in want.values()), want
    shapes = {name: sorted(x for x in whole if x.startswith(f"{name}/c/")) for name in ARRAYS}
    assert all(len(files) >= 3 for files in shapes.values()), "several files of each array"
    cases = 0
    for files in shapes.values():
        last = [x for x in files if x in before and before[x] != whole[x]][-1]
        wrong = {
            "foreign": (files[1], other[files[1]]),
            "outdated": (last, before[last]),
            "exchanged": (files[0], whole[files[1]]),
            "exchanged, the other": (files[1], whole[files[0]]),
        }
        for kind, (file, data) in wrong.items():
            assert data != whole[file], f"{file}, {kind}"
            (path / file).write_bytes(data)
            assert assert_named_or_not_read(path, file, want) >= 1, f"{file}, {kind}: not a word"
            (path / file).write_bytes(whole[file])
            cases += 1
    assert cases == 4 * len(ARRAYS)
    (path / "scale/c/0/0").write_bytes(whole["weights/c/0/0"])  # an array that is laid out alike
    assert assert_named_or_not_read(path, "scale/c/0/0", want) == 2
    (path / "scale/c/0/0").write_bytes(whole["scale/c/0/0"])
    np.testing.assert_equal(doors(path), want)


def test_checksums_of_another_gallery_or_commit_are_named(galleries):
    path, whole, _, other = galleries
    want = doors(path)
    files = [name for name in whole if name.startswith(f"{checksums.FOLDER}/")]
    assert "sums/rows-1" in files and "sums/text-1" in files
    for file in files:
        for data in (other[file], whole["sums/rows-0" if file != "sums/rows-0" else "sums/rows-1"]):
            (path / file).write_bytes(data)
            assert assert_named_or_not_read(path, file, want)
            (path / file).write_bytes(whole[file])


@pytest.mark.parametrize("name", ["manifest.json", "committed.json"])
def test_a_manifest_of_another_gallery_or_of_an_earlier_commit_is_told(galleries, name):
    path, whole, before, other = galleries
    want = doors(path)
    for data in (other[name], before[name]):
        (path / name).write_bytes(data)
        if name == "committed.json" and data == before[name]:  # as after a kill between the two
            np.testing.assert_equal(doors(path), want)
        else:
            with pytest.raises(GalleryError, match=r"manifest\.json is not the one of the last commit"):
                Gallery.open(path)
    (path / name).write_bytes(whole[name])
    np.testing.assert_equal(doors(path), want)


def test_a_manifest_of_another_gallery_with_all_that_says_which_is_the_last_reads_nothing(galleries):
    path, _, _, other = galleries
    for name in ("manifest.json", "committed.json"):
        (path / name).write_bytes(other[name])
    found = doors(path)
    assert all(isinstance(x, str) for x in found.values()), found


def test_rows_beside_a_foreign_piece_are_read_and_the_piece_is_named_by_rerank(galleries):
    path, _, _, other = galleries
    files = [f"tokens/c/{i}/0/0" for i in range(3)]
    (path / files[2]).write_bytes(other[files[2]])
    gallery, queries = Gallery.open(path), described(1).take(slice(0, 2))
    config = RerankConfig(method="chamfer")
    assert np.isfinite(rerank(queries, gallery, np.array([[0, 33], [5, 2]]), config=config).score).all()
    with pytest.raises(GalleryError, match=f"{files[2]} is not the file that"):
        rerank(queries, gallery, np.array([[0, 33], [64, 2]]), config=config)


def test_each_chunk_is_compared_once_and_again_once_it_has_grown(tmp_path, monkeypatch):
    compared, real = [], checksums.Reader._compare

    def noted(self, name, chunk, rows):
        compared.append((name, chunk))
        real(self, name, chunk, rows)

    monkeypatch.setattr(checksums.Reader, "_compare", noted)
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(60))
    queries = random_descriptors(2, seed=5)
    gallery.search(queries, 3)
    assert compared and len(compared) == len(set(compared))
    chunks = len(compared)
    gallery.search(queries, 3)
    gallery.read_pooled(np.array([3, 50, 3]))()
    assert len(compared) == chunks, "nothing is compared twice"
    gallery.add(random_descriptors(1, seed=3))
    gallery.search(queries, 3)
    assert len(compared) == chunks + 2, "the last chunks of pooled and valid have grown"


def test_a_gallery_copied_whole_opens_anywhere(galleries, tmp_path):
    path, *_ = galleries
    shutil.copytree(path, tmp_path / "copy")
    np.testing.assert_equal(doors(tmp_path / "copy"), doors(path))


def test_what_a_gallery_holds_has_one_hash_however_it_was_built(tmp_path):
    found = random_descriptors(40)
    one, two, other = (Gallery.create(tmp_path / name) for name in ("one", "two", "other"))
    one.add(found)
    for start in range(0, 40, 11):
        two.add(found.take(slice(start, start + 11)))
    other.add(random_descriptors(40, seed=1))
    assert one.content == two.content == Gallery.open(tmp_path / "one").content != other.content
