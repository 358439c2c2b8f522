import gc
import threading
import time

import numpy as np
import pytest
from PIL import Image

from vitjax.data import ImageError, ListSource, Preprocess, Skipped, batches

PREPARE = Preprocess(8, 1.0, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def numbered(count, bad=()):
    """Image i is of grey level i, or damaged."""
    return ListSource([b"damaged" if i in bad else Image.new("RGB", (8, 8), (i, i, i)) for i in range(count)])


def grey(batch):
    return np.rint(batch.images[:, 0, 0, 0] * 255).astype(int).tolist()


def test_every_batch_has_one_shape_and_the_last_is_padded():
    loader = batches(numbered(10), PREPARE, 4)
    found = list(loader)
    assert len(loader) == len(found) == 3
    assert {b.images.shape for b in found} == {(4, 8, 8, 3)}
    assert {b.images.dtype for b in found} == {np.dtype("float32")}
    np.testing.assert_array_equal(np.concatenate([b.index for b in found]), [*range(10), -1, -1])
    np.testing.assert_array_equal(np.concatenate([b.valid for b in found]), [True] * 10 + [False] * 2)
    assert not found[-1].images[2:].any()


def test_order_does_not_depend_on_who_is_faster():
    class Uneven(ListSource):
        def read(self, i):
            time.sleep(0.02 * (i % 3 == 0))
            return super().read(i)

    source = Uneven([Image.new("RGB", (8, 8), (i, i, i)) for i in range(20)])
    found = [grey(batch) for batch in batches(source, PREPARE, 5, workers=4)]
    assert sum(found, []) == list(range(20))  # noqa: RUF017


def test_bad_images_are_skipped_counted_and_named():
    loader = batches(numbered(7, bad=(1, 4, 5, 6)), PREPARE, 3)
    for _ in range(2):  # a second pass starts its list anew
        found = list(loader)
        assert [s.index for s in loader.skipped] == [1, 4, 5, 6]
    assert loader.skipped[0] == Skipped(
        1, "1", "image of 7 bytes is not a JPEG, PNG or WebP image; convert or remove it."
    )
    np.testing.assert_array_equal(found[0].valid, [True, False, True])
    np.testing.assert_array_equal(found[0].index, [0, 1, 2])
    # The last batch holds no image at all and has the shape of the others.
    assert found[2].images.shape == (3, 8, 8, 3) and not found[2].valid.any()


def test_the_first_bad_image_raises_when_asked():
    with pytest.raises(ImageError, match="image of 7 bytes"):
        list(batches(numbered(7, bad=(4,)), PREPARE, 2, on_bad_image="error"))


@pytest.mark.parametrize("count", [8, 10, 11])
def test_two_shards_make_the_whole(count):
    source = numbered(count, bad=(2,))
    whole = batches(source, PREPARE, 4)
    parts = [batches(source, PREPARE, 4, shard=(p, 2)) for p in range(2)]
    for all_rows, *halves in zip(whole, *parts, strict=True):
        for field in ("images", "index", "valid"):
            joined = np.concatenate([getattr(half, field) for half in halves])
            np.testing.assert_array_equal(joined, getattr(all_rows, field))
    assert parts[0].skipped + parts[1].skipped == whole.skipped


def prefetch_threads():
    return [t for t in threading.enumerate() if "prefetch" in t.name]


def wait_for_threads_to_end():
    gc.collect()
    deadline = time.monotonic() + 5
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not prefetch_threads()


@pytest.mark.parametrize("leave", ["break", "error", "end"])
def test_no_thread_stays_behind(leave):
    assert wait_for_threads_to_end()  # those of the tests before
    loader = batches(numbered(40, bad=(9,) if leave == "error" else ()), PREPARE, 4, on_bad_image="error")
    seen = 0
    try:
        for _ in loader:
            seen = max(seen, len(prefetch_threads()))
            if leave == "break":
                break
    except ImageError:
        assert leave == "error"
    assert seen and wait_for_threads_to_end()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 3, "shard": (0, 2)}, "batch_size 3 is no multiple of the 2 processes"),
        ({"workers": 0}, "workers is 0"),
        ({"on_bad_image": "ignore"}, "'ignore'"),
        ({"shard": (2, 2)}, "shard"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        batches(numbered(1), PREPARE, **{"batch_size": 2} | arguments)
