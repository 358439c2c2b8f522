"""The report page: one self-contained HTML file with both rankings, their metrics, and the matched patches.

The page loads nothing (its content security policy forbids it) and works from disk. Python writes numbers and
text as one JSON block; page_*.js build every element from it with text nodes, so a file name is never read as
HTML.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vitjax.errors import UserError
from vitjax.system.files import replacing
from vitjax.viz.embed import embed_images
from vitjax.viz.views import CandidateView, QueryView, Report

_SCRIPTS = ("base", "head", "ranking", "patches", "matches", "browse")
_ADDS_UP = 2e-3  # float32 sums over 256 x 256 pairs, kernel-domain transport included
_PAGE_BYTES = 6_000_000  # of the whole page; photos get smaller before it gets larger
PLAN_BYTES = 2_500_000  # of all its plans; weak entries are summed up before they get larger


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Writes the page, whole or not at all: a failure leaves an older file as it was.

    Raises:
        ValueError: an image is missing or not uint8 (h, w, 3), a box leaves its image, or a candidate's
            contributions do not add up to its score: a page that explains something else is not written.
        OSError: the folder cannot be written to.
    """
    _check(report)
    page = render(report)
    with replacing(path, "wb") as file:
        file.write(page)


def render(report: Report) -> bytes:
    """Returns the page's bytes, UTF-8; the report must have been checked."""
    style = _asset("report.css")
    script = (
        '"use strict";\n(() => {\n' + "\n".join(_asset(f"page_{name}.js") for name in _SCRIPTS) + "})();\n"
    )
    data = _page(report)
    budget = max(1_000_000, _PAGE_BYTES - len(_json(data)))
    data["images"] = embed_images(
        report.images, thumbnails=set(report.images) - _large(report), budget=budget
    )
    parts = {
        # Character references also carry the lone surrogates of undecodable file names, which UTF-8 cannot.
        "title": html.escape(report.title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        # In a script block only "<" can end the block or open a comment.
        "data": _json(data).replace("<", "\\u003c"),
    }
    # One pass: text that looks like a placeholder inside the data is not filled again.
    return re.sub(r"@@(\w+)@@", lambda hit: parts[hit[1]], _asset("report.html")).encode("utf-8")


def _asset(name: str) -> str:
    return importlib.resources.files("vitjax.viz").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _json(data: dict) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def _page(report: Report) -> dict:
    return {
        "title": report.title,
        "subtitle": report.subtitle,
        "ranks": report.ranks,
        "weight": _number(report.weight),
        "metrics": [
            {
                "name": metric_name(name),
                "before": _number(value),
                "after": _number(report.metrics_after[name]),
                "ends": [_ends(report, order, name) for order in ("pooled", "reranked", "difference")],
            }
            for name, value in report.metrics_before.items()
        ],
        "milliseconds": [[name, _number(value)] for name, value in report.milliseconds.items()],
        "settings": [[name, _text(value)] for name, value in report.settings.items()],
        "sections": [[title, *_section(title, content)] for title, content in report.sections.items()],
        "environment": [[name, _text(value)] for name, value in report.environment.items()],
        "random": report.random_weights,
        "notes": list(report.notes),
        "skipped": [[item.name, item.reason] for item in report.skipped],
        "explained": report.explained,
        "patches": {key: patches.encode() for key, patches in report.patches.items()},
        "sizes": {key: [image.shape[1], image.shape[0]] for key, image in report.images.items()},
        "queries": [
            {
                "image": query.image,
                "name": query.name,
                "label": query.label,
                "words": list(query.words),
                "candidates": [_candidate(item) for item in query.candidates],
            }
            for query in report.queries
        ],
    }


def _large(report: Report) -> set[str]:
    """Keys of images shown large: the queries, and the candidates with something drawn on them."""
    matched = {c.image for query in report.queries for c in query.candidates if c.structural is not None}
    return {query.image for query in report.queries} | matched


def _candidate(item: CandidateView) -> dict:
    return {
        "image": item.image,
        "name": item.name,
        "label": item.label,
        "before": item.rank_before,
        "after": item.rank_after,
        "pooled": _number(item.pooled),
        "structural": _number(item.structural),
        "score": _number(item.score),
        "relevant": item.relevant,
        "matches": [
            [
                *(_number(share, 4) for share in (*match.query_box, *match.candidate_box)),
                _number(match.similarity, 5),
                _number(match.mass, 6),
                _number(match.contribution),
            ]
            for match in item.matches
        ],
        "plan": item.plan.encode() if item.plan else None,
        "pairs": item.remaining_pairs,
        "remaining": _number(item.remaining_contribution),
        "note": item.note,
    }


def _number(value: float | None, decimals: int = 7) -> float | None:
    """None for what JSON has no number for."""
    return None if value is None or not math.isfinite(value) else round(float(value), decimals)


def _ends(report: Report, order: str, name: str) -> list[float | None] | None:
    """Interval of a metric, None where there is none."""
    found = report.intervals.get(order, {}).get(name)
    return None if found is None else [_number(end) for end in found]


def _section(title: str, content: object) -> tuple[str, object]:
    """The kind of a further field, "text", "pairs" or "table", and what the page shows of it, as text."""
    if isinstance(content, str):
        return "text", content
    if isinstance(content, Mapping):
        return "pairs", [[str(name), _text(value)] for name, value in content.items()]
    if isinstance(content, Iterable) and not isinstance(content, bytes):
        rows = list(content)
        if all(isinstance(row, Sequence) and not isinstance(row, str | bytes) for row in rows):
            return "table", [[_text(cell) for cell in row] for row in rows]
    raise UserError(
        f"report: section {title!r} is a {type(content).__name__}; give text, a dictionary of names "
        "and values, or rows of cells"
    )


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def metric_name(name: str) -> str:
    """Human name of a `retrieval_metrics` key.

    >>> metric_name("recall_at_5"), metric_name("mean_average_precision_at_r")
    ('Recall@5', 'MAP@R')
    >>> metric_name("map_at_5"), metric_name("recall_at_1_over_all_queries")
    ('MAP@5', 'Recall@1 over all queries')
    >>> metric_name("map_hard"), metric_name("mp_at_10_hard")
    ('MAP hard', 'Mean precision@10 hard')
    """
    short = re.sub("^mean_average_precision|^map(?=_|$)", "MAP", re.sub("^mp(?=_)", "mean precision", name))
    short = short.replace("mean_reciprocal_rank", "MRR")
    short = re.sub(r"_at_([a-z\d]+)", lambda hit: "@" + hit[1].upper(), short)
    short = short.replace("r_precision", "R-precision").replace("_", " ")
    return short[:1].upper() + short[1:]


def _check(report: Report) -> None:
    wrong = [
        f"images[{key!r}] is {image.dtype} {image.shape}, not uint8 (h, w, 3)"
        for key, image in report.images.items()
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
    ]
    if set(report.metrics_before) != set(report.metrics_after):
        wrong.append(
            f"metrics before {list(report.metrics_before)} and after {list(report.metrics_after)} differ"
        )
    for query in report.queries:
        if query.words and query.image not in report.patches:
            wrong.append(f"{query.name!r} is a text, but patches has no {query.image!r} for its words")
        shown = (query, *query.candidates)
        wrong += [
            f"{item.name!r}: images has no {item.image!r}"
            for item in shown
            if item.image not in report.images
        ]
        for candidate in query.candidates:
            pair = f"{query.name!r} and {candidate.name!r}: "
            wrong += [pair + line for line in _explains(candidate, report.weight)]
            wrong += [pair + line for line in _plan_fits(query, candidate, report)]
    if wrong:
        raise UserError(
            f"report: {'; '.join(wrong[:5])}" + (f"; and {len(wrong) - 5} more" if wrong[5:] else "")
        )


def _explains(item: CandidateView, weight: float) -> list[str]:
    wrong = [
        f"box {box} must be x0 < x1, y0 < y1 in [0, 1]"
        for match in item.matches
        for box in (match.query_box, match.candidate_box)
        if not (-1e-6 <= box[0] < box[2] <= 1 + 1e-6 and -1e-6 <= box[1] < box[3] <= 1 + 1e-6)
    ]
    if item.structural is None or not math.isfinite(item.structural):
        return wrong
    total = math.fsum(match.contribution for match in item.matches) + item.remaining_contribution
    if not abs(total - item.structural) <= _ADDS_UP:
        wrong.append(f"contributions add up to {total:.6f}, structural score is {item.structural:.6f}")
    final = item.structural + weight * item.pooled
    if item.score is not None and not abs(final - item.score) <= _ADDS_UP:
        wrong.append(f"structural + {weight:g} x pooled = {final:.6f}, score is {item.score:.6f}")
    return wrong


def _plan_fits(query: QueryView, item: CandidateView, report: Report) -> list[str]:
    if item.plan is None:
        return []
    missing = [key for key in (query.image, item.image) if key not in report.patches]
    if missing:
        return [f"there is a plan, but patches has no {missing[0]!r}"]
    wrong = []
    for key, mass in zip((query.image, item.image), item.plan.mass, strict=True):
        if report.patches[key].owner.max(initial=-1) >= len(mass):
            wrong.append(f"patches[{key!r}] names token {report.patches[key].owner.max()} of {len(mass)}")
    total, score = item.plan.structural, item.structural
    if score is not None and math.isfinite(score) and not abs(total - score) <= _ADDS_UP:
        wrong.append(f"the plan adds up to {total:.6f}, structural score is {score:.6f}")
    return wrong
