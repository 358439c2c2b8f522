"""Retrieval metrics from rankings, in float64 on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.errors import UserError

DEFINITIONS = ("musgrave", "diml")
ON_SHORT = ("error", "omit")
_ROWS = 4096  # queries judged at a time


def retrieval_metrics(
    index: Int[np.ndarray, "q k"],
    query_labels: Any,
    gallery_labels: Any,
    *,
    ref_includes_query: Any,
    ks: Sequence[int] = (1, 5, 10),
    definition: str = "musgrave",
    avg_of_avgs: bool = False,
    per_query: bool = False,
    on_short: str = "error",
) -> dict[str, Any]:
    """How well rankings find images of the query's class.

    Source: Musgrave, Belongie, Lim 2020, "A Metric Learning Reality Check" (arXiv:2003.08505), section 3.2,
    as pytorch-metric-learning's AccuracyCalculator computes them (the default); "diml" is what the released
    code of DIML and of "Beyond the CLS Token" computes.

    With R the number of relevant gallery images, rel_i = 1 where rank i is relevant, P_i the share of
    relevant among the first i:

    - precision_at_1 = rel_1;  recall_at_k = 1 where any of the first k is relevant (often called R@k);
    - r_precision = sum of rel_i / R over i <= R;
    - mean_average_precision_at_r = sum of rel_i P_i / R over i <= R (R, not the hits, divides);
    - mean_average_precision = sum of rel_i P_i / R over all ranks; mean_reciprocal_rank = 1 / (rank of the
      first relevant). Both only where the ranking lists every gallery image, else the keys are missing: a
      list cut short would give too small a value.

    "musgrave": R leaves the query out where the gallery holds it, and queries with R = 0 are not counted.
    "diml": R includes the query, which can never be found, and all queries count: a perfect ranking of a
    class of n gives (n - 1) / n.

    Args:
        index: rows of the gallery per query, best first, -1 = padding (a miss). The query itself must already
            be left out where the gallery holds it (`search(..., exclude=...)`).
        query_labels: (q,), anything NumPy compares.
        gallery_labels: (n,).
        ref_includes_query: bool, whether the gallery holds the query: one for all of them, or (q,).
        ks: of recall_at_k.
        definition: "musgrave" or "diml".
        avg_of_avgs: mean over classes of the class means, instead of the mean over queries.
        per_query: (q,) values instead of means; NaN for queries that are not counted.
        on_short: where the ranking is shorter than the largest R of a counted query, r_precision and
            mean_average_precision_at_r would be wrong: "error" says so, "omit" leaves them out.

    Returns:
        shares in [0, 1] under the names above, and `queries`, `queries_counted`; NaN where none counts.

    Raises:
        ValueError: shapes or options that do not fit, rows outside of the gallery, or a ranking too short.
    """
    index, own, labels = np.asarray(index), np.asarray(query_labels), np.asarray(gallery_labels)
    if definition not in DEFINITIONS or on_short not in ON_SHORT:
        raise UserError(
            f"retrieval_metrics: definition is {definition!r}, on_short is {on_short!r}; "
            f"they must be one of {DEFINITIONS} and one of {ON_SHORT}"
        )
    _check(index, len(own), len(labels), ks, "retrieval_metrics")
    if not len(labels):
        raise UserError("retrieval_metrics: the gallery is empty")
    inside = np.asarray(ref_includes_query)
    if inside.dtype != bool or inside.shape not in ((), (len(own),)):
        raise UserError(
            f"retrieval_metrics: ref_includes_query is {inside.dtype} of shape {inside.shape}; expected one "
            f"bool, or {len(own)}, one for each query"
        )
    inside = np.broadcast_to(inside, (len(own),))
    if (inside & (index >= 0).all(axis=1)).any() and index.shape[1] >= len(labels):
        raise UserError(
            "retrieval_metrics: ref_includes_query is True, but a ranking holds the whole gallery, the query "
            "included; leave it out: search(..., exclude=...)"
        )
    relevant = _class_sizes(own, labels)
    if (inside & (relevant < 1)).any():
        first = int(np.flatnonzero(inside & (relevant < 1))[0])
        raise UserError(
            f"retrieval_metrics: ref_includes_query is True, but no gallery image has query {first}'s label"
        )
    if definition == "musgrave":
        relevant = relevant - inside
    counted = np.ones(len(own), bool) if definition == "diml" else relevant > 0
    whole = index.shape[1] >= len(labels) - int(inside.all())  # of every query: the longest ranking decides
    longest = int(relevant[counted].max(initial=0))
    fits = whole or longest <= index.shape[1]
    if not fits and on_short == "error":
        raise UserError(
            f"retrieval_metrics: the ranking has {index.shape[1]} columns, but a class has {longest} "
            'relevant images: search with a larger k, or pass on_short="omit" to leave out r_precision and '
            "mean_average_precision_at_r"
        )
    if not whole and max(ks, default=1) > index.shape[1]:
        raise UserError(
            f"retrieval_metrics: recall at {max(ks)} needs as many columns; the ranking has {index.shape[1]}"
        )
    names = ["precision_at_1", *(f"recall_at_{k}" for k in ks)]
    names += ["r_precision", "mean_average_precision_at_r"] if fits else []
    names += ["mean_average_precision", "mean_reciprocal_rank"] if whole else []
    values = {name: np.full(len(own), np.nan) for name in names}
    for start in range(0, len(own), _ROWS):
        rows = slice(start, start + _ROWS)
        hits = (index[rows] >= 0) & (labels[index[rows]] == own[rows, None])
        for name, value in judge_hits(hits, relevant[rows], ks).items():
            if name in values:
                values[name][rows] = np.where(counted[rows], value, np.nan)
    counts = {"queries": len(own), "queries_counted": int(counted.sum())}
    if per_query:
        return values | counts
    return {name: _mean(value, own if avg_of_avgs else None) for name, value in values.items()} | counts


def judge_hits(
    hits: Bool[np.ndarray, "q k"], relevant: Int[np.ndarray, " q"], ks: Sequence[int]
) -> dict[str, Any]:
    """What `retrieval_metrics` says of each query, of which ranks are hits and how many there could be.

    Args:
        hits: which ranks hold a relevant image.
        relevant: relevant images of each query.
        ks: of recall_at_k.
    """
    if not hits.shape[1]:
        hits = np.zeros((len(hits), 1), bool)
    rank = np.arange(1, hits.shape[1] + 1)
    precision = np.cumsum(hits, axis=1) / rank * hits
    within = rank <= relevant[:, None]
    divisor = np.maximum(relevant, 1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)
    return {
        "precision_at_1": hits[:, 0],
        **{f"recall_at_{k}": hits[:, :k].any(axis=1) for k in ks},
        "r_precision": (hits & within).sum(axis=1) / divisor,
        "mean_average_precision_at_r": (precision * within).sum(axis=1) / divisor,
        "mean_average_precision": precision.sum(axis=1) / divisor,
        "mean_reciprocal_rank": 1 / first,
    }


def _mean(values: Float[np.ndarray, " q"], groups: np.ndarray | None = None) -> float:
    counted = ~np.isnan(values)
    if not counted.any():
        return float("nan")
    if groups is None:
        return float(values[counted].mean())
    names, group = np.unique(groups[counted], return_inverse=True)
    return float((np.bincount(group, values[counted]) / np.bincount(group, minlength=len(names))).mean())


def _class_sizes(own: np.ndarray, labels: np.ndarray) -> Int[np.ndarray, " q"]:
    """How many gallery images carry each query's label."""
    names, sizes = np.unique(labels, return_counts=True)
    place = np.minimum(np.searchsorted(names, own), len(names) - 1)
    return np.where(names[place] == own, sizes[place], 0)


def _check(index: np.ndarray, queries: int, gallery: int | None, ks: Sequence[int], where: str) -> None:
    if index.ndim != 2 or len(index) != queries or not np.issubdtype(index.dtype, np.integer):
        raise UserError(
            f"{where}: the ranking is {index.dtype} of shape {index.shape} for {queries} queries; "
            "expected integers (queries, k)"
        )
    if index.size and (index.min() < -1 or (gallery is not None and index.max() >= gallery)):
        raise UserError(
            f"{where}: the ranking holds rows {index.min()} to {index.max()}; "
            f"the gallery has {gallery} rows, and -1 is padding"
        )
    if min(ks, default=1) < 1:
        raise UserError(f"{where}: ks holds {min(ks)}; each must be at least 1")
    for start in range(0, len(index), _ROWS):
        ordered = np.sort(index[start : start + _ROWS], axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            query = start + int(twice.argmax())
            raise UserError(f"{where}: the ranking of query {query} holds a row of the gallery twice")


def relevance_metrics(
    index: Int[np.ndarray, "q k"],
    positives: Sequence[Any],
    *,
    ks: Sequence[int] = (1, 5, 10),
    per_query: bool = False,
) -> dict[str, Any]:
    """How well rankings find the gallery images listed as relevant to each query.

    Source: the protocol of Mapillary Street-Level Sequences (Warburg et al., CVPR 2020), as its released
    evaluation computes it: recall_at_k = 1 where any of the first k is relevant; map_at_k = sum of rel_i P_i
    over i <= k, divided by min(number of relevant images, k). Queries without one are not counted;
    `*_over_all_queries` divides by all of them, which is how some published figures were made.

    Args:
        index: rows of the gallery per query, best first, -1 = padding (a miss).
        positives: per query, the relevant gallery rows (see `positives_within`, `same_label`).
        ks: of recall and map; each at most the number of columns (pad with -1 where the gallery is smaller).
        per_query: (q,) values instead of means; NaN for queries that are not counted.

    Returns:
        shares in [0, 1] under recall_at_k, map_at_k, recall_at_k_over_all_queries (means only), and
        `queries`, `queries_counted`; NaN where none counts.

    Raises:
        ValueError: shapes that do not fit, or a ranking shorter than k.
    """
    index = np.asarray(index)
    _check(index, len(positives), None, ks, "relevance_metrics")
    if max(ks, default=1) > index.shape[1]:
        raise UserError(f"relevance_metrics: k is {max(ks)}, but the ranking has {index.shape[1]} columns")
    hits = _hits(index, positives)
    sizes = np.array([len(np.unique(np.asarray(each))) for each in positives], np.int64)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1) * hits
    values: dict[str, np.ndarray] = {}
    for k in ks:
        values[f"recall_at_{k}"] = np.asarray(hits[:, :k].any(axis=1), np.float64)
        values[f"map_at_{k}"] = np.asarray(precision[:, :k].sum(axis=1) / np.clip(sizes, 1, k))
    counts: dict[str, Any] = {"queries": len(sizes), "queries_counted": int((sizes > 0).sum())}
    kept = {name: np.where(sizes > 0, value, np.nan) for name, value in values.items()}
    if per_query:
        return kept | counts
    over_all = {f"recall_at_{k}_over_all_queries": _mean(values[f"recall_at_{k}"]) for k in ks}
    return {name: _mean(value) for name, value in kept.items()} | over_all | counts


def first_hit(index: Int[np.ndarray, "q k"], positives: Sequence[Any]) -> Int[np.ndarray, " q"]:
    """Position, from 0, of the first relevant image in each ranking; -1 where it holds none."""
    hits = _hits(np.asarray(index), positives)
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def _hits(index: np.ndarray, positives: Sequence[Any]) -> Bool[np.ndarray, "q k"]:
    rows = [np.isin(row, np.asarray(each, np.int64)) for row, each in zip(index, positives, strict=True)]
    return np.array(rows, bool).reshape(index.shape) & (index >= 0)


def positives_within(
    query_utm: Float[np.ndarray, "q 2"], gallery_utm: Float[np.ndarray, "n 2"], radius_m: float = 25.0
) -> list[Int[np.ndarray, " p"]]:
    """Gallery rows within a distance of each query, the distance itself included.

    Args:
        query_utm: easting and northing in metres; a position that is NaN is near nothing.
        gallery_utm: the same, in the same UTM zone.
        radius_m: metres.
    """
    query, gallery = np.asarray(query_utm, np.float64), np.asarray(gallery_utm, np.float64)
    # Squares, not a square root: a distance of exactly the radius stays inside.
    return [
        np.flatnonzero(((gallery - place[None, :]) ** 2).sum(axis=1) <= radius_m * radius_m)
        for place in query
    ]


def same_label(
    query_labels: Any, gallery_labels: Any, exclude: Int[np.ndarray, " q"] | None = None
) -> list[Int[np.ndarray, " p"]]:
    """Gallery rows of each query's class, without the row in `exclude` (-1 = none), as qrels want them."""
    own, labels = np.asarray(query_labels), np.asarray(gallery_labels)
    leave = np.full(len(own), -1) if exclude is None else np.asarray(exclude)
    rows = [np.flatnonzero(labels == label) for label in own]
    return [row[row != out] for row, out in zip(rows, leave, strict=True)]
