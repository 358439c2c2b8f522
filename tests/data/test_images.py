import io
import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data import corpus, fuzz
from vitjax.data import ImageError, ListSource, fingerprint, list_images, read_image
from vitjax.data.images import image_size

ROOT = pathlib.Path(__file__).parents[2]


def run_corpus(*arguments: str, program: str = corpus.__file__) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", program, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to measure memory")
def test_two_thousand_damaged_files_are_read_or_refused_in_bounds():
    report = run_corpus()
    assert report["wrong"] == []
    assert report["files"] == corpus.COUNT
    # Neither everything nor nothing: a reader that refuses all would pass the rest.
    assert 300 < report["accepted"] < 1000
    assert report["slowest"] < 2
    assert report["peak_mib"] < 512


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to measure memory")
def test_files_changed_in_their_structure_are_read_or_refused_in_bounds():
    report = run_corpus("5", program=fuzz.__file__)
    assert report["wrong"] == []
    assert report["accepted"] > 20
    assert report["refused"] > 20
    assert report["slowest"] < 2, report["worst"]
    assert report["peak_mib"] < 512, report["worst"]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
@pytest.mark.parametrize("name", ["jpeg", "cmyk", "palette", "grey-16", "webp"])
def test_the_largest_images_allowed_stay_within_512_mib(tmp_path, name):
    (tmp_path / name).write_bytes(corpus.large(name))
    report = run_corpus(str(tmp_path))
    # "wrong" also holds reads above 2 s; seconds depend on the machine, so here only the rest counts.
    assert [line for line in report["wrong"] if not line.endswith(" s")] == []
    assert report["accepted"] == 1
    assert report["peak_mib"] < 512


def test_a_bomb_is_small_and_refused_by_its_header():
    data = corpus.bomb(30_000)
    assert len(data) < 200_000
    with pytest.raises(ImageError, match=r"too large.*save it smaller"):
        read_image(data)
    # Within Pillow's own limit of 89 megapixels and beyond ours: Pillow alone would decode it.
    with pytest.raises(ImageError, match="8000 x 8000 pixels, above the limit"):
        read_image(corpus.bomb(8000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_once(kind):
    upright = np.asarray(read_image(corpus.rotated(kind, 1))).astype(int)
    for turn, undo in (
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, 1)),
        (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x, -1)),
    ):
        image = read_image(corpus.rotated(kind, turn))
        np.testing.assert_array_equal(undo(np.asarray(image)), upright, err_msg=f"orientation {turn}")
        np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(image))


def test_sixteen_bit_grey_keeps_its_high_byte():
    samples = np.array([[0, 255, 256, 32_768, 65_535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG")
    pixels = np.asarray(read_image(file.getvalue()))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 1, 128, 255])
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_transparency_is_dropped_not_blended():
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    assert read_image(corpus.encoded(image, "PNG")).getpixel((0, 0)) == (200, 100, 50)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    data = corpus.encoded(palette, "PNG", transparency=b"\0\xff")
    assert read_image(data).getpixel((0, 0)) == (10, 20, 30)


def test_cmyk_jpeg_becomes_rgb_with_the_colours_it_had():
    image = Image.new("RGB", (16, 16), (180, 60, 20))
    pixel = read_image(corpus.encoded(image.convert("CMYK"), "JPEG", quality=95)).getpixel((8, 8))
    np.testing.assert_allclose(pixel, (180, 60, 20), atol=3)


def test_first_frame_of_an_animation():
    files = corpus.whole()
    still = np.asarray(corpus.photo(200, 150))
    np.testing.assert_array_equal(np.asarray(read_image(files["png-animated"])), still)
    np.testing.assert_allclose(np.asarray(read_image(files["webp-animated"])).astype(int), still, atol=60)


def test_large_jpeg_is_halved_and_looks_the_same():
    image = corpus.photo(5120, 5120)
    halved = read_image(corpus.encoded(image, "JPEG", quality=95))
    assert halved.size == (2560, 2560)
    small = [np.asarray(x.resize((64, 64), Image.Resampling.BICUBIC)).astype(int) for x in (image, halved)]
    assert np.abs(small[0] - small[1]).max() <= 3


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: p / "missing.jpg", "does not exist"),
        (lambda p: p, "is a folder"),
        (lambda p: p / ("x" * 300), "cannot be opened"),
        (lambda p: str(p / "zero\0byte.jpg"), "cannot be opened"),
        (lambda p: np.zeros((4, 4, 3), np.float32), "array of float32"),
        (lambda p: np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (lambda p: np.zeros((4, 4, 2), np.uint8), "uint8"),
        (lambda p: Image.new("F", (4, 4)), "no fixed range"),
        (lambda p: b"GIF89a", "not a JPEG, PNG or WebP"),
        (lambda p: b"", "empty"),
    ],
)
def test_every_failure_is_one_plain_line(tmp_path, make, text):
    with pytest.raises(ImageError, match=text) as caught:
        read_image(make(tmp_path))
    assert str(caught.value).isprintable() and str(caught.value).endswith(".")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="no ordinary file"):
        read_image(tmp_path / "pipe.jpg")


def test_an_unreadable_file_names_its_permissions(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(corpus.encoded(corpus.photo(8, 8), "PNG"))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, who may read everything.
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"a\.png' may not be read; check its permissions"):
        read_image(tmp_path / "a.png")


def test_the_callers_image_is_neither_changed_nor_shared():
    image = corpus.photo(8, 8)
    read = read_image(image)
    read.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == corpus.photo(8, 8).getpixel((0, 0))


def opened(kind: str, **options) -> tuple[Image.Image, bytes]:
    data = corpus.encoded(corpus.photo(64, 48), kind, **options)
    return Image.open(io.BytesIO(data)), data


def state(image: Image.Image) -> tuple:
    return (
        image.size,
        image.mode,
        image.format,
        image.tell(),
        dict(image.info),
        bool(image.tile),
        image.fp.tell(),
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"exif": {0x0112: 6}}),
        ("PNG", {"exif": {0x0112: 8}}),
        ("PNG", {"save_all": True, "append_images": [corpus.photo(64, 48, 1)]}),
        ("WEBP", {"exif": {0x0112: 3}}),
        ("WEBP", {"save_all": True, "append_images": [corpus.photo(64, 48, 1)]}),
        ("MPO", {"save_all": True, "append_images": [corpus.photo(64, 48, 1)]}),
        ("TIFF", {"save_all": True, "append_images": [corpus.photo(64, 48, 1)]}),
        ("GIF", {"save_all": True, "append_images": [corpus.photo(64, 48, 1)]}),
        ("BMP", {}),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_an_opened_image_of_the_callers_is_read_and_left_as_it_was(kind, options):
    if "exif" in options:
        exif = Image.Exif()
        exif.update(options["exif"])
        options = {"exif": exif.tobytes()}
    image, data = opened(kind, **options)
    before = state(image)
    read = read_image(image)
    fingerprint(ListSource([image]))
    assert state(image) == before
    expected = Image.open(io.BytesIO(data))
    expected.load()
    np.testing.assert_array_equal(
        np.asarray(read), np.asarray(ImageOps.exif_transpose(expected).convert("RGB"))
    )
    assert image_size(image) == read.size
    if kind in ("MPO", "TIFF", "GIF", "PNG", "WEBP") and "save_all" in options:
        image.seek(1)
        read = np.asarray(read_image(image))
        assert image.tell() == 1
        np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_a_large_jpeg_of_the_callers_keeps_its_size_and_what_the_caller_drafted(tmp_path):
    path = tmp_path / "large.jpg"
    corpus.photo(6200, 4200).save(path, quality=50)
    with Image.open(path) as image:
        assert read_image(image).size == (3100, 2100)
        assert image.size == (6200, 4200)
        image.draft("L", (775, 525))
        small = read_image(image)
        assert small.size == image.size == (775, 525)
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(small), np.asarray(image.convert("RGB")))


def test_two_threads_may_read_one_opened_image():
    image, data = opened("JPEG")
    with ThreadPoolExecutor(4) as pool:
        found = [np.asarray(x) for x in pool.map(read_image, [image] * 40)]
    for pixels in found:
        np.testing.assert_array_equal(pixels, np.asarray(read_image(data)))


def test_edits_of_the_caller_are_seen():
    image, _ = opened("PNG")
    image.putpixel((3, 4), (1, 2, 3))
    assert read_image(image).getpixel((3, 4)) == (1, 2, 3)


def test_a_closed_image_is_refused_in_one_line(tmp_path):
    corpus.photo(8, 8).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(image)
    with open(tmp_path / "a.png", "rb") as file:
        image = Image.open(file)
    with pytest.raises(ImageError, match="closed file"):
        read_image(image)


def test_grey_and_transparent_arrays_are_taken():
    assert read_image(np.full((2, 3), 7, np.uint8)).getpixel((0, 0)) == (7, 7, 7)
    assert read_image(np.full((2, 3, 1), 7, np.uint8)).size == (3, 2)
    assert read_image(np.full((2, 3, 4), 7, np.uint8)).mode == "RGB"


def test_list_is_in_name_order_and_only_images(tmp_path):
    for name in (
        "b.JPG",
        "a/z.webp",
        "a/notes.txt",
        "c.gif",
        ".hidden.png",
        ".git/x.png",
        "10.png",
        "9.jpeg",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert list_images(tmp_path) == ["10.png", "9.jpeg", "a/z.webp", "b.JPG"]


def test_a_loop_of_links_ends_and_lists_each_file_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list_images(tmp_path) == ["a/x.png"]


def test_a_folder_without_images_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"^no JPEG, PNG or WebP images under '.*'; give another folder\.$"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        list_images(tmp_path / "missing")


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    assert read_image(whole).size == (64, 64)
    last, scans = whole.rindex(b"\xff\xda"), whole.count(b"\xff\xda")
    many = whole[:-2] + 300 * whole[last:-2] + whole[-2:]
    with pytest.raises(ImageError, match=f"has {scans + 300} scans, above the limit of 200"):
        read_image(many)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    corpus.photo(8, 6).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_image("~/a.png").size == image_size("~/a.png") == (8, 6)
