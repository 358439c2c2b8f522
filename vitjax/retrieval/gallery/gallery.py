"""Descriptors of any number of images on a disk or in an object store, never all of them in memory."""

import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vitjax import sharding
from vitjax.config import INDEX_DTYPES
from vitjax.errors import UserError
from vitjax.retrieval.candidate_blocks import CandidateBlock, read_blocks
from vitjax.retrieval.descriptors import Descriptors, Sizes
from vitjax.retrieval.first_stage.streaming import RowReader, search_stream
from vitjax.retrieval.gallery import arrays, checksums, codecs, image_ids, manifest, quantize, writer_lock
from vitjax.retrieval.gallery.codecs import CODECS, Codec
from vitjax.retrieval.gallery.image_ids import ENDS, NUMBERS, TEXT, PackedIds, RowIndex
from vitjax.retrieval.gallery.manifest import Manifest
from vitjax.retrieval.gallery.quantize import MATCHED, POOLED_DTYPES, ROW_ARRAYS, Stored
from vitjax.retrieval.gallery.storage import GalleryError, Location, Pending, locate, read_whole, write_whole
from vitjax.retrieval.measured import Measured

MEASURED = "measured.npz"
_IDS_AT_ONCE = 2**16
_LEFTOVERS = {
    writer_lock.FILE,
    codecs.FILE,
    MEASURED,
    *(f"{x}.__lock" for x in (manifest.FILE, manifest.COMMITTED)),
}  # of a killed create


class Gallery:
    """Descriptors that stay where they are stored, with an id for each image.

    `Gallery.create(path)` makes one, `Gallery.open(path)` opens one without reading it; `path` is a folder,
    gs://bucket/folder or s3://bucket/folder. An `add` that has returned is safe: whatever happens later, a
    kill in the middle of the next `add` included, the gallery opens with the rows it had. Every piece
    that is read is checked, and one that is damaged, missing, exchanged, of another gallery or of another
    commit is an error that names it, never data (see `sums`; a process compares each piece once).

    What is read is rounded as stored: tokens to float16, int8 or codes, pooled vectors to `pooled_dtype`.
    """

    def __init__(
        self,
        location: Location,
        content: Manifest,
        version: bytes,
        stores: Mapping[str, Any],
        codec: Codec | None = None,
    ) -> None:
        self._location, self._content, self._version = location, content, version
        self.codec = codec
        self._stores = dict(stores)
        self._reader = checksums.Reader(location, content, stores)
        self._release: weakref.finalize | None = None
        self._seen: image_ids.SeenIds | None = None  # until the first `add`

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str = "float16",
        pooled_dtype: str = "float32",
        recipe: Mapping[str, Any] | None = None,
        codec: Codec | None = None,
        measured: Measured | None = None,
    ) -> "Gallery":
        """Makes an empty gallery; the first `add` decides how long vectors are and what ids are.

        Args:
            path: a folder that is new or empty, or a place in an object store.
            dtype: of the tokens: float16; int8 with one scale per token, half the size; or a name of
                `vitjax.retrieval.gallery.codecs.CODECS`, a few bytes each.
            pooled_dtype: of the pooled vectors: float32, float16, or int8.
            recipe: what makes the descriptors, plain data (the model, a hash of its weights, ...): kept, and
                compared by `open`.
            codec: what `CODECS[dtype]` learned, where `dtype` is a name of that.
            measured: centre, subspace and price that the descriptors are made with, kept for queries.

        Raises:
            GalleryError: something lies there already, or nothing can be written there.
        """
        location = locate(path)
        for name, value, known in (
            ("dtype", dtype, tuple(dict.fromkeys((*INDEX_DTYPES, *CODECS)))),
            ("pooled_dtype", pooled_dtype, POOLED_DTYPES),
        ):
            if value not in known:
                raise UserError(f"Gallery.create: {name} is {value!r}; it must be one of {', '.join(known)}")
        if (dtype in CODECS) != (codec is not None):
            raise UserError(
                f"Gallery.create: dtype is {dtype!r}; give a codec where it is a name of CODECS "
                f"({', '.join(CODECS)}, in vitjax.retrieval.gallery.codecs), and only there"
            )
        content = Manifest(dtype, pooled_dtype, manifest.check_recipe(recipe or {}))
        _check_free(location)
        release = writer_lock.acquire(location)
        try:
            if codec is not None:
                content = replace(content, needs=("codec",), codec=codecs.write(location, codec))
            if measured is not None:
                content = replace(content, measured=write_whole(location, MEASURED, measured.to_bytes()))
            gallery = cls(location, content, manifest.write(location, content, replaces=None), {}, codec)
        except BaseException:
            release()
            raise
        gallery._hold(release)
        return gallery

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, recipe: Mapping[str, Any] | None = None) -> "Gallery":
        """Opens a gallery as it was last committed, for reading and for adding.

        Args:
            path: as for `create`.
            recipe: if given, what the descriptors must have been made with.

        Raises:
            GalleryError: nothing there, damage, or another recipe; the text names what differs.
        """
        location = locate(path)
        content, version = manifest.read(location)
        if recipe is not None:
            manifest.check_same(f"gallery {location.name}", content.recipe, manifest.check_recipe(recipe))
        codec = codecs.read(location, content.codec) if content.codec else None
        return cls(location, content, version, arrays.open_all(location, content), codec)

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Tells whether a gallery lies there, whole or not."""
        return manifest.is_there(locate(path))

    def __len__(self) -> int:
        return self._content.rows

    def __repr__(self) -> str:
        return f"Gallery({self._location.name!r}, {self.sizes}, dtype={self.dtype!r})"

    @property
    def path(self) -> str:
        """Where it lies, as given."""
        return self._location.name

    @property
    def dtype(self) -> str:
        """Type of the stored tokens."""
        return self._content.dtype

    @property
    def in_memory(self) -> bool:
        """False: rows are read where they are needed."""
        return False

    @property
    def recipe(self) -> dict[str, Any]:
        """What made the descriptors, as given to `create`."""
        return dict(self._content.recipe)

    @functools.cached_property
    def measured(self) -> Measured | None:
        """Centre, subspace and price that its descriptors were made with; None: it keeps none."""
        digest = self._content.measured
        return Measured.from_bytes(read_whole(self._location, MEASURED, digest)) if digest else None

    @property
    def content(self) -> str:
        """Hash of all rows and ids: what is derived from a gallery is kept under it, not under its path."""
        return manifest.content(self._content)

    @property
    def reached(self) -> int:
        """How far into its source the build has come, see `add`."""
        return self._content.reached

    @property
    def sizes(self) -> Sizes:
        """Number of images, and the lengths that queries must share; zeros before the first `add`."""
        layouts = self._content.arrays
        if not layouts:
            return Sizes(0, 0, 0, 0)
        count, length = layouts["tokens"].row
        length = length if self.codec is None else self.codec.length
        return Sizes(len(self), layouts["pooled"].row[0], count, length)

    def add(
        self,
        descriptors: Descriptors,
        ids: Sequence[Any] | np.ndarray | None = None,
        *,
        reached: int | None = None,
    ) -> None:
        """Appends images; once this returns they are stored and stay, if it fails none of them is.

        Each call ends with a commit and may rewrite one partly filled file, so add thousands at a time. The
        first one after `open` reads all ids that are there, of which 8 bytes each are kept.

        Args:
            descriptors: of images, on the host or on a device; lengths as in the gallery.
            ids: a text or a whole number for each, which no other image of the gallery has; None: their
                row numbers. One kind for the whole gallery.
            reached: how many images of its source a build has gone through after this, those that could not
                be read included; kept for the same build to resume from. None: the number of rows.

        Raises:
            ValueError: values that are not finite, vectors that are not normalised, lengths or kind of ids
                that do not fit, ids that come again.
            GalleryError: another program writes to the gallery, or no space is left.
        """
        found: Descriptors = sharding.fetch(descriptors)
        quantize.check(found)
        if reached is not None and reached < 0:
            raise UserError(f"Gallery.add: reached is {reached}; it must be 0 or more")
        packed, old, rows = image_ids.pack(ids, len(found)), self._content, len(self) + len(found)
        new = replace(old, rows=rows, reached=rows if reached is None else reached)
        if len(found):
            if old.arrays:
                self._check_fits(found, packed.kind)
            else:
                one = quantize.encode(found.take(slice(0, 1)), old.dtype, old.pooled_dtype, self.codec)
                layouts = arrays.layout(one, packed.kind)
                new = replace(new, arrays=layouts, ids=packed.kind)
            new = replace(new, text=old.text + len(packed.text))
        self._check_new(packed.given)
        self.claim()
        stores = self._stores if old.arrays else arrays.create(self._location, new)
        if len(found):
            stores = arrays.resized(self._location, stores, new)
            new = self._write(stores, new, found, packed)
        self._version = manifest.write(self._location, new, replaces=self._version)
        self._reader = checksums.Reader(self._location, new, stores, before=self._reader)
        self._content, self._stores = new, stores
        if self._seen is not None:
            self._seen.extend(packed.given)

    def _write(
        self, stores: dict[str, Any], new: Manifest, found: Descriptors, packed: PackedIds
    ) -> Manifest:
        """Writes file by file; the next one is rounded while the one before is written."""
        first, text, shard = len(self), self._content.text, new.arrays["tokens"].shard
        counted = checksums.Writer(self._location, new)
        if packed.kind == "str":
            arrays.append(self._location, stores, text, {TEXT: packed.text}).result()
            counted.append(text, {TEXT: packed.text})
        before: Pending | None = None
        for start in range(first - first % shard, new.rows, shard):
            piece = slice(max(start - first, 0), min(start + shard, new.rows) - first)
            part = quantize.encode(found.take(piece), new.dtype, new.pooled_dtype, self.codec)
            parts = {
                quantize.stored_name(name): x for name in ROW_ARRAYS if (x := getattr(part, name)) is not None
            }
            parts |= {NUMBERS: packed.numbers[piece]} if packed.kind == "int" else {}
            parts |= {ENDS: text + packed.ends[piece]} if packed.kind == "str" else {}
            now = arrays.append(self._location, stores, first + piece.start, parts)
            counted.append(first + piece.start, parts)
            if before is not None:
                try:
                    before.result()
                except GalleryError:
                    now.wait()  # nothing is written any more once a failure is told
                    raise
            before = now
        if before is not None:
            before.result()
        return counted.finish(new)

    def claim(self) -> None:
        """Makes this object the one writer until `close`, or until its process ends; `add` does so itself.

        Raises:
            GalleryError: there is another writer, or one has added since this was opened.
        """
        if self._release is not None:
            return
        release = writer_lock.acquire(self._location)
        try:
            now, version = manifest.read(self._location)
            if version != self._version:
                raise GalleryError(
                    f"gallery {self.path}: it has {now.rows} rows by now, {len(self)} when it was opened; "
                    "open it again"
                )
        except BaseException:
            release()
            raise
        self._hold(release)

    def close(self) -> None:
        """Lets others write; reading still works."""
        if self._release is not None:
            self._release()
            self._release = None

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, rows: Any) -> Descriptors:
        """Reads the descriptors at some rows into memory: a slice, or whole numbers from 0."""
        return quantize.decode(self._stored(ROW_ARRAYS, rows)(), self.codec)

    def read(self, rows: Any) -> Callable[[], Stored]:
        """Starts to read rows as they are stored, all but `owner`, and returns what waits for them."""
        return self._stored(MATCHED, rows)

    def _stored(self, names: Sequence[str], rows: Any) -> Callable[[], Stored]:
        fields = {quantize.stored_name(name): name for name in names}
        reading = self._reader.read(list(fields), self._checked(rows))

        def wait() -> Stored:
            found = {fields[name]: x for name, x in reading.result().items()}
            return Stored(**dict.fromkeys(ROW_ARRAYS) | found)

        return wait

    def read_pooled(self, rows: Any) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """Starts to read pooled vectors (n, d), and which rows have a valid token (n,)."""
        reading = self._reader.read(("pooled", "valid"), self._checked(rows))

        def wait() -> tuple[np.ndarray, np.ndarray]:
            found = reading.result()
            pooled = found["pooled"]
            pooled = quantize.decode_pooled(pooled) if pooled.dtype == np.int8 else pooled
            return pooled, found["valid"].any(axis=1)

        return wait

    def on_devices(self, mesh: Mesh) -> "Gallery":
        """The gallery: candidates come to the devices as they are read."""
        return self

    def candidate_blocks(
        self, blocks: Int[np.ndarray, "p b k"], mesh: Mesh | None
    ) -> Iterator[CandidateBlock]:
        """Yields blocks of candidates as they are stored; the next one is read ahead."""
        return read_blocks(self.read, blocks, mesh, self.codec)

    def search(
        self,
        queries: Descriptors | Float[Array | np.ndarray, "q d"],
        k: int,
        *,
        exclude: Int[Array | np.ndarray, "q ..."] | None = None,
        mesh: Mesh | None = None,
    ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
        """The k images with the largest inner product of pooled vectors, as `vitjax.retrieval.search` has it.

        Exact, ties in row order. Rows are read while the device computes, each once for some hundred
        thousand queries, and memory does not grow with the gallery, see `streaming.search_stream`.

        Args:
            queries: rows of length d, or descriptors.
            k: images wanted.
            exclude: rows to leave out, one or several per query; -1 stands for none.
            mesh: each device, and so each process, reads its share; None: one device.

        Returns:
            scores (-inf where padded), largest first, and rows (-1 where padded); `ids` names them.
        """
        stored = self._content.pooled_dtype
        dtype = np.dtype("float32" if stored == "int8" else stored)
        reader = RowReader(self.read_pooled, len(self), self.sizes.pooled, dtype)
        return search_stream(queries, reader, k, exclude=exclude, mesh=mesh)

    def ids(self, rows: Any = None) -> list[Any]:
        """Ids of some rows, in their order; None: of all. A row of -1, the padding of `search`, has None.

        Rows (q, k), as `search` gives them, have a list for each query.
        """

        def read(name: str, rows: RowIndex) -> np.ndarray:
            return self._reader.read((name,), rows).result()[name]

        if not len(self) and rows is None:
            return []
        if rows is None or isinstance(rows, slice):
            return image_ids.unpack(self._content.ids, read, self._checked(rows or slice(None)))
        rows = np.asarray(rows)
        if rows.ndim == 2:
            flat = iter(self.ids(rows.ravel()))
            return [list(itertools.islice(flat, rows.shape[1])) for _ in rows]
        real = rows != -1
        found = iter(image_ids.unpack(self._content.ids, read, self._checked(rows[real])))
        return [next(found) if there else None for there in real]

    def _checked(self, rows: Any) -> RowIndex:
        """A plain slice, or row numbers that exist."""
        if not len(self):
            raise GalleryError(f"gallery {self.path} is empty; add images first")
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return slice(start, max(start, stop))
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows)
        rows = rows if rows.size else rows.astype(np.int64)  # an empty list is of no type yet
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise UserError(f"gallery {self.path}: rows are {rows.dtype} {rows.shape}; give integers (n,)")
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise UserError(
                f"gallery {self.path}: there are {len(self)} rows; asked for {rows.min()} to {rows.max()}"
            )
        return rows

    def _check_fits(self, found: Descriptors, kind: str) -> None:
        ours, theirs = self.sizes[1:], found.sizes[1:]
        if ours != theirs:
            raise UserError(
                f"gallery {self.path}: (pooled length, tokens, token length) are {ours} there and {theirs} "
                "here; describe with the same model, block and grid, and pad tokens with valid=False"
            )
        if (found.positions is not None) != (quantize.stored_name("positions") in self._content.arrays):
            raise UserError(
                f"gallery {self.path}: all its images say on which patches their tokens lie, or none"
            )
        layout, owner = self._content.arrays.get("owner"), None if self.codec else found.owner
        if (layout and layout.row) != (None if owner is None else owner.shape[1:]):
            raise UserError(
                f"gallery {self.path}: all its images say which token stands for each patch, or none, and of "
                "equally many patches"
            )
        if kind != self._content.ids:
            kinds = {"none": "row numbers", "int": "whole numbers", "str": "texts"}
            raise UserError(
                f"gallery {self.path}: its ids are {kinds[self._content.ids]}, those added {kinds[kind]}; "
                "a gallery has one kind"
            )

    def _check_new(self, ids: Sequence[int | str]) -> None:
        """Refuses ids that the gallery has: it would not be known which image is meant."""
        if not ids:
            return
        if self._seen is None:
            self._seen = image_ids.SeenIds(self._all_ids)
        if there := self._seen.repeated(ids):
            raise UserError(
                f"gallery {self.path}: {image_ids.listed(there)} in it already; leave these images out, or "
                "give them other ids"
            )

    def _all_ids(self) -> Iterator[list[Any]]:
        for start in range(0, len(self), _IDS_AT_ONCE):
            yield self.ids(slice(start, start + _IDS_AT_ONCE))

    def _hold(self, release: Callable[[], None]) -> None:
        self._release = weakref.finalize(self, release)


def _check_free(location: Location) -> None:
    """Refuses a location that is not empty: arrays would be put among other files."""
    there = set(location.listing())
    if manifest.FILE in there:
        raise GalleryError(f"gallery {location.name}: there is one already; open it, or choose another path")
    if there - _LEFTOVERS:
        raise GalleryError(
            f"gallery {location.name}: {min(there - _LEFTOVERS)!r} lies there; choose a new or empty folder"
        )
