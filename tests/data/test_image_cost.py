import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.data import corpus, costly
from tests.data.test_images import ROOT
from vitjax.data import ImageError, read_image
from vitjax.data.image_cost import inspect
from vitjax.data.images import image_size


def cpu_seconds(data: bytes) -> tuple[Image.Image | str, float]:
    start = time.process_time()
    try:
        found = read_image(data)
    except ImageError as error:
        found = str(error)
    return found, time.process_time() - start


@pytest.mark.parametrize("name", costly.REFUSED)
def test_costly_files_are_refused_before_they_are_decoded(name):
    found, seconds = cpu_seconds(costly.REFUSED[name]())
    assert isinstance(found, str)
    assert found.isprintable()
    assert re.search(r"; (save it|convert it|replace or remove it)\b.*\.$", found), found
    assert seconds < 0.5


@pytest.mark.parametrize("name", costly.READ)
def test_files_that_only_look_costly_are_read_within_the_bound(name):
    found, seconds = cpu_seconds(costly.READ[name]())
    assert isinstance(found, Image.Image), found
    assert seconds < 2


def test_the_costliest_files_allowed_stay_below_2_seconds_and_512_mib(tmp_path):
    (tmp_path / "refined.jpg").write_bytes(costly.refinements(8))
    (tmp_path / "empty.jpg").write_bytes(costly.empty_refinements(18))
    (tmp_path / "coefficients.jpg").write_bytes(costly.READ["large progressive"]())
    (tmp_path / "planes.jpg").write_bytes(costly.four_planes())
    (tmp_path / "interlaced.png").write_bytes(costly.interlaced_png())
    (tmp_path / "deep.png").write_bytes(costly.deep_png(3072))
    done = subprocess.run(
        [sys.executable, "-W", "error", corpus.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["accepted"] == 6
    assert report["slowest"] < 2, report["worst"]
    assert report["peak_mib"] < 512, report["worst"]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_photo_with_video_behind_it_is_read(progressive):
    photo = corpus.encoded(corpus.photo(200, 150), "JPEG", progressive=progressive)
    motion = photo + costly.trailing()
    assert motion.count(b"\xff\xda") > 400
    np.testing.assert_array_equal(np.asarray(read_image(motion)), pixels(photo))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_whatever_is_behind_an_image_does_not_matter(kind):
    data = corpus.encoded(corpus.photo(200, 150), kind)
    np.testing.assert_array_equal(np.asarray(read_image(data + costly.trailing()[: 10**6])), pixels(data))


def test_the_first_image_of_several_is_read_however_many_scans_the_others_have():
    image = corpus.photo(200, 150)
    first = corpus.encoded(image, "JPEG")
    np.testing.assert_array_equal(np.asarray(read_image(costly.multi_image(image))), pixels(first))
    others = 300 * corpus.encoded(corpus.photo(64, 48), "JPEG", progressive=True)
    np.testing.assert_array_equal(np.asarray(read_image(first + others)), pixels(first))


def test_thumbnails_inside_exif_data_are_no_scans_and_its_orientation_counts():
    image = corpus.photo(200, 150)
    data = corpus.encoded(image, "JPEG", exif=costly.thumbnail_exif(6), progressive=True)
    assert read_image(data).size == image_size(data) == (150, 200)
    np.testing.assert_array_equal(np.asarray(read_image(data)), np.rot90(pixels(data), -1))


@pytest.mark.parametrize(
    "options", [{"quality": 100, "subsampling": 0}, {"quality": 30}, {"restart_marker_blocks": 1}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_ordinary_jpegs_keep_every_pixel(options, mode, progressive):
    image = Image.effect_noise((203, 151), 80).convert("RGB").convert(mode)
    data = corpus.encoded(
        image, "JPEG", progressive=progressive, icc_profile=bytes(200_000), comment=b"x", **options
    )
    np.testing.assert_array_equal(np.asarray(read_image(data)), pixels(data))


def test_the_largest_photo_of_ten_scans_is_read():
    inspect(
        costly.start()
        + 2 * costly.scan([1, 2, 3], 0, 0, 0, 0)
        + 12 * costly.scan([1], 1, 63, 0, 0)
        + costly.END
    )


@pytest.mark.parametrize("name", corpus.whole())
def test_what_is_kept_of_a_good_file_decodes_to_the_same_pixels(name):
    data = corpus.whole()[name]
    kept = inspect(data)
    assert len(kept.data) <= len(data)
    np.testing.assert_array_equal(pixels(kept.data), pixels(data))
    assert kept.size == Image.open(io.BytesIO(data)).size


@pytest.mark.parametrize("name", corpus.whole())
def test_a_file_cut_short_is_refused_as_its_decoder_refuses_it(name):
    data = corpus.whole()[name]
    for share in (0.3, 0.6, 0.9):
        cut = data[: int(len(data) * share)]
        try:
            pixels(cut)
        except (OSError, SyntaxError, ValueError, EOFError, TypeError):
            with pytest.raises(ImageError):
                read_image(cut)


def test_a_png_is_turned_by_exif_data_behind_its_pixels_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    data = corpus.encoded(corpus.photo(64, 48), "PNG")
    late = data[:-12] + corpus.chunk(b"eXIf", body) + data[-12:]
    assert read_image(late).size == image_size(late) == (48, 64)
    damaged = bytearray(late)
    damaged[-13] ^= 1  # its checksum
    assert read_image(bytes(damaged)).size == (64, 48)
