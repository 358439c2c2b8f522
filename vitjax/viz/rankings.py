"""Turns rankings and explanations into what the page and the figures show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from vitjax.viz.plans import PlanView
from vitjax.viz.views import CandidateView, MatchView, QueryView


class Shown(NamedTuple):
    """An image on the page: a row of the queries, "q", or of the gallery, "g"."""

    side: Literal["q", "g"]
    row: int

    @property
    def key(self) -> str:
        """Its name in `Report.images`."""
        return f"{self.side}{self.row}"


@dataclass(frozen=True, eq=False)
class NamedRanking:
    """Both orders of one search with names and labels; rows are those of the descriptors.

    Attributes:
        before: gallery rows per query, best first, -1 = padding.
        after: the new order, with its scores (a `vitjax.retrieval.Reranked`).
        query_names: one per query row.
        gallery_names: one per gallery row.
        query_labels: class names; None = no classes.
        gallery_labels: class names; None = no classes.
        relevant: whether a gallery row is relevant to a query; None = unknown.
        weight: of the pooled cosine in the score.
        ranks: shown of each order.
        words: of each query that is a text; empty of one that is an image.
    """

    before: Int[np.ndarray, "q k"]
    after: Any
    query_names: Sequence[str]
    gallery_names: Sequence[str]
    query_labels: Sequence[str] | None
    gallery_labels: Sequence[str] | None
    relevant: Callable[[int, int], bool | None]
    weight: float
    ranks: int
    words: Callable[[int], Sequence[str]] = lambda query: ()

    def shown(self, query: int) -> list[int]:
        """Gallery rows among the first ranks of either order, the new one first."""
        first = [*self.after.index[query, : self.ranks], *self.before[query, : self.ranks]]
        return [int(row) for row in dict.fromkeys(first) if row >= 0]

    def images(self, query: int) -> list[Shown]:
        """The query and the rows shown of it."""
        return [Shown("q", query), *(Shown("g", row) for row in self.shown(query))]

    def first_hit_changed(self, query: int) -> bool:
        """Whether reranking put another image first."""
        return bool(self.before[query, 0] != self.after.index[query, 0])

    def matched(self, query: int) -> list[int]:
        """Of the rows shown, those that were matched patch by patch."""
        rank = self._ranks(query)[1]
        return [row for row in self.shown(query) if np.isfinite(self.after.structural[query, rank[row]])]

    def view(
        self, query: int, explained: Mapping[int, Any], plans: Mapping[int, PlanView], pairs: int
    ) -> QueryView:
        """Returns one query as the page shows it.

        Args:
            query: its row.
            explained: gallery row -> `vitjax.retrieval.Explanation`, for the rows of `matched`.
            plans: gallery row -> the whole plan, of the same or of some of them.
            pairs: number of patch pairs of two images.
        """
        was, now = self._ranks(query)
        candidates = []
        for row in self.shown(query):
            rank, why = now[row], explained.get(row)
            pooled = float(self.after.pooled[query, rank])
            candidates.append(
                CandidateView(
                    image=Shown("g", row).key,
                    name=self.gallery_names[row],
                    rank_before=was[row] + 1,
                    rank_after=rank + 1,
                    pooled=pooled,
                    structural=why.structural if why else None,
                    score=why.structural + self.weight * pooled if why else None,
                    relevant=self.relevant(query, row),
                    label=self.gallery_labels[row] if self.gallery_labels else "",
                    matches=_matches(why) if why else (),
                    plan=plans.get(row),
                    remaining_pairs=pairs - len(why.matches) if why else 0,
                    remaining_contribution=why.remainder if why else 0.0,
                    note=self._note(query, rank),
                )
            )
        label = self.query_labels[query] if self.query_labels else ""
        return QueryView(Shown("q", query).key, self.query_names[query], candidates, label, self.words(query))

    def _note(self, query: int, rank: int) -> str:
        """What the page adds about one candidate; a share of 1 goes without saying."""
        mass = self.after.mass[query, rank]
        lines = [f"{100 * mass:.0f} % of the images matched"] if 0 < mass < 0.995 else []
        return "; ".join(lines + [_FELL_BACK] * bool(self.after.fallback[query, rank]))

    def _ranks(self, query: int) -> tuple[dict[int, int], dict[int, int]]:
        before, after = self.before[query], self.after.index[query]
        return {int(r): i for i, r in enumerate(before)}, {int(r): i for i, r in enumerate(after)}


_FELL_BACK = "the weights of one image's patches were all zero: every patch weighs the same"


def _matches(why: Any) -> list[MatchView]:
    return [
        MatchView(m.query_box, m.candidate_box, m.similarity, m.mass, m.contribution) for m in why.matches
    ]
