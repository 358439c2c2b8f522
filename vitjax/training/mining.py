"""Hard-negative mining for place recognition, repeated at intervals with the current model."""

import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Int32

from vitjax import sharding
from vitjax.data.sources.geo import Places
from vitjax.errors import UserError
from vitjax.system.files import replacing
from vitjax.training.output import SILENT, Output

NEAR, FAR = 10.0, 25.0  # metres: at most so far is the same place, farther another; in between is neither
BLOCK = 256  # queries that are compared with the pool at once
Embed = Callable[[Int[np.ndarray, " n"]], tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]] | None]


@dataclass
class Mining:
    """Rows of the steps to come, chosen anew now and then with the model as it is then.

    A batch is groups of a query, a photo of its place and its hardest negatives: the photos of other places
    most like it among some that are drawn. All of it is a function of (seed, step, model), and the choice
    lies in a file, so a run that resumes in between sees what it would have seen. The file says what it was
    chosen from, and is not taken for other images, cities, positions or settings.

    Attributes:
        photos: queries and the others.
        batch_size: rows over all processes, a multiple of 2 + `negatives`.
        negatives: photos of other places beside each query.
        every: steps from one choice to the next.
        pool: photos among which the hardest are looked for.
        seed: of what is drawn.
        folder: where choices are kept.
        writes: whether this process is the one that does.
        output: is told of choices of an earlier run that do not fit.
    """

    photos: Places
    batch_size: int
    negatives: int
    every: int
    pool: int
    seed: int
    folder: pathlib.Path
    writes: bool = True
    output: Output = SILENT
    _base: int = -1
    _table: Int32[np.ndarray, "steps b"] = field(default_factory=lambda: np.zeros((0, 0), np.int32))

    @property
    def group(self) -> int:
        """Photos that belong together."""
        return 2 + self.negatives

    @property
    def rows_per_epoch(self) -> int:
        """Rows that show as many queries as there are."""
        return self.photos.queries * self.group

    def end(self, step: int) -> int:
        """The step before which rows are chosen anew, next after this one."""
        return (step // self.every + 1) * self.every

    def index(self, step: int) -> Int32[np.ndarray, " b"]:
        """Positions in the source of all rows of a step, after its `renew`."""
        return self._table[step - self._base]

    def renew(self, step: int, embed: Embed) -> None:
        """Chooses rows, where that is due at this step; called before every step.

        Args:
            step: about to be done.
            embed: from positions in the source to embeddings of length 1, with the positions they are of:
                photos that cannot be read are missing. None: the run is to stop, nothing is chosen.
        """
        base = step // self.every * self.every
        if base == self._base:
            return
        path = self.folder / f"{base}.npz"
        table = self._kept(path) if step > base else None  # the run resumes in between
        if table is not None:
            self._table = table
        else:
            table = self._choose(base, embed)
            if table is None:
                return
            self._table = table
            if self.writes:
                self.folder.mkdir(parents=True, exist_ok=True)
                with replacing(path, "wb") as file:
                    np.savez(file, rows=self._table, made_of=np.array(self._made_of))
        self._base = base

    def instead(self, i: int) -> int:
        """The photo that takes a bad one's place: the nearest of its side in the same city."""
        same = np.flatnonzero(
            (self.photos.cities == self.photos.cities[i])
            & ((np.arange(len(self.photos)) < self.photos.queries) == (i < self.photos.queries))
        )
        same = same[same != i]
        if not len(same):
            return i
        gap = np.linalg.norm(self.photos.places[same] - self.photos.places[i][None], axis=1)
        return int(same[gap.argmin()])

    @cached_property
    def _made_of(self) -> str:
        """Hash of what a choice depends on beside the model; rows stand for images by their order."""
        photos = self.photos
        settings = (self.batch_size, self.negatives, self.every, self.pool, self.seed, NEAR, FAR)
        named = repr((settings, photos.queries, photos.class_names, photos.names))
        whole = hashlib.sha256(named.encode(errors="surrogatepass"))
        whole.update(np.asarray(photos.cities, np.int64).tobytes())
        whole.update(np.asarray(photos.places, np.float64).tobytes())
        return whole.hexdigest()

    def _kept(self, path: pathlib.Path) -> Int32[np.ndarray, "steps b"] | None:
        """What was chosen; None where nothing was, or for something else, which the writing process decides.

        Raises:
            UserError: this process does not find what that one does.
        """
        table = self._read(path) if self.writes else None
        if not sharding.from_main(int(table is not None)):
            return None
        table = self._read(path) if table is None else table
        if table is None:
            raise UserError(f"{path} is not there for every process: give all of them the same --workdir")
        return table

    def _read(self, path: pathlib.Path) -> Int32[np.ndarray, "steps b"] | None:
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                if str(found["made_of"]) == self._made_of:
                    return found["rows"]
            why = "was mined for other images or other batches"
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
            why = "cannot be read"
        self.output.say(f"{path} {why}: hard negatives are mined anew")
        return None

    def _choose(self, base: int, embed: Embed) -> Int32[np.ndarray, "steps b"] | None:
        draw = np.random.default_rng([self.seed, base, self.negatives])
        wanted = self.every * (self.batch_size // self.group)
        pairs = self._pairs(draw, wanted)
        gallery = np.arange(self.photos.queries, len(self.photos))
        pool = draw.choice(gallery, min(self.pool, len(gallery)), replace=False)
        embedded = embed(np.unique(np.concatenate([pairs[:, 0], pool])))
        if embedded is None:
            return None
        vectors, rows = embedded
        row_of = {int(row): k for k, row in enumerate(rows)}
        pool = np.array([i for i in pool if int(i) in row_of])
        pairs = pairs[[int(query) in row_of for query in pairs[:, 0]]]
        if not len(pairs) or len(pool) < self.negatives:
            raise UserError("mining: too few photos can be read; see the names of bad ones above.")
        candidates = vectors[[row_of[int(i)] for i in pool]]
        found = []
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK].tolist()
            likes = vectors[[row_of[query] for query, _ in block]] @ candidates.T
            for (query, positive), like in zip(block, likes, strict=True):
                found.append([query, positive, *pool[self._hardest(query, pool, like)]])
        return np.resize(np.array(found, np.int32), (self.every, self.batch_size))

    def _hardest(
        self, query: int, pool: Int[np.ndarray, " n"], like: Float[np.ndarray, " n"]
    ) -> Int[np.ndarray, " k"]:
        """Positions in the pool of a query's hardest negatives."""
        like[self.photos.within(query, pool, FAR)] = -np.inf
        hardest = np.argsort(-like, kind="stable")[: self.negatives]
        if not np.isfinite(like[hardest]).all():
            raise UserError(
                f"mining: fewer than {self.negatives} of {len(pool)} photos are farther than {FAR:.0f} m "
                f"from {self.photos.names[query]!r}; draw a larger pool or mine fewer negatives.",
                fields=("distill.pool", "distill.negatives"),
            )
        return hardest

    def _pairs(self, draw: np.random.Generator, wanted: int) -> Int[np.ndarray, "m 2"]:
        """Queries that have a photo of the same place, each with one of these; fewer where too few do."""
        found = []
        for query in draw.permutation(self.photos.queries).tolist():
            near = self.photos.near(query, NEAR)
            if len(near):
                found.append((query, draw.choice(near)))
            if len(found) == wanted:
                break
        if not found:
            raise UserError(f"mining: no query has another photo within {NEAR:.0f} m of its place.")
        return np.array(found)
