import json
import os

import jax
import numpy as np
import pytest

from tests.retrieval.cases import assert_same, filled_gallery, random_descriptors, tree
from vitjax.retrieval import Descriptors, Gallery, GalleryError
from vitjax.retrieval.gallery import arrays, manifest


@pytest.mark.parametrize("path", ["folder", "memory://round/trip"])
@pytest.mark.parametrize(("dtype", "error"), [("float16", 3e-4), ("int8", 5e-3)])
def test_what_was_added_is_read_back(tmp_path, path, dtype, error):
    path = path + dtype if ":" in path else tmp_path / path
    found = random_descriptors(40)
    found.valid[3, 5:] = False
    found = Descriptors.from_arrays(found.pooled, found.tokens, found.weights, found.valid)
    gallery = Gallery.create(path, dtype=dtype)
    gallery.add(found.take(slice(0, 11)))
    gallery.add(jax.device_put(found.take(slice(11, 40))))
    again = Gallery.open(path)
    assert len(again) == 40 and again.sizes == found.sizes and again.dtype == dtype
    whole = again.take(slice(None))
    for name in ("pooled", "weights", "valid"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(found, name))
    np.testing.assert_allclose(whole.tokens, found.tokens, rtol=0, atol=error)
    lengths = np.linalg.norm(whole.tokens, axis=2)[found.valid]
    np.testing.assert_allclose(lengths, 1, atol=1e-6 if dtype == "int8" else 5e-4)
    assert all(x.dtype == np.float32 for x in (whole.pooled, whole.tokens, whole.weights))
    some = np.array([39, 0, 3, 3, 12])
    assert_same(again.take(some), whole.take(some))
    assert_same(again.take(slice(30, 2, -7)), whole.take(np.arange(30, 2, -7)))
    assert again.ids(some) == some.tolist()


@pytest.mark.parametrize(
    ("name", "cells", "told"), [("positions", 9, "on which patches"), ("owner", 25, "stands for")]
)
def test_where_tokens_lie_and_what_they_stand_for_is_kept_where_it_is_known(tmp_path, name, cells, told):
    found = random_descriptors(20)
    known = np.random.default_rng(0).integers(-1, 9, (20, cells)).astype(np.int32)
    placed = found.replace(**{name: known})
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(placed.take(slice(0, 7)))
    gallery.add(placed.take(slice(7, 20)))
    np.testing.assert_array_equal(getattr(Gallery.open(tmp_path / "g").take([3, 19]), name), known[[3, 19]])
    with pytest.raises(ValueError, match=told):
        gallery.add(found)
    assert getattr(filled_gallery(tmp_path / "plain").take([0]), name) is None


def test_matching_does_not_read_what_only_images_need(tmp_path):
    found = random_descriptors(4)
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(found.replace(owner=np.zeros((4, 25), np.int32)))
    assert gallery.read([0, 2])().owner is None


def test_pooled_vectors_may_be_halved(tmp_path):
    gallery = filled_gallery(tmp_path / "g", pooled_dtype="float16")
    assert gallery.read_pooled(slice(None))()[0].dtype == np.float16
    np.testing.assert_allclose(gallery.take([4]).pooled, random_descriptors(30).pooled[[4]], atol=3e-4)


def test_adding_in_pieces_gives_the_same_files_as_adding_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2**13)  # several files of each array
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2**11)
    found, names = random_descriptors(50), ["" if i == 5 else str(i) * (i % 5 + 1) for i in range(50)]
    whole, parts = Gallery.create(tmp_path / "whole"), Gallery.create(tmp_path / "parts")
    whole.add(found, names)
    for start in range(0, 50, 7):
        parts.add(found.take(slice(start, start + 7)), names[start : start + 7])
        parts.close()
        parts = Gallery.open(tmp_path / "parts")
    whole.close()
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")
    assert len(tree(tmp_path / "whole")) > 25
    assert parts.ids() == names and parts.ids(slice(10, 20)) == names[10:20]


ODD = ["", "a\nb", "a\0b", "../../etc/passwd", "\udcff.jpg", "ß" * 5000, "🐈", " ", '"', "a", "A"]


@pytest.mark.parametrize(
    ("ids", "want"),
    [
        (ODD, ODD),
        (np.array([3, -1, 2**63 - 1, -(2**63)]), [3, -1, 2**63 - 1, -(2**63)]),
        (np.array(["x", "yy"]), ["x", "yy"]),
        (["", "a"], ["", "a"]),
        (None, [0, 1, 2]),
    ],
)
def test_ids_come_back(tmp_path, ids, want):
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(len(want)), ids)
    assert gallery.ids() == want
    assert gallery.ids(np.array([1, -1, 0])) == [want[1], None, want[0]]
    assert gallery.ids(slice(1, 2)) == want[1:2] and gallery.ids([]) == []


def test_ids_of_what_was_found_are_a_list_for_each_query(tmp_path):
    gallery = filled_gallery(tmp_path / "g", 5)
    rows = gallery.search(random_descriptors(2, seed=1), 7)[1]
    assert gallery.ids(rows) == [gallery.ids(row) for row in rows]
    assert gallery.ids(rows)[0][5:] == [None, None]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ("ab", "ids is one text, 'ab'"),
        (["a"], "1 ids for 2 images"),
        (["a", 1], "an id is 'a', a str; give texts only, or integers only"),
        ([True, 1], "an id is True, a bool"),
        ([1.5, 2.5], "an id is 1.5"),
        ([1, 2**63], "does not fit into 64 bits"),
        (["a", "a"], "id 'a' is given for several images"),
        (["new", "shelf 3/é.jpg"], r"id 'shelf 3/é\.jpg' is in it already"),
        (np.array([1, 2]), "its ids are texts, those added whole numbers"),
        (None, "its ids are texts, those added row numbers"),
    ],
)
def test_ids_that_cannot_be_are_refused(tmp_path, ids, text):
    gallery = filled_gallery(tmp_path / "g")
    with pytest.raises(ValueError, match=text):
        gallery.add(random_descriptors(2), ids)
    assert len(Gallery.open(tmp_path / "g")) == 30


def test_the_one_image_without_a_name_has_one(tmp_path):
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(1), [""])  # of nothing but empty texts nothing is stored
    assert gallery.ids() == [""] and gallery.ids([0, -1]) == ["", None]
    with pytest.raises(ValueError, match="id '' is in it already"):
        gallery.add(random_descriptors(1), [""])


@pytest.mark.parametrize("ids", [[f"image {i}" for i in range(30)], [7 * i - 90 for i in range(30)]])
def test_an_id_comes_once_in_all_calls_and_after_opening_again(tmp_path, monkeypatch, ids):
    monkeypatch.setattr("vitjax.retrieval.gallery.gallery._IDS_AT_ONCE", 4)
    found, path = random_descriptors(30), tmp_path / "g"
    gallery = Gallery.create(path)
    gallery.add(found.take(slice(0, 10)), ids[:10])
    gallery.add(found.take(slice(10, 20)), ids[10:20])
    for again in (gallery, Gallery.open(path)):
        before = tree(path)
        with pytest.raises(ValueError, match=r"id .* is in it already") as one:
            again.add(found.take(slice(20, 22)), [ids[20], ids[3]])
        said = str(one.value).replace(str(path), "")  # its name may hold a number too
        assert repr(ids[3]) in said and repr(ids[20]) not in said
        with pytest.raises(ValueError, match=r"10 ids \(.*, \.\.\.\) are in it already") as several:
            again.add(found.take(slice(10, 24)), ids[10:24])
        assert all(repr(x) in str(several.value) for x in ids[10:13])
        assert tree(path) == before
    gallery.close()
    again = Gallery.open(path)
    again.add(found.take(slice(20, 30)), ids[20:])
    with pytest.raises(ValueError, match="in it already"):
        again.add(found.take(slice(0, 1)), ids[29:])
    assert again.ids() == ids
    again.close()


def test_texts_of_one_hash_are_not_taken_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vitjax.retrieval.gallery.image_ids._keys", lambda ids: np.array([len(x) for x in ids], np.int64)
    )
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(2), ["ab", "cd"])
    gallery.add(random_descriptors(2), ["ef", "ghi"])
    with pytest.raises(ValueError, match="id 'cd' is in it already"):
        gallery.add(random_descriptors(2), ["xy", "cd"])
    assert gallery.ids() == ["ab", "cd", "ef", "ghi"]


def test_ids_are_read_once_and_only_where_some_are_added(tmp_path, monkeypatch):
    found, path = random_descriptors(12), tmp_path / "g"
    filled_gallery(path).close()
    gallery, calls, real = Gallery.open(path), [], Gallery.ids
    monkeypatch.setattr(Gallery, "ids", lambda self, rows=None: calls.append(rows) or real(self, rows))
    gallery.search(found, 3)
    gallery.add(found.take(slice(0, 0)), reached=40)
    assert calls == []
    for start in range(0, 12, 4):
        gallery.add(found.take(slice(start, start + 4)), [f"new {i}" for i in range(start, start + 4)])
    assert calls == [slice(0, 2**16)]
    gallery.close()


def test_an_empty_gallery_opens_and_says_that_it_is_empty(tmp_path):
    Gallery.create(tmp_path / "g", recipe={"model": "vit"}).close()
    gallery = Gallery.open(tmp_path / "g", recipe={"model": "vit"})
    assert len(gallery) == 0 and gallery.ids() == [] and gallery.sizes == (0, 0, 0, 0)
    with pytest.raises(GalleryError, match="is empty; add images first"):
        gallery.take([0])
    gallery.add(random_descriptors(3).take(slice(0, 0)), reached=5)
    gallery.add(random_descriptors(3), ["a", "b", "c"])
    gallery.close()
    assert len(Gallery.open(tmp_path / "g")) == 3


def test_how_far_a_build_has_come_is_kept_with_the_rows(tmp_path):
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(4), reached=6)
    assert Gallery.open(tmp_path / "g").reached == 6
    gallery.add(random_descriptors(4).take(slice(0, 0)), reached=9)
    assert Gallery.open(tmp_path / "g").reached == 9 and len(Gallery.open(tmp_path / "g")) == 4


def changed(name: str, value) -> Descriptors:
    found = random_descriptors(5, tokens=4)
    getattr(found, name)[2] = value
    return found


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (changed("tokens", np.nan), "values that are not finite in 1 of 5 rows: 2"),
        (changed("pooled", np.inf), "values that are not finite in 1 of 5 rows: 2"),
        (changed("weights", np.nan), "weights that are not finite in 1 of 5 rows: 2"),
        (changed("weights", -1), "weights below zero in 1 of 5 rows: 2"),
        (changed("tokens", 3), r"not of length 1 \(see Descriptors.from_arrays\) in 1 of 5 rows: 2"),
        (random_descriptors(5, tokens=6), r"\(16, 4, 16\) there and \(16, 6, 16\) here"),
    ],
)
def test_descriptors_that_break_their_promises_are_refused(tmp_path, found, text):
    gallery = Gallery.create(tmp_path / "g")
    gallery.add(random_descriptors(2, tokens=4))
    with pytest.raises(ValueError, match=text):
        gallery.add(found)
    assert len(Gallery.open(tmp_path / "g")) == 2


def test_a_token_that_only_pads_may_hold_anything(tmp_path):
    found = random_descriptors(3)
    found.valid[1, 4] = False
    found.tokens[1, 4] = np.nan
    gallery = Gallery.create(tmp_path / "g", dtype="int8")
    gallery.add(found)
    assert not gallery.take([1]).tokens[0, 4].any()


@pytest.mark.parametrize("rows", [[30], [-1], [0.5], [[1]], [True]])
def test_rows_that_do_not_exist_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=r"30 rows|give integers"):
        filled_gallery(tmp_path / "g").take(rows)


def test_another_recipe_is_named_key_by_key(tmp_path):
    recipe = {"weights": "abc", "model": {"name": "vit", "block": 7}, "size": (2, 3)}
    filled_gallery(tmp_path / "g", recipe=recipe)
    Gallery.open(tmp_path / "g", recipe=recipe)
    text = r"made by another recipe: model\.block is 7 there, 5 here; weights is 'abc' there, 'nothing' here"
    with pytest.raises(GalleryError, match=text):
        Gallery.open(tmp_path / "g", recipe={"model": {"name": "vit", "block": 5}, "size": [2, 3]})
    with pytest.raises(ValueError, match=r"recipe: .*give text, finite numbers"):
        Gallery.create(tmp_path / "h", recipe={"x": np.zeros(3)})


@pytest.mark.parametrize("path", ["folder", "memory://two/writers"])
def test_a_second_writer_is_refused(tmp_path, path):
    path = path if ":" in path else tmp_path / path
    one = Gallery.create(path)
    two = Gallery.open(path)
    with pytest.raises(GalleryError, match=f"has a writer already: .*process {os.getpid()}"):
        two.add(random_descriptors(2))
    one.add(random_descriptors(3))
    with pytest.raises(GalleryError, match="has a writer already"):
        two.add(random_descriptors(2))
    one.close()
    with pytest.raises(GalleryError, match="it has 3 rows by now, 0 when it was opened; open it again"):
        two.add(random_descriptors(2))
    three = Gallery.open(path)
    three.add(random_descriptors(2))
    del three  # gives the lock back as well
    Gallery.open(path).claim()
    assert len(Gallery.open(path)) == 5


def test_a_reader_keeps_its_rows_while_the_gallery_grows(tmp_path):
    path, found = tmp_path / "g", random_descriptors(60)
    writer = Gallery.create(path)
    writer.add(found.take(slice(0, 5)))
    reader = Gallery.open(path)
    before = reader.take([0])
    for start in range(5, 60, 5):
        writer.add(found.take(slice(start, start + 5)))
        assert len(reader) == 5
        assert_same(reader.take([0]), before)
        np.testing.assert_array_equal(reader.take([4]).pooled, found.pooled[4:5])
    assert len(Gallery.open(path)) == 60


@pytest.mark.parametrize("name", ["a b#?%20 ü\n'\"", "🐈", "-rf", "..hidden", "*"])
def test_any_folder_name_will_do(tmp_path, name):
    filled_gallery(tmp_path / name, 3)
    assert sorted(os.listdir(tmp_path)) == [name]
    assert len(Gallery.open(str(tmp_path / name)).take(slice(None))) == 3


@pytest.mark.parametrize(
    "path", ["", "a\0b", "x\udcff", "http://a/b", "gs://", "gs://bucket", "s3:///x", "memory://"]
)
def test_a_path_that_can_hold_no_gallery_is_refused(path):
    for make in (Gallery.open, Gallery.create):
        with pytest.raises(GalleryError, match=r"give a folder|expected a folder, gs://"):
            make(path)


def test_nothing_is_put_where_something_lies(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("photos", "file"):
        with pytest.raises(GalleryError, match="lies there; choose a new or empty folder"):
            Gallery.create(tmp_path / name)
    filled_gallery(tmp_path / "g")
    with pytest.raises(GalleryError, match="there is one already"):
        Gallery.create(tmp_path / "g")
    with pytest.raises(GalleryError, match=r"there is no manifest\.json; check the path"):
        Gallery.open(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["cat.jpg"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("_FORMAT", 3, r"format 3 is unknown here \(2 is known\); update vitjax"),
        ("_FORMAT", 1, "of format 1, whose files are not bound .*; delete it and build it again"),
    ],
)
def test_a_manifest_of_another_format_says_what_to_do(tmp_path, monkeypatch, name, value, told):
    monkeypatch.setattr(manifest, name, value)
    filled_gallery(tmp_path / "g", 3)
    monkeypatch.undo()
    with pytest.raises(GalleryError, match=told):
        Gallery.open(tmp_path / "g")


def rewritten(path, **changes) -> None:
    """Writes the manifest's body as a later version of this package would."""
    body = json.loads(path.read_bytes())["gallery"] | changes
    path.write_bytes(manifest._text(body, manifest._FORMAT, manifest._digest(body)))


def test_what_a_later_version_adds_is_left_out_unless_a_reader_needs_it(tmp_path):
    filled_gallery(tmp_path / "g", 3)
    last = tmp_path / "g" / manifest.COMMITTED
    rewritten(last, rows=2)
    rewritten(tmp_path / "g" / manifest.FILE, made_at="noon")
    assert len(Gallery.open(tmp_path / "g").take(slice(None))) == 3
    rewritten(tmp_path / "g" / manifest.FILE, needs=["removed"])
    with pytest.raises(GalleryError, match=r"it needs \['removed'\], unknown here; update vitjax"):
        Gallery.open(tmp_path / "g")
