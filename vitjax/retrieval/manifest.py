"""What a gallery says of itself: how many rows count, how they are laid out, and what made them.

The manifest is written last and replaced whole: rows that it does not count were never added.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitjax.retrieval.storage import REMEDY, GalleryError, Place, plain_errors

FILE = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class ArrayLayout:
    """One array of a gallery: Zarr v3, cut along its first axis only.

    Attributes:
        dtype: NumPy's name.
        row: shape of one row.
        shard: rows of one file.
        chunk: rows that are read at once and share a checksum; divides `shard`.
    """

    dtype: str
    row: tuple[int, ...]
    shard: int
    chunk: int


@dataclass(frozen=True)
class Manifest:
    """What counts in a gallery.

    Attributes:
        dtype: of the tokens.
        pooled_dtype: of the pooled vectors.
        recipe: what made the descriptors: plain data, compared key by key.
        rows: images.
        reached: how far into its source the build has come, see `Gallery.add`.
        ids: "none" (the row number), "int" or "str"; empty before the first row.
        text: bytes of all string ids.
        arrays: by name; none before the first row.
    """

    dtype: str
    pooled_dtype: str
    recipe: dict[str, Any]
    rows: int = 0
    reached: int = 0
    ids: str = ""
    text: int = 0
    arrays: dict[str, ArrayLayout] = field(default_factory=dict)


def check_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe as JSON gives it back; raises ValueError where it is not plain data."""
    try:
        return json.loads(json.dumps(dict(recipe), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe: {error}; give text, finite numbers, lists and dicts only") from None


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names what differs between the recipe of a gallery and the wanted one."""
    found = []
    for key in sorted(there.keys() | here.keys()):
        old, new = (x.get(key, "nothing") for x in (there, here))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} is {old!r} there, {new!r} here")
    return found


def to_bytes(manifest: Manifest) -> bytes:
    """Writes JSON with a checksum."""
    body = dataclasses.asdict(manifest)
    return _text(body, _FORMAT, _digest(body))


def is_there(place: Place) -> bool:
    """Tells whether there is a manifest, whole or not."""
    with plain_errors(place, FILE):
        return place.keys().read(FILE).result().state == "value"


def read(place: Place) -> tuple[Manifest, bytes]:
    """The manifest of a gallery, and which version of the file this is.

    Raises:
        GalleryError: no gallery there, a damaged manifest, or one of a later version of this package.
    """
    with plain_errors(place, FILE):
        found = place.keys().read(FILE).result()
    if found.state != "value":
        raise GalleryError(
            f"gallery {place.name}: there is no {FILE}; check the path, or build the gallery "
            "(rows without a manifest cannot be trusted)"
        )
    try:
        whole = json.loads(found.value)
        body, version = whole["gallery"], whole["vitjax_gallery"]
        if found.value != _text(body, version, whole["sha256"]) or whole["sha256"] != _digest(body):
            raise ValueError("not as it was written")
        if version == _FORMAT:
            layouts = {k: ArrayLayout(**v | {"row": tuple(v["row"])}) for k, v in body["arrays"].items()}
            return Manifest(**body | {"arrays": layouts}), found.stamp.generation
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise GalleryError(f"gallery {place.name}: {FILE} is damaged; {REMEDY}") from None
    raise GalleryError(
        f"gallery {place.name}: format {version!r} is unknown here ({_FORMAT} is known); update vitjax"
    )


def write(place: Place, manifest: Manifest, replaces: bytes | None) -> bytes:
    """Commits; returns the version of the file that was written.

    Args:
        place: where.
        manifest: what counts from now on.
        replaces: version that must still be there; None: there must be no manifest.

    Raises:
        GalleryError: somebody else has written one since, or no space is left.
    """
    with plain_errors(place, FILE):
        keys = place.keys()
        if replaces is None:
            before = keys.read(FILE).result()
            if before.state == "value":
                raise GalleryError(f"gallery {place.name}: there is one already; open it, or choose another")
            replaces = before.stamp.generation
        written = keys.write(FILE, to_bytes(manifest), if_equal=replaces).result().generation
    if not written:
        raise GalleryError(
            f"gallery {place.name}: another program has added to it since it was opened; open it again"
        )
    return written


def _text(body: dict[str, Any], version: int, digest: str) -> bytes:
    whole = {"vitjax_gallery": version, "sha256": digest, "gallery": body}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
