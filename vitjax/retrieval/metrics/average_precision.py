"""Average precision as published landmark and instance benchmarks define it, with junk images left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

AREAS = ("trapezoid", "rectangle")


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """One mean average precision of a benchmark: over which images, and by which rule.

    Attributes:
        positives: per query, the gallery rows that are to be found; a query without one is not counted.
        junk: per query, the rows that are taken out of its ranking before it is judged; None = none.
        setup: what the figures are of, the end of their names: "hard", "private"; empty = all.
        area: under the curve of precision over recall. "trapezoid": between the precisions before and after
            each hit, as Oxford and Paris, old and revisited, and INSTRE have it; "rectangle": the precision
            after each hit.
        depth: ranks that count; the sum is then divided by min(positives, depth). 0 = the whole ranking.
        ks: of the mean precision at k.
    """

    positives: Sequence[Int[np.ndarray, " _"]]
    junk: Sequence[Int[np.ndarray, " _"]] | None = None
    setup: str = ""
    area: Literal["trapezoid", "rectangle"] = "rectangle"
    depth: int = 0
    ks: tuple[int, ...] = ()

    def take(self, queries: Int[np.ndarray, " m"]) -> "AveragePrecision":
        """Of some of the queries."""
        junk = None if self.junk is None else [self.junk[i] for i in queries]
        return replace(self, positives=[self.positives[i] for i in queries], junk=junk)

    def per_query(self, index: Int[np.ndarray, "q k"]) -> dict[str, Float[np.ndarray, " q"]]:
        """Figures of each query by name; NaN where a query is not counted.

        Source: Radenovic et al., CVPR 2018 (revisited Oxford and Paris), as their evaluation computes them.
        With r_j the rank, from 0 and without junk, of the j-th hit (from 0) and R positives:

        - map, trapezoid: sum over hits of (j / r_j + (j + 1) / (r_j + 1)) / (2 R), 0 / 0 being 1;
        - map, rectangle: sum over hits of (j + 1) / (r_j + 1) / R;
        - mp_at_k: hits among the first k' / k', k' the smaller of k and the rank, from 1, of the last hit.

        Positives that the ranking does not hold add nothing; where it holds none, mp_at_k is 0.

        Args:
            index: rows of the gallery per query, best first, -1 = padding.

        Returns:
            map, or map_at_DEPTH, and mp_at_k, each followed by the setup.
        """
        end = f"_{self.setup}" if self.setup else ""
        name = (f"map_at_{self.depth}" if self.depth else "map") + end
        found = {key: np.full(len(index), np.nan) for key in (name, *(f"mp_at_{k}{end}" for k in self.ks))}
        for q, row in enumerate(np.asarray(index)):
            positives = np.unique(np.asarray(self.positives[q], np.int64))
            if not len(positives):
                continue
            ranks = np.flatnonzero(np.isin(row, positives))
            if self.junk is not None:
                ranks = ranks - np.searchsorted(np.flatnonzero(np.isin(row, self.junk[q])), ranks)
            found[name][q] = self._area(ranks, len(positives))
            for k in self.ks:
                last = min(k, ranks[-1] + 1) if len(ranks) else 1
                found[f"mp_at_{k}{end}"][q] = (ranks < last).sum() / last
        return found

    def _area(self, ranks: Int[np.ndarray, " hits"], count: int) -> float:
        """Average precision of hits at these ranks, from 0."""
        if self.depth:
            ranks, count = ranks[ranks < self.depth], min(count, self.depth)
        hit = np.arange(len(ranks))
        after = (hit + 1) / (ranks + 1)
        if self.area == "rectangle":
            return float(after.sum() / count)
        before = np.where(ranks == 0, 1.0, hit / np.maximum(ranks, 1))
        return float((before + after).sum() / (2 * count))


def average_precisions(
    index: Int[np.ndarray, "q k"], rules: Sequence[AveragePrecision], *, per_query: bool = False
) -> dict[str, Any]:
    """Figures of all rules by name.

    Args:
        index: rows of the gallery per query, best first, -1 = padding.
        rules: of the benchmark.
        per_query: (q,) values instead of means; NaN for queries that are not counted.
    """
    values = {name: each for rule in rules for name, each in rule.per_query(index).items()}
    if per_query:
        return values
    return {
        name: float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")
        for name, each in values.items()
    }
