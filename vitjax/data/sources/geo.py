"""Photos to find places with: queries, and those among which a photo of the same place is looked for."""

from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int
from PIL import Image

from vitjax.data.sources.base import ImageSource
from vitjax.errors import UserError


@runtime_checkable
class Placed(ImageSource, Protocol):
    """Photos whose places are known; their labels are their cities.

    Attributes:
        places: easting and northing in metres, within the city.
    """

    places: Float64[np.ndarray, "n 2"]


class Places:
    """Queries and then the photos they are looked for among, as one source.

    Args:
        queries: photos to search for.
        gallery: of the same cities, in the same order.
    """

    def __init__(self, queries: Placed, gallery: Placed) -> None:
        if queries.labels is None or gallery.labels is None or queries.class_names != gallery.class_names:
            raise UserError(
                f"queries are of the cities {queries.class_names}, the others of {gallery.class_names}; they "
                "must be the same."
            )
        self._parts = queries, gallery
        self.queries: int = len(queries)
        self.names: list[str] = [*queries.names, *gallery.names]
        self.class_names: list[str] = queries.class_names
        self.cities: np.ndarray = np.concatenate([queries.labels, gallery.labels])
        self.labels: np.ndarray | None = self.cities
        self.places: np.ndarray = np.concatenate([queries.places, gallery.places])

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        """Photo i as 8-bit RGB; raises ImageError where it cannot be read."""
        part = int(i >= self.queries)
        return self._parts[part].read(i - part * self.queries)

    def within(self, i: int, others: np.ndarray, metres: float) -> Bool[np.ndarray, " m"]:
        """Which of some other photos were taken so near to photo i, at most so many metres from it.

        A place that is not a number is near nothing.
        """
        gap = np.linalg.norm(self.places[others] - self.places[i][None], axis=1)
        return (self.cities[others] == self.cities[i]) & (gap <= metres)

    def near(self, i: int, metres: float) -> Int[np.ndarray, " m"]:
        """Those of the gallery that are `within` so many metres of photo i, ascending."""
        if int(self.cities[i]) not in self._trees or not np.isfinite(self.places[i]).all():
            return np.zeros(0, np.int64)
        rows, tree = self._trees[int(self.cities[i])]
        # A tree adds up its boxes' distances with rounding: it is asked a little farther than is meant.
        found = tree.query_ball_point(self.places[i], metres * 1.001, return_sorted=True)
        around = rows[np.array(found, np.int64)]
        return around[self.within(i, around, metres)]

    @cached_property
    def _trees(self) -> dict[int, tuple[Int[np.ndarray, " m"], Any]]:
        """Of each city the gallery's positions, and a tree of their places; unknown places are left out."""
        from scipy.spatial import KDTree  # takes a while, and other searches do without

        known = np.flatnonzero(np.isfinite(self.places[self.queries :]).all(axis=1)) + self.queries
        cities = self.cities[known]
        split = {int(city): known[cities == city] for city in np.unique(cities)}
        return {city: (rows, KDTree(self.places[rows])) for city, rows in split.items()}
