import threading
import time

import numpy as np
import pytest
from PIL import Image

from vitjax.config.train_config import AugmentConfig
from vitjax.data.augment import Augment
from vitjax.data.images import ImageError
from vitjax.data.train_loader import Feed, StoppedFeed, TooManyBadImages
from vitjax.data.transforms import Preprocess
from vitjax.pretrained import HALF


class Images:
    """Some images, all different; those in `bad` cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.names = [f"image-{i}" for i in range(count)]
        self.labels = np.arange(count, dtype=np.int32) % 3
        self.class_names = ["a", "b", "c"]
        self.bad = bad

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        if i in self.bad:
            raise ImageError(f"{self.names[i]!r} cannot be decoded; replace it.")
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


def feed(count: int = 25, batch: int = 4, **fields) -> Feed:
    bad = fields.pop("bad", ())
    augment = Augment(Preprocess(8, 1.0, "bicubic", *HALF), AugmentConfig(shift=2))
    return Feed(Images(count, bad), augment, batch, seed=3, **fields)


def test_every_image_comes_at_most_once_an_epoch_and_epochs_differ():
    one = feed()
    assert one.steps_per_epoch == 6
    first, second = (np.concatenate([one.index(s) for s in range(e * 6, e * 6 + 6)]) for e in (0, 1))
    assert len(set(first)) == len(set(second)) == 24
    assert list(first) != list(second)
    assert all(len(one.index(step)) == 4 for step in range(12))


def test_a_run_that_goes_on_in_epoch_2_sees_the_same_images_and_the_same_pixels():
    whole = list(feed().steps(0, 12))
    rest = list(feed(workers=3).steps(8, 12))
    for a, b in zip(whole[8:], rest, strict=True):
        assert a.index.tolist() == b.index.tolist()
        np.testing.assert_array_equal(a.images, b.images)


def test_two_processes_read_the_rows_that_one_would():
    whole = feed().batch(7)[0]
    halves = [feed(shard=(i, 2)).batch(7)[0] for i in range(2)]
    for name in ("images", "labels", "index"):
        joined = np.concatenate([getattr(half, name) for half in halves])
        np.testing.assert_array_equal(getattr(whole, name), joined)


def test_the_same_image_is_changed_differently_in_each_epoch():
    one = feed(count=4)
    seen = [one.batch(epoch)[0] for epoch in range(3)]
    pixels = [batch.images[batch.index.tolist().index(2)] for batch in seen]
    assert not np.array_equal(pixels[0], pixels[1]) or not np.array_equal(pixels[1], pixels[2])


def test_what_augmentation_draws_depends_on_seed_step_and_row_and_on_nothing_else():
    def draws(step: int, seed: int = 3, **fields) -> list[int]:
        found = []

        def augment(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
            found.append(int(rng.integers(1 << 60)))
            return np.asarray(image)

        Feed(Images(25), augment, 4, seed=seed, **fields).batch(step)
        return found

    every = [draws(step) for step in range(14)] + [draws(5, seed=4)]  # of more than two epochs
    assert len({number for row in every for number in row}) == 15 * 4
    assert draws(13, workers=4) == every[13] == draws(13, shard=(0, 2)) + draws(13, shard=(1, 2))


def test_the_order_of_an_epoch_depends_on_the_seed():
    one, other = feed(), Feed(Images(25), feed().augment, 4, seed=4)
    assert one.index(0).tolist() != other.index(0).tolist()


def test_another_image_takes_a_bad_ones_place_and_the_bad_one_is_named_once():
    one = feed(bad=(5,), bad_limit=0.1)
    batches = list(one.steps(0, 12))
    assert all(5 not in batch.index for batch in batches)
    assert {i: reason[:9] for i, reason in one.bad.items()} == {5: "'image-5'"}
    labels = np.arange(25) % 3
    assert all((batch.labels == labels[batch.index]).all() for batch in batches)


def test_more_bad_images_than_allowed_stop_the_run_with_some_names():
    with pytest.raises(TooManyBadImages, match=r"of 25 images cannot be read, more than .*'image-\d+'"):
        list(feed(bad=(1, 5, 9, 13), bad_limit=0.1).steps(0, 12))
    with pytest.raises(TooManyBadImages, match="in a row"):
        list(feed(bad=tuple(range(25)), bad_limit=1.0).steps(0, 2))


def test_a_bad_image_stops_the_run_at_once_where_asked():
    with pytest.raises(ImageError, match="image-5"):
        list(feed(bad=(5,), on_bad_image="error").steps(0, 12))


def test_images_that_do_not_come_stop_the_run_and_say_at_which_step():
    gone = threading.Event()
    one = feed(patience=0.3)
    read = one.source.read
    one.source.read = lambda i: gone.wait() and read(i) if i == one.index(2)[0] else read(i)
    with pytest.raises(StoppedFeed, match=r"no images of step 2: .* time-out of 0 s"):
        list(one.steps(0, 12))
    gone.set()


def test_told_to_stop_while_images_do_not_come_there_are_no_more():
    gone, asked = threading.Event(), threading.Event()
    one = feed(patience=60.0)
    read = one.source.read
    one.source.read = lambda i: gone.wait() and read(i) if i == one.index(2)[0] else read(i)
    rows = one.steps(0, 12, asked.is_set)
    next(rows), next(rows)
    threading.Timer(0.3, asked.set).start()
    told = time.monotonic()
    assert list(rows) == []
    assert time.monotonic() - told < 5
    gone.set()


def test_balanced_batches_have_some_images_of_some_classes_and_are_functions_of_the_step():
    one = feed(count=24, batch=4, per_class=2)
    seen = set()
    for step in range(12):
        index = one.index(step)
        labels = index % 3
        assert labels[0] == labels[1] != labels[2] == labels[3]
        assert index[0] != index[1]
        assert index.tolist() == feed(count=24, batch=4, per_class=2).index(step).tolist()
        seen |= set(index.tolist())
    assert len(seen) > 15
    with pytest.raises(ValueError, match="only 3 classes"):
        feed(count=24, batch=8, per_class=2)


def test_in_a_balanced_batch_a_image_of_the_same_class_takes_a_bad_ones_place():
    one = feed(count=24, batch=4, per_class=2, bad=(4, 7), bad_limit=0.5)
    for batch in one.steps(0, 12):
        assert batch.labels[0] == batch.labels[1]
        assert not {4, 7} & set(batch.index.tolist())


def test_too_large_a_batch_is_refused():
    with pytest.raises(ValueError, match="only 25 images"):
        feed(batch=26)
