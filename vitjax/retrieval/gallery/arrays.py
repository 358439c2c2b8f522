"""The arrays of a gallery: Zarr v3 with a checksum for each chunk; a missing chunk is an error.

Plain Zarr reads a flipped bit as data and a missing chunk as zeros. Here every chunk carries a CRC-32C, and
what is not there is not read: TensorStore is told so, and to store chunks of zeros like any other. That a
whole chunk is also the one that belongs there is what `sums` checks.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from vitjax.retrieval.gallery.image_ids import ENDS, NUMBERS, TEXT
from vitjax.retrieval.gallery.manifest import ArrayLayout, Manifest, row_count
from vitjax.retrieval.gallery.quantize import ROW_ARRAYS, Stored, stored_name
from vitjax.retrieval.gallery.storage import REMEDY, GalleryError, Location, Pending, context, plain_errors

CHUNK_BYTES = 2**16  # about what is read to get at one row
SHARD_BYTES = 2**25  # about the size of a file


def layout(stored: Stored, ids: str) -> dict[str, ArrayLayout]:
    """Lays out the arrays of a gallery: pieces small enough for one row, files large enough for a disk."""
    there = {name: x for name in ROW_ARRAYS if (x := getattr(stored, name)) is not None}
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {
        stored_name(name): (x.dtype.name, x.shape[1:]) for name, x in there.items()
    }
    kinds |= {"int": {NUMBERS: ("int64", ())}, "str": {ENDS: ("int64", ())}}.get(ids, {})
    each = {name: np.dtype(kind).itemsize * math.prod(row) for name, (kind, row) in kinds.items()}
    shard = _power(SHARD_BYTES // max(each.values()))  # the same rows of every array, so one file of each
    layouts = {
        name: ArrayLayout(kind, row, shard, min(shard, _power(CHUNK_BYTES // each[name])))
        for name, (kind, row) in kinds.items()
    }
    if ids == "str":
        layouts[TEXT] = ArrayLayout("uint8", (), 2**22, CHUNK_BYTES)
    return layouts


def _power(n: int) -> int:
    """The largest power of two that is not above n; at least 1."""
    return 1 << max(n, 1).bit_length() - 1


def create(location: Location, manifest: Manifest) -> dict[str, ts.TensorStore]:
    """Makes empty arrays; anything that lies there under their names was never committed, and goes."""
    stores = {}
    for name, array in manifest.arrays.items():
        with plain_errors(location, name):
            spec = _spec(location, name, array, rows=0)
            stores[name] = _created(spec)
    return stores


def _created(spec: dict[str, Any]) -> ts.TensorStore:
    try:
        return ts.open(spec, create=True, delete_existing=True, context=context()).result()
    except ValueError as error:
        if not str(error).startswith("ALREADY_EXISTS"):
            raise
        # The lock is ours, so we wrote it: the store's answer was lost, and it was asked again.
        return ts.open(spec, open=True, context=context()).result()


def open_all(location: Location, manifest: Manifest) -> dict[str, ts.TensorStore]:
    """Opens the arrays without reading any; raises GalleryError where one is not as the manifest says."""
    opening = {
        name: ts.open(_spec(location, name, array), open=True, context=context())
        for name, array in manifest.arrays.items()
    }
    stores = Pending(location, opening).result()
    for name, array in manifest.arrays.items():
        rows, shape = row_count(manifest, name), tuple(stores[name].shape)
        if shape[0] < rows or shape[1:] != array.row:
            raise GalleryError(
                f"gallery {location.name}: {name} is damaged; {REMEDY} "
                f"(its zarr.json says {shape}, the manifest {(rows, *array.row)})"
            )
    return stores


def append(
    location: Location, stores: Mapping[str, ts.TensorStore], first: int, parts: Mapping[str, np.ndarray]
) -> Pending:
    """Starts to write rows behind the first `first` ones, which stay as they are."""
    writing = {name: stores[name][first : first + len(x)].write(x) for name, x in parts.items()}
    return Pending(location, writing)


def resized(location: Location, stores: Mapping[str, ts.TensorStore], manifest: Manifest) -> dict[str, Any]:
    """Gives every array the rows of a manifest that is about to be committed."""
    found = {}
    for name, store in stores.items():
        with plain_errors(location, name):
            end = [row_count(manifest, name), *manifest.arrays[name].row]
            found[name] = store.resize(exclusive_max=end).result()
    return found


def _spec(location: Location, name: str, array: ArrayLayout, rows: int | None = None) -> dict[str, Any]:
    number: dict[str, Any] = {"name": "bytes"}
    if np.dtype(array.dtype).itemsize > 1:
        number["configuration"] = {"endian": "little"}
    whole, checksum = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    shards = {
        "chunk_shape": [array.chunk, *array.row],
        "codecs": [number, checksum],
        "index_codecs": [whole, checksum],
        "index_location": "end",
    }
    metadata: dict[str, Any] = {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [array.shard, *array.row]}},
        "chunk_key_encoding": {"name": "default"},
        "data_type": array.dtype,
        "fill_value": False if array.dtype == "bool" else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": shards}],
    }
    if rows is not None:
        metadata["shape"] = [rows, *array.row]
    return {
        "driver": "zarr3",
        "kvstore": location.below(name),
        "metadata": metadata,
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
        "recheck_cached_data": "open",
    }
