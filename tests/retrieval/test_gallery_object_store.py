"""A gallery in an object store: moto answers as S3 does, on this machine."""

import os
import socket
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from tests.retrieval.cases import (
    assert_same,
    build,
    damaged,
    doors,
    everything,
    filled_gallery,
    random_descriptors,
    tree,
)
from vitjax.retrieval import Gallery, GalleryError
from vitjax.retrieval.gallery import arrays, storage, writer_lock


def objects(folder: str) -> Any:
    """What lies there, by name."""
    return storage.locate(f"s3://shelf/{folder}").keys()


def tree_of(folder: str) -> dict[str, bytes]:
    names = storage.locate(f"s3://shelf/{folder}").listing()
    return {name: bytes(objects(folder)[name]) for name in names}


class Lost:
    """Stores what it is asked to, and loses the answer: of one request, or of all for an object."""

    def __init__(self) -> None:
        self.reset = False  # the connection ends without an answer; else the answer is 500
        self.which: Callable[[str], bool] = lambda request: False
        self.seen: list[str] = []

    def around(self, app: Any) -> Any:
        def answer(environ: dict, start_response: Any) -> Any:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if method not in ("PUT", "DELETE"):
                return app(environ, start_response)
            request = f"{method} {path.partition('/shelf/')[2].partition('/')[2]}"
            self.seen.append(request)
            if not self.which(request):
                return app(environ, start_response)
            b"".join(app(environ, lambda *_: None))
            if self.reset:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]

        return answer

    def once(self, number: int) -> None:
        """Loses the answer of one request from now on, counted from 0."""
        first = len(self.seen)
        self.which = lambda _: len(self.seen) == first + number + 1

    def nothing(self) -> None:
        self.which, self.seen = lambda _: False, []


LOST = Lost()


@pytest.fixture(scope="module", autouse=True)
def store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = LOST.around(server._server.app)
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


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr(storage, "RETRIES", {"max_retries": 2, "initial_delay": "5ms", "max_delay": "5ms"})
    storage.context.cache_clear()
    yield
    LOST.nothing()
    storage.context.cache_clear()


def three_commits(path: str) -> dict[str, bytes]:
    with Gallery.create(path) as gallery:
        for start in range(0, 60, 20):
            names = [str(i) for i in range(start, start + 20)]
            gallery.add(random_descriptors(60).take(slice(start, start + 20)), names)
    return tree_of(path.rpartition("/")[2])


@pytest.mark.parametrize("reset", [True, False])
def test_an_answer_that_is_lost_ends_no_build_wherever_it_is_lost(quick_retries, reset):
    LOST.nothing()
    want, requests = three_commits(f"s3://shelf/calm{reset}"), list(LOST.seen)
    names = ("writer.lock", "manifest.json", "committed.json", "tokens/zarr.json", "tokens/c/0/0/0")
    wanted = [i for i, x in enumerate(requests) if x.removeprefix("PUT ") in names]
    assert [requests[i] for i in wanted].count("PUT manifest.json") == 4
    if not reset:  # how an answer is lost matters to the client alone: one object of each kind is enough
        wanted = [requests.index(f"PUT {name}") for name in names]
    for number in [*wanted, len(requests) - 1]:  # the last one deletes the lock
        LOST.nothing()
        LOST.reset = reset
        LOST.once(number)
        assert three_commits(f"s3://shelf/lost{reset}{number}") == want, f"{number}: {requests[number]}"
        again = len(LOST.seen) > len(requests)  # a delete only looks whether the object is gone
        assert again or requests[number] == "DELETE writer.lock", f"{number}: {requests[number]}"


def test_a_lock_whose_every_answer_is_lost_does_not_stay(quick_retries):
    LOST.which = lambda request: request == "PUT writer.lock"
    gallery = Gallery.create("s3://shelf/mute")
    LOST.nothing()
    gallery.add(random_descriptors(3))
    gallery.close()
    assert "writer.lock" not in tree_of("mute") and len(Gallery.open("s3://shelf/mute")) == 3


def test_a_lock_that_stays_behind_names_its_owner_and_its_file(quick_retries):
    gallery = Gallery.create("s3://shelf/stays")
    with pytest.raises(
        GalleryError, match=rf"process {os.getpid()}, .*is gone, delete s3://shelf/stays/writer\.lock$"
    ):
        Gallery.open("s3://shelf/stays").claim()
    gallery.close()


def test_of_two_that_take_the_lock_at_once_the_second_is_told_who_has_it(quick_retries, monkeypatch):
    Gallery.create("s3://shelf/race").close()
    here = storage.locate("s3://shelf/race").keys()
    real = writer_lock.write_if

    def late(keys, name, value, replaces):
        here.write(writer_lock.FILE, b"pike, process 7").result()
        return real(keys, name, value, replaces)

    monkeypatch.setattr(writer_lock, "write_if", late)
    with pytest.raises(GalleryError, match=r"pike, process 7; .*delete s3://shelf/race/writer\.lock"):
        Gallery.open("s3://shelf/race").claim()


def test_an_object_of_another_gallery_or_commit_is_named(monkeypatch):
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2**13)
    with filled_gallery("s3://shelf/bound", 40) as gallery:
        before = tree_of("bound")
        gallery.add(random_descriptors(5, seed=3), [f"new {i}" for i in range(5)])
    with Gallery.create("s3://shelf/foreign") as other:
        other.add(random_descriptors(45, seed=7), [f"other {i}/é.jpg" for i in range(45)])
    whole, foreign, want = tree_of("bound"), tree_of("foreign"), doors("s3://shelf/bound")
    stored, cases = objects("bound"), 0
    for name in [x for x in whole if "/c/" in x or x.startswith("sums/")]:
        for other in {files[name] for files in (before, foreign) if name in files} - {whole[name]}:
            stored[name] = other
            said = [x for x in doors("s3://shelf/bound").values() if isinstance(x, str)]
            assert said and all(name in x and "of the same commit" in x for x in said), f"{name}: {said}"
            cases += 1
        stored[name] = whole[name]
    assert cases >= 9
    np.testing.assert_equal(doors("s3://shelf/bound"), want)
