"""SearchRun and Ranking: the settings of a search, and both orders of its candidates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from vitjax.cli.console import bar, count_of
from vitjax.cli.run_files import Stopwatch
from vitjax.config import EvalConfig, RerankConfig
from vitjax.evaluation.described_images import DescribedImages
from vitjax.reranker import Reranker
from vitjax.retrieval import Reranked, Shortlist, plan_sharpness, refine, rerank
from vitjax.retrieval.first_stage.grouped import search_descriptors
from vitjax.retrieval.metrics.relevance import Truth, judge

RANKED_TO_THE_END = 2000  # galleries of up to so many images; of larger ones the first candidates are ranked
QUERIES_AT_A_TIME = 64  # reranked between two moves of the progress bar

# A field of the report page: (ranking, results) -> text, name -> value, or rows; None = not shown.
PageField = Callable[["Ranking", dict[str, Any]], Any]


@dataclass(frozen=True, eq=False)
class SearchRun:
    """One search: its config, model, queries, gallery and ground truth.

    Attributes:
        config: everything the run was told, with the price that was measured.
        reranker: model, weights and preprocessing.
        queries: images that are searched for.
        gallery: images that are searched; the same object as `queries` where they are searched in themselves.
        truth: which gallery images are relevant.
        depth: candidates of each query that are ranked.
        clock: wall time of the stages.
        sections: further sections of the page, by title; beside those of `page_fields.SECTIONS`.
    """

    config: EvalConfig
    reranker: Reranker
    queries: DescribedImages
    gallery: DescribedImages
    truth: Truth
    depth: int
    clock: Stopwatch
    sections: Mapping[str, PageField] = field(default_factory=dict)

    @property
    def images(self) -> dict[str, DescribedImages]:
        """Gallery and queries by name; the gallery alone where it is searched in itself."""
        return {"gallery": self.gallery} | ({} if self.queries is self.gallery else {"query": self.queries})

    def take(self, queries: np.ndarray) -> "SearchRun":
        """The search of some of the queries; what the gallery counts already is not counted again."""
        some = replace(
            self.queries,
            descriptors=self.queries.descriptors.take(queries),
            rows=self.queries.rows[queries],
        )
        if self.queries is self.gallery:
            some = replace(some, skipped=[], described=0)
        return replace(self, queries=some, truth=self.truth.take(queries))

    def search(self) -> tuple[np.ndarray, np.ndarray]:
        """Pooled cosines and gallery rows of each query's first `depth` candidates, of its group if any."""
        return search_descriptors(
            self.queries.pooled(),
            self.gallery.descriptors,
            self.depth,
            exclude=self.truth.own,
            groups=self.truth.groups,
            mesh=self.reranker.mesh,
        )

    def rerank(self, index: np.ndarray, rule: RerankConfig | None = None) -> Reranked:
        """Matches the candidates patch by patch, with a progress bar; a gallery in memory is sent once.

        Args:
            index: gallery rows of each query, best first.
            rule: how; None = `config.rerank`.
        """
        queries, mesh = self.queries.descriptors, self.reranker.mesh
        gallery, rule = self.gallery.descriptors.on_devices(mesh), rule or self.config.rerank
        count, step = len(index), QUERIES_AT_A_TIME
        steps = [slice(i, i + step) for i in range(0, count, step)]
        name = f"reranking {count_of(count, 'query', 'queries')}"
        parts = [
            rerank(queries.take(rows), gallery, index[rows], config=rule, mesh=mesh)
            for rows in bar(steps, len(steps), name, total=count, unit="queries")
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def refine(self, found: Reranked, rule: RerankConfig | None = None) -> Reranked:
        """What the stages of `rule.then` make of a reranked order; None = `config.rerank`."""
        return refine(self.shortlist(rule), found)

    def shortlist(self, rule: RerankConfig | None = None) -> Shortlist:
        """What is reranked, for stages and signals; None = by `config.rerank`."""
        rule, grid = rule or self.config.rerank, self.reranker.token_grid
        return Shortlist(self.queries.descriptors, self.gallery.descriptors, rule, grid)

    def sharpness(self, found: Reranked) -> np.ndarray:
        """How sharp the plan of each query's first candidate is; see `vitjax.retrieval.plan_sharpness`."""
        return plan_sharpness(self.queries.descriptors, self.gallery.descriptors, found, self.config.rerank)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The results of a search: the order of the pooled search and that of the reranking.

    Attributes:
        run: what was searched.
        scores: (q, k) pooled cosines of `before`, falling.
        before: (q, k) gallery rows of each query, best first, -1 = padding.
        after: the new order with its scores.
        gate: what results.json says of the gate; empty = every query is reranked.
    """

    run: SearchRun
    scores: np.ndarray
    before: np.ndarray
    after: Reranked
    gate: Mapping[str, Any] = field(default_factory=dict)

    def metrics(self, queries: np.ndarray | None = None) -> dict[str, Any]:
        """Metrics of both orders with their intervals, as `judge` has them; of some queries, or of all."""
        rows, truth = (
            (slice(None), self.run.truth) if queries is None else (queries, self.run.truth.take(queries))
        )
        return judge(truth, self.before[rows], self.after.index[rows], seed=self.run.config.seed)


def rank(run: SearchRun) -> Ranking:
    """Searches and reranks."""
    with run.clock.stage("search"):
        scores, before = run.search()
    with run.clock.stage("rerank"):
        after = run.rerank(before)
    return Ranking(run, scores, before, after)


def refined(ranking: Ranking) -> Ranking:
    """The ranking after the stages of `config.rerank.then`."""
    run = ranking.run
    if not run.config.rerank.then:
        return ranking
    with run.clock.stage("then"):
        return replace(ranking, after=run.refine(ranking.after))


def ranking_depth(rules: Sequence[RerankConfig], truth: Truth, gallery: int) -> int:
    """How many candidates of each query are ranked: enough for every metric, and for reranking."""
    wanted = gallery if gallery <= RANKED_TO_THE_END else max(rule.top_k for rule in rules)
    return max(wanted, truth.depth(gallery))


def compare(ranking: Ranking, sweep: Sequence[tuple[dict[str, Any], RerankConfig]]) -> list[dict[str, Any]]:
    """Reranks once for each combination of a sweep; nothing is searched or described again."""
    run, clock, rows = ranking.run, ranking.run.clock, []
    for chosen, unpriced in sweep:
        rule, spent = run.reranker.priced(unpriced), clock.seconds.get("sweep", 0.0)
        with clock.stage("sweep"):
            found = replace(ranking, after=run.refine(run.rerank(ranking.before, rule), rule))
        cost = 1e3 * (clock.seconds["sweep"] - spent) / len(ranking.before)
        rows.append({"fields": chosen, "milliseconds_per_query": cost, **found.metrics()})
    return rows
