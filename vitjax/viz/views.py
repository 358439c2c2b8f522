"""What the report page and the figures show: plain values, filled in by the program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vitjax.viz.plans import Patches, PlanView

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class MatchView:
    """One matched pair of patches.

    Attributes:
        query_box: x0, y0, x1, y1 in the query image, shares of its sides in [0, 1], origin top left.
        candidate_box: the same in the candidate's image.
        similarity: cosine of the two patch tokens, in [-1, 1].
        mass: transported between them, a share of the whole image's mass 1, in [0, 1].
        contribution: what the pair adds to the structural score (similarity times mass).
    """

    query_box: Box
    candidate_box: Box
    similarity: float
    mass: float
    contribution: float


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One gallery image in a query's ranking.

    Attributes:
        image: key in `Report.images`.
        name: file name or id as the user knows it; any text.
        rank_before: rank in the pooled search, from 1; None = not in that ranking.
        rank_after: rank after reranking, from 1; None = not in that ranking.
        pooled: pooled cosine, in [-1, 1].
        structural: structural score; None = this candidate was not reranked.
        score: final score = structural + Report.weight * pooled; None = not reranked.
        relevant: whether it is relevant to the query; None = unknown (no labels), nothing is marked.
        label: its class name, if any.
        matches: pairs to draw, largest contribution first; may be empty.
        plan: every patch's part; None = the page shows the matches only.
        remaining_pairs: number of patch pairs not in `matches`.
        remaining_contribution: what these add; matches + remaining = structural.
        note: one line about this candidate, e.g. that its marginal fell back to uniform.
    """

    image: str
    name: str
    rank_before: int | None
    rank_after: int | None
    pooled: float
    structural: float | None = None
    score: float | None = None
    relevant: bool | None = None
    label: str = ""
    matches: Sequence[MatchView] = ()
    plan: PlanView | None = None
    remaining_pairs: int = 0
    remaining_contribution: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class QueryView:
    """One query and the candidates the page shows for it.

    Attributes:
        image: key in `Report.images`.
        name: file name or id; any text.
        candidates: each gallery image once, any order: the union of the first ranks before and after.
        label: class name, if any.
        words: of a text query, in the cells of its grid; empty = the query is an image.
    """

    image: str
    name: str
    candidates: Sequence[CandidateView]
    label: str = ""
    words: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SkippedView:
    """A file that was left out, and why (one line)."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """All that the page shows.

    Attributes:
        title: heading and window title.
        subtitle: one line: what was compared.
        images: key -> uint8 (h, w, 3) RGB image as the model saw it; each is embedded once.
        queries: in the order of the page.
        patches: key -> token-to-patch assignment; of all images that a plan speaks of.
        ranks: thumbnails in each row: candidates with a rank up to this.
        weight: of the pooled cosine in the final score.
        metrics_before: pooled search, names of `retrieval_metrics` -> share in [0, 1]; empty = no labels.
        metrics_after: reranked, same names.
        intervals: "pooled", "reranked", "difference" -> some of these names -> lower and upper end, at 95 %.
        milliseconds: stage ("extract", "search", "rerank") -> milliseconds per query.
        explained: faithfulness of the explanations, one sentence.
        settings: name -> value, in the order of the page: weights, model, block, grid, epsilon, mass...
        sections: title -> text, name -> value, or rows of a table with its header first; any further fields.
        environment: name -> text: device and versions.
        random_weights: True puts a warning on top: the scores mean nothing.
        notes: further warnings, one line each.
        skipped: files left out.
    """

    title: str
    subtitle: str
    images: Mapping[str, np.ndarray]
    queries: Sequence[QueryView]
    patches: Mapping[str, Patches] = field(default_factory=dict)
    ranks: int = 5
    weight: float = 1.0
    metrics_before: Mapping[str, float] = field(default_factory=dict)
    metrics_after: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    explained: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    sections: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    random_weights: bool = False
    notes: Sequence[str] = ()
    skipped: Sequence[SkippedView] = ()
