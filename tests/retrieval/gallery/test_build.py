import jax
import numpy as np

from tests.retrieval.cases import assert_same, random_descriptors, tree
from vitjax.retrieval import Gallery
from vitjax.retrieval.gallery import build
from vitjax.retrieval.gallery.build import Described, fill


def parts(found, size, start=0):
    for first in range(start, len(found), size):
        rows = slice(first, min(first + size, len(found)))
        yield Described(found.take(rows), [str(i) for i in range(*rows.indices(len(found)))], rows.stop)


def committed(monkeypatch) -> list[tuple[int, int]]:
    """(images, reached) of each commit."""
    seen, add = [], Gallery.add

    def noted(self, descriptors, ids, *, reached):
        seen.append((len(descriptors), reached))
        add(self, descriptors, ids, reached=reached)

    monkeypatch.setattr(Gallery, "add", noted)
    return seen


def test_a_gallery_filled_in_parts_is_the_gallery_added_at_once(tmp_path):
    found = random_descriptors(50)
    with Gallery.create(tmp_path / "parts") as gallery:
        fill(gallery, parts(found.take(slice(0, 21)), 7))
    with Gallery.open(tmp_path / "parts") as gallery:
        assert gallery.reached == 21
        fill(gallery, parts(found, 7, start=21))
    with Gallery.create(tmp_path / "whole") as gallery:
        gallery.add(found, [str(i) for i in range(50)])
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_when_time_is_short_a_commit_waits_for_a_files_worth(monkeypatch):
    seen, now = committed(monkeypatch), 0.0
    noted = Gallery.add

    def slow(self, *args, **kwargs):
        nonlocal now
        now += 1.0  # nothing else takes time
        noted(self, *args, **kwargs)

    monkeypatch.setattr(Gallery, "add", slow)
    monkeypatch.setattr(build.time, "monotonic", lambda: now)
    found = random_descriptors(64)
    eight = sum(x.nbytes for x in jax.tree.leaves(found.take(slice(0, 8))))
    monkeypatch.setattr(build.arrays, "SHARD_BYTES", eight)
    fill(Gallery.create("memory://full"), parts(found, 4))
    assert seen == [(4, 4), (16, 20), (16, 36), (16, 52), (12, 64)]


def test_slow_images_are_committed_one_part_at_a_time(monkeypatch):
    seen = committed(monkeypatch)
    now = 0.0

    def clock():
        return now

    monkeypatch.setattr(build.time, "monotonic", clock)

    def slowly():
        nonlocal now
        for part in parts(random_descriptors(12), 3):
            now += 1.0
            yield part

    fill(Gallery.create("memory://slow"), slowly())
    assert seen == [(3, 3), (3, 6), (3, 9), (3, 12)]


def test_images_without_any_descriptor_still_count_as_gone_through(tmp_path):
    none = random_descriptors(3).take(slice(0, 0))
    gallery = Gallery.create(tmp_path / "g")
    fill(gallery, [Described(none, [], 8)])
    assert Gallery.open(tmp_path / "g").reached == 8
    fill(gallery, [Described(random_descriptors(2), ["a", "b"], 10), Described(none, [], 16)])
    again = Gallery.open(tmp_path / "g")
    assert again.reached == 16 and again.ids() == ["a", "b"]
    assert_same(again.take(slice(None)), gallery.take(np.arange(2)))
