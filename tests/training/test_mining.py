"""Photos along two streets, 5 m apart; an embedding that takes some of them for others."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from vitjax.config.train_config import AugmentConfig
from vitjax.data.augment import Augment
from vitjax.data.images import ImageError
from vitjax.data.sources.base import RowsSource
from vitjax.data.sources.geo import Places
from vitjax.data.train_loader import Feed
from vitjax.data.transforms import Preprocess
from vitjax.pretrained import HALF
from vitjax.training.mining import FAR, NEAR, Mining
from vitjax.training.output import Output


class Street:
    """So many photos in each of two cities; those in `bad` cannot be read."""

    def __init__(self, name: str, count: int, apart: float, bad: tuple[int, ...] = ()) -> None:
        self.names = [f"{name}-{i}" for i in range(2 * count)]
        self.labels = np.repeat(np.arange(2, dtype=np.int32), count)
        self.class_names = ["here", "there"]
        self.places = np.stack([np.tile(np.arange(count) * apart, 2), np.zeros(2 * count)], axis=1)
        self.bad = bad

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        if i in self.bad:
            raise ImageError(f"{self.names[i]!r} cannot be decoded; replace it.")
        return Image.new("RGB", (8, 8), (i, i, i))


PHOTOS = Places(Street("query", 4, 40.0), Street("photo", 40, 5.0))


def look(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours on a circle are alike, and the circle comes round every 60 m: a photo there is hard."""
    turn = 2 * np.pi * PHOTOS.places[rows, 0] / 60
    return np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32), rows


def mining(folder: pathlib.Path, photos: Places = PHOTOS, **fields) -> Mining:
    usual = {"batch_size": 8, "negatives": 2, "every": 3, "pool": 80, "seed": 1, "folder": folder}
    return Mining(**{"photos": photos, **usual, **fields})


def test_groups_are_a_query_a_near_photo_and_the_most_alike_of_those_far_away(tmp_path):
    one = mining(tmp_path)
    one.renew(0, look)
    for step in range(3):
        for query, positive, *negatives in one.index(step).reshape(2, 4).tolist():
            assert query < PHOTOS.queries <= min(positive, *negatives)
            assert PHOTOS.within(query, np.array([positive]), NEAR).all()
            assert not PHOTOS.within(query, np.array(negatives), FAR).any()
            pool = np.arange(PHOTOS.queries, len(PHOTOS))
            pool = pool[~PHOTOS.within(query, pool, FAR)]
            like = (look(pool)[0] @ look(np.array([query]))[0][0])[np.isin(pool, negatives)]
            assert (like > 0.999).all()  # the other city's photos of the same metres, and those 60 m away


def streets(**fields) -> Places:
    """Photos of as many queries and gallery images as PHOTOS has, of other names, cities or positions."""
    photos = Places(Street("query", 4, 40.0), Street("photo", 40, 5.0))
    for name, value in fields.items():
        setattr(photos, name, value)
    return photos


@pytest.mark.parametrize(
    "fields",
    [
        {"every": 2},
        {"every": 4},
        {"batch_size": 16},
        {"negatives": 6},
        {"seed": 2},
        {"pool": 79},
        {"photos": streets(names=[PHOTOS.names[1], PHOTOS.names[0], *PHOTOS.names[2:]])},
        {"photos": streets(cities=np.roll(PHOTOS.cities, 1))},
        {"photos": streets(places=PHOTOS.places + np.eye(88, 2, -60))},  # one photo, by a metre
        {"photos": streets(class_names=["here", "elsewhere"])},
        {"photos": Places(Street("query", 5, 40.0), Street("photo", 39, 5.0))},
    ],
)
def test_rows_chosen_from_other_images_or_for_other_batches_are_chosen_anew_with_a_word(tmp_path, fields):
    mining(tmp_path).renew(0, look)
    mining(tmp_path).renew(3, look)
    said: list[str] = []
    photos = fields.get("photos", PHOTOS)
    other = mining(tmp_path, output=Output(said.append), **fields)
    if not (tmp_path / f"{5 // other.every * other.every}.npz").exists():
        (tmp_path / "3.npz").rename(tmp_path / "4.npz")
    calls = []
    other.renew(5, lambda rows: calls.append(rows) or look(rows))
    assert len(calls) == 1
    assert len(other.index(5)) == other.batch_size
    assert other.index(5).reshape(-1, other.group)[:, 0].max() < photos.queries
    (line,) = said
    assert "4.npz" in line or "3.npz" in line
    again = mining(tmp_path, **fields)
    again.renew(5, pytest.fail)
    assert again.index(5).tolist() == other.index(5).tolist()


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"\x93NUMPY"]
)
def test_rows_that_cannot_be_read_are_chosen_anew_with_a_word(tmp_path, damage):
    one = mining(tmp_path)
    one.renew(3, look)
    path = tmp_path / "3.npz"
    path.write_bytes(damage(path.read_bytes()))
    said: list[str] = []
    again = mining(tmp_path, output=Output(said.append))
    again.renew(4, look)
    assert again.index(4).tolist() == one.index(4).tolist()
    assert said == [f"{path} cannot be read: hard negatives are mined anew"]


@pytest.mark.parametrize("found", [False, True])
def test_what_process_0_finds_all_processes_take(tmp_path, monkeypatch, found):
    one = mining(tmp_path)
    one.renew(3, look)
    if not found:
        (tmp_path / "3.npz").unlink()
    monkeypatch.setattr("vitjax.training.mining.sharding.from_main", lambda _: 1)
    other = mining(tmp_path, writes=False)
    if not found:
        with pytest.raises(ValueError, match="the same --workdir"):
            other.renew(4, pytest.fail)
        return
    other.renew(4, pytest.fail)
    assert other.index(4).tolist() == one.index(4).tolist()
    monkeypatch.setattr("vitjax.training.mining.sharding.from_main", lambda _: 0)
    other, calls = mining(tmp_path, writes=False), []
    other.renew(4, lambda rows: calls.append(rows) or look(rows))
    assert len(calls) == 1  # an exchange of all processes: where process 0 chooses anew, so do the others


def test_a_run_that_goes_on_between_two_choices_sees_what_it_would_have_seen(tmp_path):
    one, calls = mining(tmp_path), []
    for step in range(6):
        one.renew(step, lambda rows: calls.append(len(rows)) or look(rows))
    assert len(calls) == 2
    again = mining(tmp_path)
    again.renew(4, pytest.fail)
    assert [again.index(s).tolist() for s in (4, 5)] == [one.index(s).tolist() for s in (4, 5)]
    anew = mining(tmp_path / "elsewhere")
    anew.renew(3, look)
    assert anew.index(4).tolist() == one.index(4).tolist()
    first = mining(tmp_path)
    first.renew(2, pytest.fail)
    assert first.index(2).tolist() != one.index(4).tolist()


def test_photos_that_cannot_be_looked_at_are_not_chosen_and_a_run_told_to_stop_chooses_none(tmp_path):
    def half(rows):
        vectors, rows = look(rows)
        return vectors[rows % 2 == 0], rows[rows % 2 == 0]

    one = mining(tmp_path)
    one.renew(0, half)
    chosen = np.stack([one.index(step) for step in range(3)]).reshape(-1, 4)
    assert not (chosen[:, [0, 2, 3]] % 2).any()
    told = mining(tmp_path / "told")
    told.renew(0, lambda _: None)
    assert not (tmp_path / "told").exists()


def test_too_few_photos_far_away_or_near_are_said(tmp_path):
    with pytest.raises(ValueError, match="fewer than 70 of 80 photos are farther than 25 m"):
        Mining(PHOTOS, 72, 70, 1, 80, 1, tmp_path).renew(0, look)
    lonely = Places(Street("query", 4, 40.0), Street("photo", 1, 5.0))
    lonely.places[lonely.queries :] += 11
    with pytest.raises(ValueError, match="no query has another photo within 10 m"):
        mining(tmp_path, lonely).renew(0, look)


def test_the_feed_reads_what_was_chosen_and_the_nearest_photo_in_a_bad_ones_place(tmp_path):
    bad = tuple(range(0, 80, 2))
    photos = Places(Street("query", 4, 40.0), Street("photo", 40, 5.0, bad))
    one = mining(tmp_path, photos)
    augment = Augment(Preprocess(8, 1.0, "bicubic", *HALF), AugmentConfig())
    feed = Feed(photos, augment, 8, seed=1, chosen=one, bad_limit=1.0)
    rows = feed.steps(0, 5)
    for step in range(5):
        one.renew(step, look)
        batch, asked = next(rows), one.index(step)
        gap = np.linalg.norm(photos.places[batch.index] - photos.places[asked], axis=1)
        assert set(gap) <= {0.0, 5.0}
        assert (photos.cities[batch.index] == photos.cities[asked]).all()
        read = batch.index[batch.index >= photos.queries] - photos.queries
        assert not set(read.tolist()) & set(bad)
    rows.close()
    assert feed.steps_per_epoch == 4


def scattered(seed: int) -> Places:
    """Three cities of photos a metre apart, some on one spot, some nowhere; near the origin or far."""
    draw, sides = np.random.default_rng(seed), []
    for name, count in (("query", 40), ("photo", 300)):
        side = Street(name, count, 1.0)
        side.class_names = ["here", "there", "nobody's"]
        side.labels = draw.integers(0, 3 if name == "query" else 2, 2 * count).astype(np.int32)
        side.places = draw.integers(0, 60, (2 * count, 2)) + (seed % 2) * np.array([500_000.1, 6_000_000.7])
        side.places[draw.random(2 * count) < 0.1, seed % 2] = np.nan
        side.places[draw.random(2 * count) < 0.05] = np.inf
        sides.append(side)
    return Places(*sides)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("metres", [0.0, 5.0, NEAR, FAR])
@pytest.mark.filterwarnings("ignore:invalid value")  # inf - inf
def test_photos_near_a_query_are_those_that_every_distance_measured_gives(seed, metres):
    photos, edges = scattered(seed), 0
    gallery = np.arange(photos.queries, len(photos))
    for query in range(photos.queries):
        gap = np.linalg.norm(photos.places[gallery] - photos.places[query][None], axis=1)
        same = photos.cities[gallery] == photos.cities[query]
        assert photos.near(query, metres).tolist() == gallery[same & (gap <= metres)].tolist()
        edges += int((same & (gap == metres)).sum())
        if not np.isfinite(photos.places[query]).all():
            assert not len(photos.near(query, metres))
    assert edges  # some are at exactly that distance, (3, 4) or (6, 8) or (7, 24) metres away
    assert photos.near(len(photos) - 1, metres).min(initial=len(photos)) >= photos.queries


@pytest.mark.parametrize("block", [1, 3, 256])
def test_blocks_of_queries_choose_what_one_query_at_a_time_does(tmp_path, monkeypatch, block):
    monkeypatch.setattr("vitjax.training.mining.BLOCK", block)
    vectors = np.random.default_rng(3).integers(-3, 4, (len(PHOTOS), 5)).astype(np.float32)
    one = mining(tmp_path, every=4)
    one.renew(0, lambda rows: (vectors[rows], rows))
    draw, gallery = np.random.default_rng([1, 0, 2]), np.arange(PHOTOS.queries, len(PHOTOS))
    expected = []
    for query in draw.permutation(PHOTOS.queries).tolist():
        near = gallery[PHOTOS.within(query, gallery, NEAR)]
        expected.append([query, draw.choice(near)])
    pool = draw.choice(gallery, 80, replace=False)
    for row in expected:
        like = vectors[pool] @ vectors[row[0]]
        like[PHOTOS.within(row[0], pool, FAR)] = -np.inf
        row.extend(pool[np.argsort(-like, kind="stable")[:2]].tolist())
    assert np.stack([one.index(step) for step in range(4)]).reshape(-1, 4).tolist() == expected


def test_queries_and_photos_of_other_cities_are_refused():
    other = Street("photo", 2, 5.0)
    other.class_names = ["elsewhere", "there"]
    with pytest.raises(ValueError, match="must be the same"):
        Places(Street("query", 2, 5.0), other)


def test_some_rows_of_a_source_keep_names_labels_and_pixels():
    some = RowsSource(PHOTOS, np.array([9, 2]))
    assert (some.names, len(some)) == ([PHOTOS.names[9], "query-2"], 2)
    assert some.labels is not None
    assert some.labels.tolist() == PHOTOS.cities[[9, 2]].tolist()
    assert some.read(1).getpixel((0, 0)) == (2, 2, 2)
