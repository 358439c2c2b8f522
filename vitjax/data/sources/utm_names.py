"""Places that stand in file names, @UTM_EAST@UTM_NORTH@...@.jpg, as sets for place recognition have them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from vitjax.errors import UserError

_ZONE, _HEADING = 3, 9  # fields between the @, counted from what is before the first


class NamedPlaces(NamedTuple):
    """Where photos were taken.

    Attributes:
        places: easting and northing, in metres of a UTM zone.
        zones: number of each one's UTM zone; 0 = not said.
        angles: compass direction of each, in degrees; NaN = not said.
    """

    places: Float64[np.ndarray, "n 2"]
    zones: np.ndarray
    angles: Float64[np.ndarray, " n"]


def places_in_names(names: Sequence[str]) -> NamedPlaces | None:
    """The places of photos whose file names say them; None where no name does.

    Source: the naming of Berton et al. 2022, Deep Visual Geo-localization Benchmark (arXiv:2204.03444):
    @easting@northing@zone@band@latitude@longitude@pano@tile@heading@pitch@roll@height@timestamp@note@.jpg, of
    which all but the first two may be empty or missing.

    Args:
        names: relative paths; their last parts count.

    Raises:
        ValueError: some names say a place and some do not, or one is no pair of numbers; it is named.
    """
    parts = [name.rpartition("/")[2].split("@") for name in names]
    written = [len(fields) > 3 and not fields[0] for fields in parts]
    if not any(written):
        return None
    found = [_numbers(fields[1:3]) if said else None for fields, said in zip(parts, written, strict=True)]
    if None in found:
        raise UserError(
            f"{names[found.index(None)]!r} has no place in its name, others have; expected "
            "@UTM_EAST@UTM_NORTH@...@.jpg, in metres, for all or for none"
        )
    zones = [int(fields[_ZONE]) if _is_zone(fields) else 0 for fields in parts]
    angles = [(_numbers(fields[_HEADING : _HEADING + 1]) or [math.nan])[0] for fields in parts]
    return NamedPlaces(np.array(found, np.float64), np.array(zones), np.array(angles, np.float64))


def _is_zone(fields: Sequence[str]) -> bool:
    text = fields[_ZONE]
    return len(fields) > _ZONE + 1 and text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 60


def _numbers(fields: Sequence[str]) -> list[float] | None:
    try:
        found = [float(field) for field in fields]
    except ValueError:
        return None
    return found if found and all(map(math.isfinite, found)) else None
