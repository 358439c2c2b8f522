"""The manifest of a gallery: its committed rows, the layout of its arrays, and its recipe.

The manifest is written after the rows and replaced whole: rows that it does not count were never added.
After it comes `committed.json`, which says which manifest is the last one, so that an earlier one put back
is told. A process killed between the two leaves a manifest newer than `committed.json`, and that is fine.

Both hold `{"vitjax_gallery": format, "sha256": of the body, "gallery": body}`. A later version of this
package may add keys, which this one leaves out when it reads; what a reader must not leave out (removed
rows, a gallery in several folders) it names in `needs`, and a reader refuses a need that it does not know.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitjax.errors import UserError
from vitjax.retrieval.gallery.image_ids import TEXT
from vitjax.retrieval.gallery.storage import REMEDY, GalleryError, Location, plain_errors, write_if
from vitjax.system.files import parse_json

FILE = "manifest.json"
COMMITTED = "committed.json"
NEEDS = ("codec",)  # that this version knows
_FORMAT = 2


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
        full: of the files that are full, what their checksums hash to, see `sums`.
        last: checksums of the files that still grow, see `sums`.
        needs: names of what a reader has to know beyond this.
        codec: SHA-256 of the codec of its tokens; empty: they are numbers.
        measured: SHA-256 of the centre, subspace and price of its tokens; empty: it keeps none.
    """

    dtype: str
    pooled_dtype: str
    recipe: dict[str, Any]
    rows: int = 0
    reached: int = 0
    ids: str = ""
    text: int = 0
    arrays: dict[str, ArrayLayout] = field(default_factory=dict)
    full: dict[str, list[str]] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    codec: str = ""
    measured: str = ""


def row_count(manifest: Manifest, name: str) -> int:
    """Committed rows of an array: images, or bytes of their ids."""
    return manifest.text if name == TEXT else manifest.rows


def content(manifest: Manifest) -> str:
    """Hash of all rows that count, whatever number of commits brought them."""
    body = dataclasses.asdict(manifest)
    names = ["rows", "text", "ids", "arrays", "full", "last", *(["codec"] if manifest.codec else [])]
    return _digest({name: body[name] for name in names})


def check_same(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises GalleryError where descriptors were made by another recipe than the one wanted."""
    wrong = differences(there, here)
    if wrong:
        raise GalleryError(
            f"{name} was made by another recipe: {'; '.join(wrong[:5])}; "
            "describe with that recipe, or build another gallery"
        )


def check_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe as JSON gives it back; raises ValueError where it is not plain data."""
    try:
        return parse_json(json.dumps(dict(recipe), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"recipe: {error}; give text, finite numbers, lists and dicts only") from None


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


def is_there(location: Location) -> bool:
    """Tells whether there is a manifest, whole or not."""
    with plain_errors(location, FILE):
        return location.keys().read(FILE).result().state == "value"


def read(location: Location) -> tuple[Manifest, bytes]:
    """The manifest of a gallery, and which version of the file this is.

    Raises:
        GalleryError: no gallery there, a damaged manifest, one of an earlier commit or of another gallery, or
            one of another version of this package.
    """
    with plain_errors(location, FILE):
        keys = location.keys()
        committed = keys.read(COMMITTED).result()  # first, so that no commit comes between
        found = keys.read(FILE).result()
    if found.state != "value":
        raise GalleryError(
            f"gallery {location.name}: there is no {FILE}; check the path, or build the gallery "
            "(rows without a manifest cannot be trusted)"
        )
    written = _body(location, FILE, found.value)
    body: dict[str, Any] = {"codec": "", "measured": ""} | written  # a gallery from before there were these
    unknown = [need for need in body.get("needs") or () if need not in NEEDS]
    if unknown:
        raise GalleryError(f"gallery {location.name}: it needs {unknown}, unknown here; update vitjax")
    try:
        layouts = {k: ArrayLayout(**v | {"row": tuple(v["row"])}) for k, v in body["arrays"].items()}
        known = {field.name: body[field.name] for field in dataclasses.fields(Manifest)}
        manifest = Manifest(**known | {"arrays": layouts, "needs": tuple(body["needs"])})
    except (TypeError, KeyError, AttributeError, ValueError):
        raise GalleryError(f"gallery {location.name}: {FILE} is damaged; {REMEDY}") from None
    _check_last(location, manifest, written, committed)
    return manifest, found.stamp.generation


def _check_last(location: Location, manifest: Manifest, body: dict[str, Any], committed: Any) -> None:
    """Refuses a manifest that is not the one of the last commit, as far as that can be told."""
    if committed.state != "value":
        if not manifest.rows:  # killed before the first commit was done
            return
        raise GalleryError(f"gallery {location.name}: {COMMITTED} is missing; {REMEDY}")
    last = _body(location, COMMITTED, committed.value)
    same = (last["rows"], last["reached"]) == (manifest.rows, manifest.reached)
    if last["rows"] > manifest.rows or (same and last["manifest"] != _digest(body)):
        raise GalleryError(
            f"gallery {location.name}: {FILE} is not the one of the last commit ({manifest.rows} rows, "
            f"{last['rows']} were committed): it is of an earlier commit or of another gallery; {REMEDY}"
        )


def write(location: Location, manifest: Manifest, replaces: bytes | None) -> bytes:
    """Commits; returns the version of the file that was written.

    Args:
        location: where.
        manifest: what counts from now on.
        replaces: version that must still be there; None: there must be no manifest.

    Raises:
        GalleryError: somebody else has written one since, or no space is left.
    """
    body = dataclasses.asdict(manifest)
    last = {"rows": manifest.rows, "reached": manifest.reached, "manifest": _digest(body)}
    with plain_errors(location, FILE):
        keys = location.keys()
        if replaces is None:
            before = keys.read(FILE).result()
            if before.state == "value":
                raise GalleryError(
                    f"gallery {location.name}: there is one already; open it, or choose another"
                )
            replaces = before.stamp.generation
        written = write_if(keys, FILE, _text(body, _FORMAT, _digest(body)), replaces)
        if not written:
            raise GalleryError(
                f"gallery {location.name}: another program has added to it since it was opened; open it again"
            )
    with contextlib.suppress(ValueError):  # the rows are committed, and this file may lag behind
        keys.write(COMMITTED, _text(last, _FORMAT, _digest(last))).result()
    return written


def _body(location: Location, file: str, data: bytes) -> dict[str, Any]:
    """What a file of ours says; raises GalleryError unless it is as it was written."""
    try:
        whole = parse_json(data)
        body, version = whole["gallery"], whole["vitjax_gallery"]
        if data != _text(body, version, whole["sha256"]) or whole["sha256"] != _digest(body):
            raise UserError("not as it was written")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise GalleryError(f"gallery {location.name}: {file} is damaged; {REMEDY}") from None
    if version == 1:
        raise GalleryError(
            f"gallery {location.name}: it is of format 1, whose files are not bound to path and commit; "
            f"delete it and build it again ({_FORMAT} is the format here)"
        )
    if version != _FORMAT:
        raise GalleryError(
            f"gallery {location.name}: format {version!r} is unknown here ({_FORMAT} is known); update vitjax"
        )
    return body


def _text(body: dict[str, Any], version: int, digest: str) -> bytes:
    whole = {"vitjax_gallery": version, "sha256": digest, "gallery": body}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
