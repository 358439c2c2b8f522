"""What is known about relevant images: from classes, from a file, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.config import NO_CLASS
from vitjax.retrieval.metrics import relevance_metrics, retrieval_metrics, same_label
from vitjax.retrieval.metrics.average_precision import AveragePrecision, average_precisions
from vitjax.retrieval.metrics.bootstrap import LEVEL, RESAMPLES, bootstrap_intervals
from vitjax.retrieval.metrics.ground_truth import read_ground_truth

KS = (1, 5, 10)

__all__ = ["KS", "Truth", "judge", "not_counted", "nothing_relevant", "read_ground_truth", "shares"]


@dataclass(frozen=True, eq=False)
class Truth:
    """Relevant images of a search; rows are those of the descriptors.

    Attributes:
        positives: per query, the relevant gallery rows; None = nothing is known.
        labels: classes of queries and gallery, where the truth comes from classes.
        own: per query, the gallery row that is the query itself and must not be found; -1 = none.
        ks: of recall.
        released: with classes, also R-precision and MAP@R as the papers' released code counts them (see
            `retrieval_metrics`, "diml"), under names that end in _released.
        groups: group of each query and of each gallery row, where a query is searched for in its group alone.
        group_names: what the groups are called.
        rules: the benchmark's own mean average precisions, which are then judged by, and recall at `ks`.
    """

    positives: list[Int[np.ndarray, " _"]] | None
    labels: tuple[np.ndarray, np.ndarray] | None
    own: Int[np.ndarray, " q"]
    ks: tuple[int, ...] = KS
    released: bool = False
    groups: tuple[Int[np.ndarray, " q"], Int[np.ndarray, " n"]] | None = None
    group_names: tuple[str, ...] = ()
    rules: tuple[AveragePrecision, ...] = ()

    @classmethod
    def from_labels(cls, queries: np.ndarray, gallery: np.ndarray, own: Int[np.ndarray, " q"]) -> "Truth":
        """Images of the query's class are relevant, the query itself left out."""
        return cls(same_label(queries, gallery, own), (queries, gallery), own)

    @classmethod
    def from_rows(cls, positives: Sequence[Any], own: Int[np.ndarray, " q"]) -> "Truth":
        """Listed gallery rows are relevant, the query itself left out."""
        rows = (np.unique(np.asarray(each, np.int64)) for each in positives)
        return cls([row[row != out] for row, out in zip(rows, own, strict=True)], None, own)

    def relevant(self, query: int, row: int) -> bool | None:
        """Whether a gallery row is relevant to a query; None where nothing is known."""
        return None if self.positives is None else bool(np.isin(row, self.positives[query]))

    def hits(self, index: Int[np.ndarray, "q k"]) -> Bool[np.ndarray, "q k"]:
        """Which ranks hold a relevant image; none where nothing is known."""
        if self.positives is None:
            return np.zeros(index.shape, bool)
        pairs = zip(index, self.positives, strict=True)
        return np.array([np.isin(row, relevant) for row, relevant in pairs], bool).reshape(index.shape) & (
            index >= 0
        )

    def take(self, queries: Int[np.ndarray, " m"]) -> "Truth":
        """The truth about some of the queries."""
        positives = None if self.positives is None else [self.positives[i] for i in queries]
        labels = None if self.labels is None else (self.labels[0][queries], self.labels[1])
        groups = None if self.groups is None else (self.groups[0][queries], self.groups[1])
        rules = tuple(rule.take(queries) for rule in self.rules)
        return replace(
            self, positives=positives, labels=labels, own=self.own[queries], groups=groups, rules=rules
        )

    def depth(self, gallery: int) -> int:
        """Ranks that the metrics need, at least, of a ranking of a gallery of so many images."""
        needed = [min(rule.depth or gallery, gallery) for rule in self.rules]
        return max((*map(len, self.positives or ()), *needed, *self.ks), default=0)

    def by_group(self) -> dict[str, Int[np.ndarray, " _"]]:
        """The queries of each group that has any."""
        if self.groups is None:
            return {}
        rows = {name: np.flatnonzero(self.groups[0] == i) for i, name in enumerate(self.group_names)}
        return {name: queries for name, queries in rows.items() if len(queries)}

    def metrics(self, index: Int[np.ndarray, "q k"]) -> dict[str, float]:
        """Metrics of a ranking: with classes those of metric learning, else those of place recognition.

        Returns:
            What `retrieval_metrics` or `relevance_metrics` return; empty where nothing is known.
        """
        return self._judge(index, per_query=False)

    def per_query(self, index: Int[np.ndarray, "q k"]) -> dict[str, Float[np.ndarray, " q"]]:
        """What `metrics` is the mean of, for each query; NaN where a query is not counted."""
        found = self._judge(index, per_query=True)
        return {name: values for name, values in found.items() if isinstance(values, np.ndarray)}

    def _judge(self, index: Int[np.ndarray, "q k"], *, per_query: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"ks": self.ks, "per_query": per_query}
        if self.rules and self.positives is not None:
            found = relevance_metrics(index, self.positives, **options)
            found = {name: value for name, value in found.items() if not name.startswith("map_at")}
            return average_precisions(index, self.rules, per_query=per_query) | found
        if self.labels is None:
            return {} if self.positives is None else relevance_metrics(index, self.positives, **options)
        # Of a query's class the gallery holds one image less to find where the query itself is one of them.
        queries, gallery = self.labels
        inside = (self.own >= 0) & (gallery[self.own] == queries)
        options |= {"ref_includes_query": inside, "on_short": "omit"}
        found = retrieval_metrics(index, *self.labels, **options)
        if self.released:
            theirs = retrieval_metrics(index, *self.labels, **options, definition="diml")
            names = ("r_precision", "mean_average_precision_at_r")
            found |= {f"{name}_released": theirs[name] for name in names if name in theirs}
        return found


def judge(
    truth: Truth, before: Int[np.ndarray, "q k"], after: Int[np.ndarray, "q k"], *, seed: int = 0
) -> dict[str, Any]:
    """Metrics of two orders of the same queries, and how sure they and their differences are.

    Args:
        truth: what is relevant.
        before: gallery rows of each query, best first.
        after: the same in a new order.
        seed: of the resampling.

    Returns:
        "metrics": {"pooled", "reranked"}, each as `Truth.metrics` has them; "intervals": {"pooled",
        "reranked", "difference"}, each metric -> [lower, upper] end, see `bootstrap_intervals`, with their
        "level", "resamples" and "seed". Metrics that are no mean over queries have no interval.
    """
    orders = {"pooled": before, "reranked": after}
    metrics = {name: truth.metrics(index) for name, index in orders.items()}
    intervals: dict[str, Any] = {name: {} for name in (*orders, "difference")}
    if metrics["pooled"]:
        each = [truth.per_query(index) for index in orders.values()]
        old, new = (np.stack(list(values.values()), axis=1) for values in each)
        ends = bootstrap_intervals(np.concatenate([old, new, new - old], axis=1), seed=seed)
        for name, part in zip(intervals, np.split(ends, 3), strict=True):
            intervals[name] = dict(zip(each[0], part.tolist(), strict=True))
    return {
        "metrics": metrics,
        "intervals": intervals | {"level": LEVEL, "resamples": RESAMPLES, "seed": seed},
    }


def nothing_relevant(truth: Truth, query_classes: Sequence[str], gallery_classes: Sequence[str]) -> list[str]:
    """One line on why there is nothing to measure, where no query has a relevant image; else none.

    Args:
        truth: what is relevant.
        query_classes: names of the queries' classes, where the truth is from classes.
        gallery_classes: of the gallery's.
    """
    if truth.positives is None or any(map(len, truth.positives)):
        return []
    text = f"none of the {len(truth.own)} queries has a relevant image in the gallery"
    if truth.labels is None:
        return [text]
    alone = ", where no image is relevant to itself" if (truth.own >= 0).any() else ""
    return [f"{text}: classes {_few(query_classes)} against {_few(gallery_classes)}{alone}"]


def not_counted(truth: Truth, query_classes: Sequence[str], gallery_classes: Sequence[str]) -> list[str]:
    """One line on the queries without a relevant item, how many and why; none where every query has one.

    Args:
        truth: what is relevant.
        query_classes: name of each query's class, where the truth is from classes.
        gallery_classes: of each gallery image's.
    """
    if truth.positives is None or all(map(len, truth.positives)):
        return []
    if not any(map(len, truth.positives)):
        return nothing_relevant(truth, query_classes, gallery_classes)
    left = [i for i, rows in enumerate(truth.positives) if not len(rows)]
    count, have = len(truth.own), "has" if len(left) == 1 else "have"
    text = f"{len(left)} of {count} queries {have} no relevant item in the gallery"
    if truth.labels is None:
        return [f"{text}: figures are of the other {count - len(left)}, except those over all queries"]
    loose = [i for i in left if query_classes[i] == NO_CLASS]
    named, there = [query_classes[i] for i in left if query_classes[i] != NO_CLASS], set(gallery_classes)
    alone, absent = ([name for name in named if (name in there) == inside] for inside in (True, False))
    reasons = [f"{len(alone)} alone in their class ({_few(alone)})"] if alone else []
    reasons += [f"{len(absent)} of classes that the gallery lacks ({_few(absent)})"] if absent else []
    reasons += [f"{len(loose)} without a class"] if loose else []
    return [f"{text} and {'is' if have == 'has' else 'are'} not counted: {'; '.join(reasons)}"]


def _few(names: Sequence[str]) -> str:
    unique = sorted(set(names))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if unique[3:] else "")


def shares(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are shares in [0, 1], without the counts of queries, and without saying one twice.

    Where every query has a relevant image, a share of all queries is that of those that have one.
    """
    all_count = metrics.get("queries_counted") == metrics.get("queries")
    twice = [name for name in metrics if all_count and name.endswith("_over_all_queries")]
    return {
        name: value for name, value in metrics.items() if not name.startswith("queries") and name not in twice
    }
