"""A pair's whole transport plan, small enough for a page: every patch's totals, and the strongest entries.

Totals are stored as 16-bit whole numbers, in units of a 65,535th (signed: a 32,767th) of the largest of their
kind, so each is off by at most half such a unit. Entries take three bytes: the gap to the last column, the
square root of the mass in 255ths of the row's largest (so off by at most .4 % of that), and what a unit of
mass adds, in 127ths of the largest. Entries that are left out are still in the totals.
"""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

_WORDS = 2**16
_FAR = 255


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Token-to-patch assignment of an image.

    Attributes:
        owner: (h, w), which token stands for each cell of the grid, -1 = none.
        dropped: (h', w'), True where the model dropped the patch; a finer grid than `owner`'s, or the same.
    """

    owner: Int[np.ndarray, "h w"]
    dropped: Bool[np.ndarray, "rows columns"]

    @classmethod
    def of_words(cls, count: int, grid: tuple[int, int]) -> "Patches":
        """A text's words in the first cells of a grid; nothing is in the others."""
        own = np.arange(grid[0] * grid[1]).reshape(grid)
        return cls(np.where(own < count, own, -1), np.zeros(grid, bool))

    def encode(self) -> dict[str, Any]:
        """Returns plain data for the page; None stands for "each cell for itself" and "none is"."""
        plain = np.array_equal(self.owner.ravel(), np.arange(self.owner.size))
        return {
            "grid": list(self.owner.shape),
            "owner": None if plain else _packed(self.owner.ravel() + 1),
            "fine": list(self.dropped.shape),
            "dropped": _packed(np.flatnonzero(self.dropped)) if self.dropped.any() else None,
        }


def patches_of(images: Any, row: int, grid: tuple[int, int], native: tuple[int, int]) -> Patches:
    """Token-to-patch assignment of one image, from its descriptors.

    Args:
        images: `vitjax.retrieval.Descriptors`, on the host.
        row: of them.
        grid: (h, w) of the tokens that were kept.
        native: (h, w) of the model's own patches.
    """
    cells = grid[0] * grid[1]
    valid = np.asarray(images.valid[row], bool)
    seen = None if images.owner is None else np.asarray(images.owner[row])
    if images.positions is None:
        own = np.where(valid, np.arange(cells), -1)
    elif seen is not None:
        own = seen
        if seen.size != native[0] * native[1]:  # of tokens aggregated on the coarser grid
            seen = None
    else:
        own = np.full(cells, -1)
        positions = np.asarray(images.positions[row])
        placed = valid & (positions >= 0)
        own[positions[placed]] = np.flatnonzero(placed)
    own = own.reshape(grid)
    return Patches(own, own < 0 if seen is None else seen.reshape(native) < 0)


@dataclass(frozen=True, slots=True, eq=False)
class PlanView:
    """One pair's plan, as the page shows it.

    Attributes:
        weights: what each token weighs, of the query (n,) and of the candidate (m,); each sums to 1.
        mass: what each token moves, likewise.
        adds: what that adds to the structural score, likewise.
        rows: (e,), tokens of the query, not falling: the entries that are kept one by one.
        columns: (e,), the candidate's tokens.
        entry_mass: (e,), mass between the two.
        entry_adds: (e,), what it adds.
        unmatched: what unmatched mass adds to the score; 0 without a price.
    """

    weights: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]
    mass: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]
    adds: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]
    rows: Int[np.ndarray, " e"]
    columns: Int[np.ndarray, " e"]
    entry_mass: Float[np.ndarray, " e"]
    entry_adds: Float[np.ndarray, " e"]
    unmatched: float = 0.0

    @property
    def structural(self) -> float:
        """The score that the parts make."""
        return float(self.adds[0].sum(dtype=np.float64)) + self.unmatched

    @property
    def kept(self) -> float:
        """Share of the moved mass that the entries hold, in [0, 1]."""
        total = self.mass[0].sum(dtype=np.float64)
        return float(self.entry_mass.sum(dtype=np.float64) / total) if total > 0 else 1.0

    def encode(self) -> dict[str, Any]:
        """Returns plain data for the page: units as numbers, everything else as base64."""
        unit = max(float(x.max(initial=0.0)) for x in (*self.mass, *self.weights)) / (_WORDS - 1) or 1.0
        gain = max(float(np.abs(x).max(initial=0.0)) for x in self.adds) / (_WORDS // 2 - 1) or 1.0
        flat = [_only(x) for x in self.weights]
        words = [np.rint(w / unit) for w, one in zip(self.weights, flat, strict=True) if one is None]
        for mass, adds in zip(self.mass, self.adds, strict=True):
            words += [np.rint(mass / unit), np.rint(adds / gain)]
        largest = np.zeros(len(self.mass[0]))
        np.maximum.at(largest, self.rows, self.entry_mass)
        largest = np.ceil(largest / unit)
        gaps, entry = _gaps(self.rows, self.columns)
        counts = np.bincount(self.rows[entry], minlength=len(largest))
        roots = np.rint(255 * np.sqrt(self.entry_mass / np.maximum(largest[self.rows] * unit, 1e-30)))
        gains = self.entry_adds / np.maximum(self.entry_mass, 1e-30)
        step = float(np.abs(gains).max(initial=0.0)) / 127 or 1.0
        real = gaps < _FAR
        entries = np.stack(
            [gaps, np.where(real, roots[entry], 0), np.where(real, np.rint(gains / step)[entry], 0)]
        )
        return {
            "size": [len(x) for x in self.mass],
            "unit": unit,
            "gain": gain,
            "step": step,
            "weights": flat,
            "out": self.unmatched,
            "words": _packed(np.concatenate([*words, counts, largest])),
            "entries": _packed(entries.ravel(), "u1"),
        }


def sparse_plan(plan: Any, *, entries: int, strongest: int = 0) -> PlanView:
    """Keeps of a plan what a reader who points at a patch looks for.

    First come the entries that add most, then those that are the largest share of what either of their tokens
    moves, so that no patch is left without its own. Entries below a five-hundredth of either are not kept.

    Args:
        plan: a `vitjax.retrieval.PairPlan`.
        entries: kept at most.
        strongest: how many of those that add most are kept whatever they share.
    """
    mass, adds = np.asarray(plan.mass, np.float32), np.asarray(plan.contribution, np.float32)
    sent, received = mass.sum(axis=1), mass.sum(axis=0)
    share = np.maximum(mass / np.maximum(sent, 1e-30)[:, None], mass / np.maximum(received, 1e-30)[None, :])
    most = np.argsort(-adds, axis=None, kind="stable")[:strongest]
    share.ravel()[most] = np.inf
    share[mass <= 0] = 0
    count = min(entries, int(np.count_nonzero(share >= _THIN)))
    best = np.sort(np.argpartition(-share, count - 1, axis=None)[:count]) if count else np.zeros(0, int)
    rows, columns = np.divmod(best, mass.shape[1])
    return PlanView(
        weights=(np.asarray(plan.query_weights), np.asarray(plan.candidate_weights)),
        mass=(sent, received),
        adds=(adds.sum(axis=1), adds.sum(axis=0)),
        rows=rows,
        columns=columns,
        entry_mass=mass[rows, columns],
        entry_adds=adds[rows, columns],
        unmatched=float(plan.unmatched),
    )


def entries_within(size: int, tokens: tuple[int, int], pairs: int) -> int:
    """How many entries each plan may keep, if the plans of a page are to be `size` bytes together.

    Args:
        size: in bytes of base64 text.
        tokens: of a query and of a candidate.
        pairs: number of plans.
    """
    left = size / max(pairs, 1) * 3 / 4 - 4 * sum(tokens) - 4 * tokens[0]
    return int(np.clip(left / 3, _FEWEST * max(tokens), _MOST * max(tokens)))


_FEWEST, _MOST = 2, 32  # entries for each token
_THIN = 1 / 500  # share of what a token moves, below which an entry is left out


def _only(values: Float[np.ndarray, " n"]) -> float | None:
    """The one value above zero, where there is no other; tokens that weigh nothing move nothing."""
    positive = values[values > 0]
    if not len(positive) or len(positive) < len(values) or np.ptp(positive) > 1e-6 * positive.max():
        return None
    return float(positive[0])


def _gaps(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns as bytes: those skipped since the last entry of the row, `_FAR` to skip so many and read on.

    Returns:
        the bytes, and the entry that each belongs to.
    """
    first = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
    skipped = columns - np.where(first, -1, np.roll(columns, 1)) - 1
    times = skipped // _FAR + 1
    gaps = np.full(times.sum(), _FAR)
    gaps[np.cumsum(times) - 1] = skipped % _FAR
    return gaps, np.repeat(np.arange(len(rows)), times)


def _packed(numbers: np.ndarray, kind: str = "<u2") -> str:
    """Base64 of little-endian words, or of bytes; negative numbers as two's complement."""
    size = 256 ** np.dtype(kind).itemsize
    return base64.b64encode((numbers.astype(np.int64) % size).astype(kind).tobytes()).decode("ascii")
