"""A gallery in an object store: moto answers as S3 does, on this machine."""

import urllib.request
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from tests.retrieval.cases import (
    assert_same,
    build,
    damaged,
    everything,
    filled_gallery,
    random_descriptors,
    tree,
)
from vitjax.retrieval import Gallery, GalleryError, arrays, storage


def objects(folder: str) -> Any:
    """What lies there, by name."""
    return storage.locate(f"s3://shelf/{folder}").keys()


def tree_of(folder: str) -> dict[str, bytes]:
    names = storage.locate(f"s3://shelf/{folder}").listing()
    return {name: bytes(objects(folder)[name]) for name in names}


@pytest.fixture(scope="module", autouse=True)
def store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        request = urllib.request.Request(f"http://{host}:{port}/shelf", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield
    server.stop()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_it_holds_the_same_files_and_rows_as_a_folder(tmp_path, dtype):
    there, here = (
        filled_gallery(f"s3://shelf/{dtype}", dtype=dtype),
        filled_gallery(tmp_path / "g", dtype=dtype),
    )
    assert tree_of(dtype) == tree(tmp_path / "g")
    again = Gallery.open(f"s3://shelf/{dtype}")
    assert_same(again.take([29, 0, 3]), here.take([29, 0, 3]))
    assert again.ids() == here.ids() and len(there) == 30
    queries = random_descriptors(3, seed=1)
    for one, two in zip(again.search(queries, 4), here.search(queries, 4), strict=True):
        assert (one == two).all()


def test_a_build_that_was_killed_leaves_its_lock_and_goes_on_without_it(tmp_path):
    build("s3://shelf/parts", kill=(3, 0.005))
    with pytest.raises(
        GalleryError, match=r"writer already: .*, process \d+, .*delete s3://shelf/parts/writer.lock"
    ):
        Gallery.open("s3://shelf/parts").claim()
    del objects("parts")["writer.lock"]
    assert len(Gallery.open("s3://shelf/parts")) % 20 == 0
    build("s3://shelf/parts")
    build(tmp_path / "whole")
    assert tree_of("parts") == tree(tmp_path / "whole")


def test_damage_of_an_object_is_reported_and_never_read_as_data(monkeypatch):
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2**13)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2**11)
    path = "s3://shelf/damage"
    filled_gallery(path, 20)
    want = everything(path)[1]
    stored, whole = objects("damage"), tree_of("damage")
    names = {name.split("/")[0]: name for name in whole}.values()  # one object of each array is enough here
    for name in names:
        for kind, broken in damaged(whole[name]).items():
            stored.write(name, broken).result()  # None deletes
            said, found = everything(path)
            assert found is None and name.split("/")[0] in said, f"{name}, {kind}: {said}"
            assert "build" in said and "tensorstore_spec" not in said, f"{name}, {kind}: {said}"
            stored[name] = whole[name]
    assert len(list(names)) >= 6
    said, found = everything(path)
    assert not said and found[1] == want[1]
    assert_same(found[0], want[0])


def test_of_two_writers_one_is_told():
    with filled_gallery("s3://shelf/two") as one:
        other = Gallery.open("s3://shelf/two")
        one.claim()
        with pytest.raises(GalleryError, match="it has a writer already"):
            other.claim()
        one.add(random_descriptors(2), ["a", "b"])
    with pytest.raises(GalleryError, match="it has 32 rows by now, 30 when it was opened; open it again"):
        other.add(random_descriptors(1), ["c"])


def test_a_place_that_is_taken_is_not_written_to():
    objects("mine")["thesis.txt"] = b"all of it"
    with pytest.raises(GalleryError, match=r"'thesis.txt' lies there; choose a new or empty folder"):
        Gallery.create("s3://shelf/mine")
    filled_gallery("s3://shelf/there")
    with pytest.raises(GalleryError, match="there is one already"):
        Gallery.create("s3://shelf/there")


@pytest.mark.parametrize(
    ("path", "variables", "told"),
    [
        ("s3://shelf/nothing", {}, "there is no manifest.json; check the path"),
        ("s3://no-such-shelf/g", {}, "there is no such bucket; make it, or check its name"),
        (
            "s3://shelf/g",
            {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"},
            "does not answer; check the endpoint",
        ),
        ("s3://shelf/g", {"AWS_SECRET_ACCESS_KEY": ""}, "no permission; check the store's credentials"),
    ],
)
def test_what_is_wrong_with_the_store_is_said(monkeypatch, path, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if variables.get("AWS_SECRET_ACCESS_KEY") == "":
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(storage, "RETRIES", storage.RETRIES | {"max_retries": 1})
    storage.context.cache_clear()
    try:
        with pytest.raises(GalleryError, match=told):
            (Gallery.open if "nothing" in path else Gallery.create)(path)
    finally:
        storage.context.cache_clear()
