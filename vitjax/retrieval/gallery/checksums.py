"""Checksums that bind a gallery's files to their path and commit: one of the rows of each chunk.

The CRC-32C inside of a chunk tells that it is whole, not that it belongs there: a file exchanged with
another, one of another gallery, or one of an earlier commit passes. So the CRC-32 of each chunk's committed
rows is kept apart from it, and compared when a process first reads the chunk. Checksums of files that are
full lie in objects of their own, `sums/rows-0`, `sums/rows-1`, ... (all arrays of the same images) and
`sums/text-0`, ...; each is written once, and the manifest has its SHA-256. Those of the files that still
grow are in the manifest itself. They are of committed rows only: whatever an `add` that was cut off wrote
behind those rows, a reader of the commit before it finds its own.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorstore as ts

from vitjax.retrieval.gallery.image_ids import TEXT, RowIndex
from vitjax.retrieval.gallery.manifest import Manifest, row_count
from vitjax.retrieval.gallery.storage import REMEDY, GalleryError, Location, Pending, plain_errors

FOLDER = "sums"
_KEPT = 128  # objects of checksums in memory, some KB each
_AT_ONCE = 64  # chunks that are read whole to be compared
_NUMBER = np.dtype("<u4")


class Writer:
    """Checksums of a gallery that grows.

    Args:
        location: of the gallery.
        content: what is committed, with the layouts of the arrays.
    """

    def __init__(self, location: Location, content: Manifest) -> None:
        self._location, self._arrays = location, content.arrays
        self._full = {kind: list(digests) for kind, digests in content.full.items()}
        last = {name: content.last.get(name, "") for name in content.arrays}
        self._last = {name: np.frombuffer(bytes.fromhex(x), _NUMBER).tolist() for name, x in last.items()}
        self._new: dict[str, bytes] = {}

    def append(self, first: int, parts: Mapping[str, np.ndarray]) -> None:
        """Counts rows behind the first `first` ones: of the text of ids, or of all other arrays alike."""
        shard = self._arrays[next(iter(parts))].shard
        end = first + len(next(iter(parts.values())))
        for start in range(first - first % shard, end, shard):
            for name, x in parts.items():
                piece = x[max(start - first, 0) : start + shard - first]
                _extend(self._last[name], max(first - start, 0), piece, self._arrays[name].chunk)
            if start + shard <= end:
                self._close(parts)

    def _close(self, names: Iterable[str]) -> None:
        """Puts the checksums of files that are full now into an object of their own."""
        kind, body = _kind(next(iter(names))), b""
        for name in sorted(names):
            body += np.array(self._last[name], _NUMBER).tobytes()
            self._last[name] = []
        digests = self._full.setdefault(kind, [])
        self._new[_key(kind, len(digests))] = body
        digests.append(hashlib.sha256(body).hexdigest())

    def finish(self, content: Manifest) -> Manifest:
        """Writes what is new, and returns a manifest that binds all rows counted here."""
        keys = self._location.keys()
        Pending(self._location, {key: keys.write(key, body) for key, body in self._new.items()}).result()
        last = {name: np.array(x, _NUMBER).tobytes().hex() for name, x in self._last.items() if x}
        return replace(content, full=self._full, last=last)


def _extend(sums: list[int], count: int, rows: np.ndarray, chunk: int) -> None:
    """Continues the checksums of `count` rows over those that follow."""
    rows, start = np.ascontiguousarray(rows), 0
    while start < len(rows):
        stop = min(start + chunk - (count + start) % chunk, len(rows))
        if (count + start) % chunk:
            sums[-1] = zlib.crc32(rows[start:stop].data, sums[-1])
        else:
            sums.append(zlib.crc32(rows[start:stop].data))
        start = stop


class Reader:
    """Reads committed rows, each chunk compared with its checksum when it is first read.

    Args:
        location: of the gallery.
        content: what is committed.
        stores: the arrays.
        before: of an earlier commit in this process; what it has compared is not compared again.
    """

    def __init__(
        self,
        location: Location,
        content: Manifest,
        stores: Mapping[str, ts.TensorStore],
        before: "Reader | None" = None,
    ) -> None:
        self._location, self._content, self._stores = location, content, stores
        self._seen: dict[str, np.ndarray] = {}
        for name, array in content.arrays.items():
            self._seen[name] = np.zeros(-(-row_count(content, name) // array.chunk), bool)
            if before is not None and name in before._seen:
                whole = row_count(before._content, name) // array.chunk
                self._seen[name][:whole] = before._seen[name][:whole]
        self._sums: dict[str, Any] = {}

    def read(self, names: Iterable[str], rows: RowIndex) -> Pending:
        """Starts to read rows that exist of the arrays that exist."""
        names = [name for name in names if name in self._stores]
        reading = {name: self._stores[name][rows].read() for name in names}
        new = {name: x for name in names if (x := self._unseen(name, rows)).size}
        if not new:
            return Pending(self._location, reading)
        for name, chunks in new.items():
            for file in np.unique(chunks // self._per_file(name)).tolist():
                self._start(_kind(name), file)

        def check(found: dict[str, np.ndarray]) -> None:
            for name, chunks in new.items():
                covered = (rows, found[name]) if isinstance(rows, slice) else (slice(0, 0), found[name])
                for start in range(0, len(chunks), _AT_ONCE):
                    self._check(name, chunks[start : start + _AT_ONCE].tolist(), *covered)

        return Pending(self._location, reading, check)

    def _check(self, name: str, chunks: list[int], rows: slice, found: np.ndarray) -> None:
        """Compares chunks with their checksums, those that lie in `rows` as they were found there.

        The others are read whole, from the cache: some of their rows were read just now.
        """
        spans = {chunk: self._span(name, chunk) for chunk in chunks}
        known = {
            c: found[a - rows.start : b - rows.start]
            for c, (a, b) in spans.items()
            if rows.start <= a and b <= rows.stop
        }
        more = {c: self._stores[name][a:b].read() for c, (a, b) in spans.items() if c not in known}
        for chunk in chunks:
            with plain_errors(self._location, name):
                whole = known[chunk] if chunk in known else more[chunk].result()
            self._compare(name, chunk, whole)

    def _unseen(self, name: str, rows: RowIndex) -> np.ndarray:
        """Chunks that rows lie in and that were not compared yet."""
        chunk, seen = self._content.arrays[name].chunk, self._seen[name]
        if isinstance(rows, slice):
            first, stop = rows.start // chunk, -(-rows.stop // chunk)
            return first + np.flatnonzero(~seen[first : stop if rows.start < rows.stop else first])
        touched = rows // chunk
        return np.unique(touched[~seen[touched]])

    def _span(self, name: str, chunk: int) -> tuple[int, int]:
        size = self._content.arrays[name].chunk
        return chunk * size, min((chunk + 1) * size, row_count(self._content, name))

    def _compare(self, name: str, chunk: int, rows: np.ndarray) -> None:
        if zlib.crc32(np.ascontiguousarray(rows).data) == self._wanted(name, chunk):
            self._seen[name][chunk] = True
            return
        array, (start, stop) = self._content.arrays[name], self._span(name, chunk)
        file = "/".join([name, "c", str(start // array.shard), *["0"] * len(array.row)])
        raise GalleryError(
            f"gallery {self._location.name}: {file} is not the file that manifest.json was written with "
            f"(rows {start} to {stop - 1} differ): one of them belongs to another path, gallery or commit; "
            f"{REMEDY}"
        )

    def _per_file(self, name: str) -> int:
        array = self._content.arrays[name]
        return array.shard // array.chunk

    def _start(self, kind: str, file: int) -> Any:
        """Starts to read the checksums of a file that is full; None: they are in the manifest."""
        key = _key(kind, file)
        if file >= len(self._content.full.get(kind, ())):
            return None
        if key not in self._sums:
            while len(self._sums) >= _KEPT:
                self._sums.pop(next(iter(self._sums)), None)
            self._sums[key] = self._location.keys().read(key)
        return self._sums[key]

    def _wanted(self, name: str, chunk: int) -> int:
        """The checksum of a chunk's committed rows."""
        kind, (file, slot) = _kind(name), divmod(chunk, self._per_file(name))
        reading = self._start(kind, file)
        if reading is None:
            return int(np.frombuffer(bytes.fromhex(self._content.last[name]), _NUMBER)[slot])
        key = _key(kind, file)
        with plain_errors(self._location, key):
            body = reading.result().value
        if hashlib.sha256(body).hexdigest() != self._content.full[kind][file]:
            self._sums.pop(key, None)
            raise GalleryError(
                f"gallery {self._location.name}: {key} is damaged, missing or of another commit; {REMEDY}"
            )
        before = [x for x in self._content.arrays if x < name and _kind(x) == kind]
        return int(np.frombuffer(body, _NUMBER)[slot + sum(map(self._per_file, before))])


def _kind(name: str) -> str:
    """Arrays of one kind have rows for the same images, and as many in a file."""
    return "text" if name == TEXT else "rows"


def _key(kind: str, file: int) -> str:
    return f"{FOLDER}/{kind}-{file}"
