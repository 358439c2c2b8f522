"""Queries, gallery and relevant images of published protocols and of folders."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vitjax.cli.console import warn
from vitjax.config import PROTOCOLS, DataConfig
from vitjax.data.sources.base import ImageSource, ListedSource, align_labels
from vitjax.data.sources.judged import JudgedSource, Rows
from vitjax.data.sources.msls import PlaceSource
from vitjax.data.sources.open import open_source
from vitjax.data.sources.spec import DataSpec
from vitjax.data.sources.utm_names import places_in_names
from vitjax.errors import UserError
from vitjax.evaluation.described_images import DescribedImages, TextSource
from vitjax.retrieval.metrics import positives_within
from vitjax.retrieval.metrics.average_precision import AveragePrecision
from vitjax.retrieval.metrics.ground_truth import find_named
from vitjax.retrieval.metrics.relevance import KS, Truth, read_ground_truth

RECALL_AT: dict[str, tuple[int, ...]] = {
    "cub": (1, 2, 4, 8),
    "cars": (1, 2, 4, 8),
    "sop": (1, 10, 100),
    "msls": (1, 5, 10, 20),
}


class Map(NamedTuple):
    """A mean average precision as a benchmark defines it; see `AveragePrecision`."""

    area: Literal["trapezoid", "rectangle"] = "rectangle"
    depth: int = 0
    ks: tuple[int, ...] = ()


REVISITED = (Map("trapezoid", ks=(1, 5, 10)),)
# INSTRE: of Iscen et al. 2017, and as ELViS (2026) reports it.
MAPS: dict[str, tuple[Map, ...]] = {
    "roxford5k": REVISITED,
    "rparis6k": REVISITED,
    "instre": (Map("trapezoid"), Map(depth=100)),
    "gldv2": (Map(depth=100),),
    "ilias": (Map(depth=1000),),
}


def data_spec(data: DataConfig) -> DataSpec:
    """Which images a config's `data` means."""
    return DataSpec(
        path=data.images,
        name=data.name,
        split=data.split,
        gallery=data.gallery,
        query=data.query,
        cities=tuple(city.strip() for city in data.cities.split(",") if city.strip()),
        subtask=data.subtask,
        split_file=data.split_file,
        fields={"path": "data.images", "gallery": "data.gallery"},
    )


def open_protocol(data: DataConfig) -> tuple[ImageSource, ImageSource]:
    """Gallery and queries of a search; the same object where the gallery is searched in itself.

    CUB-200-2011, Cars196, Stanford Online Products: the half of the classes that is not trained on is
    searched in itself. MSLS: the validation cities, without queries that have no relevant image, as in its
    released evaluation.

    Args:
        data: says which images.

    Raises:
        UserError: no folder, or the download is not as it is published; one line says where.
    """
    spec = data_spec(data)
    gallery, queries = (open_source(data.source, spec, side) for side in ("gallery", "query"))
    assert gallery is not None
    if queries is None:
        return gallery, gallery
    if data.source != "msls" or not (isinstance(queries, PlaceSource) and isinstance(gallery, PlaceSource)):
        return gallery, queries
    asked = np.flatnonzero([len(rows) > 0 for rows in near(queries, gallery, data.angle, data.radius)])
    if not len(asked):
        raise UserError(
            f"{data.images}: no query has a photo within {data.radius:g} m; is the download whole?"
        )
    return gallery, queries.take(asked)


def near(
    queries: PlaceSource, gallery: PlaceSource, angle: float = 0.0, radius: float = 25.0
) -> list[Int[np.ndarray, " _"]]:
    """For each query, the photos of its city that are relevant images: within 25 m, the distance included.

    Args:
        queries: photos to search for.
        gallery: photos to search in, of the same cities.
        angle: degrees that compass directions may differ by, at most; 0 = any. The released evaluation looks
            at the distance alone. A photo of unknown direction is then no relevant image.
        radius: metres.
    """
    found = [np.zeros(0, np.int64)] * len(queries)
    for city in range(len(queries.class_names)):
        city_queries, city_gallery = (np.flatnonzero(each.cities == city) for each in (queries, gallery))
        rows = positives_within(queries.places[city_queries], gallery.places[city_gallery], radius)
        for i, relevant in zip(city_queries, rows, strict=True):
            found[i] = city_gallery[relevant]
            if angle > 0:
                found[i] = found[i][turned(queries.angles[i], gallery.angles[found[i]]) <= angle]
    return found


def turned(one: float, others: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Degrees between compass directions, in [0, 180]; infinite where one is unknown."""
    gap = np.abs((others - one + 180.0) % 360.0 - 180.0)
    return np.where(np.isnan(gap), np.inf, gap)


def find_truth(data: DataConfig, queries: DescribedImages, gallery: DescribedImages) -> Truth:
    """Relevant images from the ground-truth file, else from places, else from classes, else none."""
    own = self_index(queries, gallery)
    if data.ground_truth:
        listed = read_ground_truth(data.ground_truth, queries.source.names, gallery.source.names)
        positives = [np.flatnonzero(np.isin(gallery.rows, listed.get(int(i), []))) for i in queries.rows]
        return Truth.from_rows(positives, own)
    if isinstance(queries.source, TextSource):
        return text_truth(queries.source, gallery, own)
    if (published := published_truth(data, queries, gallery)) is not None:
        return published
    if (places := named_place_truth(data, queries.names(), gallery.names(), own)) is not None:
        return places
    labels = align_labels(queries.source, gallery.source)
    if labels is None:
        return Truth(None, None, own)
    truth = Truth.from_labels(labels[0][queries.rows], labels[1][gallery.rows], own)
    return protocol_truth(data, truth) if data.source in PROTOCOLS else truth


def text_truth(queries: TextSource, gallery: DescribedImages, own: Int[np.ndarray, " q"]) -> Truth:
    """What the file of text queries says; nothing where it holds texts alone."""
    if queries.relevant is None:
        return Truth(None, None, own)
    listed = find_named(queries.relevant, gallery.source.names)
    return Truth.from_rows([np.flatnonzero(np.isin(gallery.rows, rows)) for rows in listed], own)


def self_index(queries: DescribedImages, gallery: DescribedImages) -> Int[np.ndarray, " q"]:
    """Self index: per query, the gallery row that is the same file, left out of its ranking; -1 = none."""
    if queries is gallery:
        return np.arange(len(gallery))
    if not (isinstance(queries.source, ListedSource) and isinstance(gallery.source, ListedSource)):
        return np.full(len(queries), -1)
    row_of: dict[Hashable, int] = {}
    for row, i in enumerate(gallery.rows):
        row_of.setdefault(gallery.source.identity(int(i)), row)
    return np.array([row_of.get(queries.source.identity(int(i)), -1) for i in queries.rows])


def protocol_truth(data: DataConfig, truth: Truth) -> Truth:
    """Relevance by class, with the papers' metrics: recall at their ranks, and their own RP and MAP@R."""
    return replace(truth, ks=RECALL_AT[data.source], released=True)


def published_truth(data: DataConfig, queries: DescribedImages, gallery: DescribedImages) -> Truth | None:
    """What the files of a benchmark say; None of images without any."""
    if isinstance(queries.source, JudgedSource):
        return judged_truth(MAPS[data.source], queries.source, queries.rows, gallery.rows)
    if isinstance(queries.source, PlaceSource) and isinstance(gallery.source, PlaceSource):
        return place_truth(data, queries.source.take(queries.rows), gallery.source.take(gallery.rows))
    return None


def judged_truth(
    maps: Sequence[Map],
    source: JudgedSource,
    queries: Int[np.ndarray, " q"],
    gallery: Int[np.ndarray, " n"],
) -> Truth:
    """Relevance as the ground truth of a benchmark lists it, and its mean average precisions.

    Args:
        maps: how they are defined, each for every setup.
        source: of the queries.
        queries: the image that each row is of, a position in the source.
        gallery: the same, of the gallery.
    """
    row_of = {int(image): row for row, image in enumerate(gallery)}

    def rows(listed: Rows) -> Rows:
        each = ([row_of[i] for i in listed[query].tolist() if i in row_of] for query in queries)
        return [np.array(found, np.int64) for found in each]

    rules = [
        AveragePrecision(rows(setup.positives), rows(setup.junk), name, *one)
        for name, setup in source.setups.items()
        for one in maps
    ]
    # Of several setups one image may be junk in one and relevant in another, which recall does not say.
    ks = () if any(map(len, rules[0].junk or ())) else KS
    unknown = np.full(len(queries), -1)
    return replace(Truth.from_rows(rows(source.relevant()), unknown), ks=ks, rules=tuple(rules))


def place_truth(data: DataConfig, queries: PlaceSource, gallery: PlaceSource) -> Truth:
    """Relevance by position: images within a radius, and each of several cities is searched on its own."""
    several = len(gallery.class_names) > 1
    return Truth(
        near(queries, gallery, data.angle, data.radius),
        None,
        np.full(len(queries), -1),
        ks=RECALL_AT["msls"],
        groups=(queries.cities, gallery.cities) if several else None,
        group_names=tuple(gallery.class_names) if several else (),
    )


def named_place_truth(
    data: DataConfig, queries: Sequence[str], gallery: Sequence[str], own: Int[np.ndarray, " q"]
) -> Truth | None:
    """Relevance by the positions in file names (`places_in_names`); None unless both sides have them.

    Relevant are photos within `data.radius` metres, as `positives_within` counts them, of the same UTM zone
    where both names say one, and turned by `data.angle` at most where that is set.

    Raises:
        ValueError: names of one side of which some have a place and some have none.
    """
    asked, held = places_in_names(queries), places_in_names(gallery)
    if asked is None or held is None:
        if asked is not held:
            one, other = ("queries", "gallery") if held is None else ("gallery", "queries")
            warn(f"names of the {one} say UTM positions, those of the {other} do not: they are not used")
        return None
    rows = positives_within(asked.places, held.places, data.radius)
    for i, found in enumerate(rows):
        zones = held.zones[found]
        keep = (zones == asked.zones[i]) | (zones == 0) | (asked.zones[i] == 0)
        if data.angle > 0:
            keep &= turned(asked.angles[i], held.angles[found]) <= data.angle
        rows[i] = found[keep]
    return replace(Truth.from_rows(rows, own), ks=RECALL_AT["msls"])
