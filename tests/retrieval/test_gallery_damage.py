"""What can happen to a gallery: damage, kills, a full disk."""

import os
import random
import subprocess

import numpy as np
import pytest

from tests.retrieval.cases import (
    assert_same,
    build,
    damaged,
    everything,
    filled_gallery,
    random_descriptors,
    tree,
)
from vitjax.retrieval import Descriptors, Gallery, GalleryError
from vitjax.retrieval.gallery import arrays, manifest


@pytest.mark.parametrize("ids", [True, False])
def test_damage_of_any_file_is_reported_and_never_read_as_data(tmp_path, monkeypatch, ids):
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2**13)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2**11)
    path = tmp_path / "g"
    filled_gallery(path, 20, ids, dtype="int8" if ids else "float16")
    want, names = Gallery.open(path).take(slice(None)), Gallery.open(path).ids()
    cases = 0
    for name, data in tree(path).items():
        for kind, broken in damaged(data).items():
            file = path / name
            file.unlink()
            if broken is not None:
                file.write_bytes(broken)
            cases += 1
            said, found = everything(path)
            if found is None:
                assert name.split("/")[0] in said, f"{name}, {kind}: {said}"
                assert "build" in said or "update vitjax" in said, f"{name}, {kind}: {said}"
                assert "tensorstore_spec" not in said
            else:
                # A flip may change white space of JSON; nothing else goes unseen.
                assert name.endswith("zarr.json") and broken, f"{name}, {kind}: not reported"
                assert_same(found[0], want)
                assert found[1] == names
            file.write_bytes(data)
    assert cases >= 8 * 12
    assert_same(Gallery.open(path).take(slice(None)), want)


def test_a_row_behind_a_damaged_piece_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2**9)
    path = tmp_path / "g"
    filled_gallery(path, 20)
    file = path / "tokens" / "c" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    gallery = Gallery.open(path)
    gallery.take([19])
    with pytest.raises(
        GalleryError, match="tokens is damaged; put that file back from a copy of the same commit, or"
    ):
        gallery.take([0])


def test_a_gallery_of_zeros_is_no_missing_gallery(tmp_path):
    zeros = Descriptors.from_arrays(np.zeros((4, 8)), np.zeros((4, 3, 8)), valid=np.zeros((4, 3), bool))
    for dtype in ("float16", "int8"):
        gallery = Gallery.create(tmp_path / dtype, dtype=dtype)
        gallery.add(zeros)
        assert_same(Gallery.open(tmp_path / dtype).take(slice(None)), zeros)


class Killed(BaseException):
    pass


def cut_after(step: int, original, taken: list):
    def call(*args, **kwargs):
        taken.append(1)
        if len(taken) > step:
            raise Killed
        return original(*args, **kwargs)

    return call


def test_an_add_cut_off_at_any_step_leaves_the_old_rows_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "SHARD_BYTES", 2**13)
    found, names = random_descriptors(40), [str(i) for i in range(40)]
    with Gallery.create(tmp_path / "whole") as whole:
        whole.add(found, names)
    for step in range(100):
        path, taken = tmp_path / str(step), []
        gallery = Gallery.create(path)
        gallery.add(found.take(slice(0, 13)), names[:13])
        with monkeypatch.context() as patch:
            for module, name in ((arrays, "resized"), (arrays, "append"), (manifest, "write")):
                patch.setattr(module, name, cut_after(step, getattr(module, name), taken))
            try:
                gallery.add(found.take(slice(13, 40)), names[13:])
            except Killed:
                gallery.close()
            else:
                break
        again = Gallery.open(path)
        assert len(again) == 13 and again.ids() == names[:13]
        np.testing.assert_allclose(again.take(slice(None)).tokens, found.tokens[:13], atol=3e-4)
        again.add(found.take(slice(13, 40)), names[13:])
        again.close()
        assert tree(path) == tree(tmp_path / "whole"), f"after {step} steps"
    assert len(taken) == step > 5


def test_the_first_add_cut_off_is_begun_again(tmp_path, monkeypatch):
    gallery = Gallery.create(tmp_path / "g")
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            gallery.add(random_descriptors(9), list("abcdefghi"))
    gallery.close()
    assert len(Gallery.open(tmp_path / "g")) == 0
    again = Gallery.open(tmp_path / "g")
    again.add(random_descriptors(3, tokens=2))
    assert len(Gallery.open(tmp_path / "g").take(slice(None))) == 3


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_build_that_is_killed_again_and_again_ends_bit_for_bit_the_same(tmp_path, kills):
    with Gallery.create(tmp_path / "whole", dtype="int8") as whole:
        whole.add(random_descriptors(900), [f"image {i}" for i in range(900)])
    moments = random.Random(kills)
    for _ in range(kills):
        build(tmp_path / "parts", kill=(moments.randint(0, 45 // kills + 1), moments.random() * 0.02))
        try:
            partly = Gallery.open(tmp_path / "parts")
        except GalleryError as error:
            assert "there is no manifest.json" in str(error)  # noqa: PT017
            continue
        assert len(partly) % 20 == 0
        assert partly.ids() == [f"image {i}" for i in range(len(partly))]
        if len(partly):
            assert partly.take(slice(None)).valid.all()
    build(tmp_path / "parts")
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_clear_line_and_the_old_rows_open(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        gallery = Gallery.create(disk / "g")
        gallery.add(random_descriptors(100))
        with pytest.raises(GalleryError, match="no space left; free some and add again, the rows added"):
            gallery.add(random_descriptors(5000))
        assert len(gallery) == 100
        again = Gallery.open(disk / "g")
        np.testing.assert_array_equal(again.take(slice(None)).pooled, random_descriptors(100).pooled)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)  # some is freed
        gallery.add(random_descriptors(10))
        gallery.close()
        assert len(Gallery.open(disk / "g").take(slice(None))) == 110
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
