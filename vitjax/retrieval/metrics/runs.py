"""Rankings and relevant images as TREC files, for ranx, ir-measures and trec_eval."""

import pathlib
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitjax.errors import UserError
from vitjax.system.files import replacing

# Readers split lines at any white space; % is escaped so that the names can be read back.
_UNSAFE = re.compile(r"[\s%\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LARGEST = np.float32(3e38)


def write_run(
    path: pathlib.Path,
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    index: Int[np.ndarray, "q k"],
    score: Float[np.ndarray, "q k"],
    *,
    tag: str = "vitjax",
) -> None:
    """Writes `query Q0 image rank score tag`, one line per listed image, padding left out.

    Evaluation tools sort by the score, as a 32-bit number, and break ties by name. So a score that is not
    below the one before it (a tie, or a candidate beyond the reranked ones) is written as the next smaller
    32-bit number: sorting the file gives back exactly the order of `index`.

    Args:
        path: the file, written under a temporary name and renamed.
        query_names: unique; white space, % and control characters are written as in a URL (%20).
        gallery_names: likewise.
        index: rows of the gallery per query, best first, -1 = padding.
        score: of the same shape, as `search` and `rerank` give them.
        tag: name of the system; no white space.

    Raises:
        ValueError: shapes that do not fit, names that are empty or not unique.
    """
    queries, images = _escaped(query_names, "query"), _escaped(gallery_names, "gallery")
    index, score, tag = np.asarray(index), np.asarray(score), escape(tag)
    if index.ndim != 2 or index.shape != score.shape or len(index) != len(queries):
        raise UserError(
            f"write_run: {len(queries)} query names, index {index.shape}, score {score.shape}; "
            "expected (queries, k) for both"
        )
    if index.size and (index.max() >= len(images) or index.min() < -1):
        raise UserError(
            f"write_run: rows {index.min()} to {index.max()} in index, but {len(images)} gallery names"
        )
    with replacing(path) as file:
        for query, row, values in zip(queries, index, score, strict=True):
            listed = row >= 0
            falling = _strictly_falling(values[listed])
            for rank, (image, value) in enumerate(zip(row[listed], falling, strict=True), start=1):
                file.write(f"{query} Q0 {images[image]} {rank} {value!s} {tag}\n")


def write_qrels(
    path: pathlib.Path, query_names: Sequence[str], gallery_names: Sequence[str], positives: Sequence[Any]
) -> None:
    """Writes `query 0 image 1`, one line per relevant image.

    Args:
        path: the file, written under a temporary name and renamed.
        query_names: as in `write_run`.
        gallery_names: likewise.
        positives: per query, the relevant gallery rows (see `metrics.same_label`), the query itself
            left out.
    """
    queries, images = _escaped(query_names, "query"), _escaped(gallery_names, "gallery")
    with replacing(path) as file:
        for query, relevant in zip(queries, positives, strict=True):
            for image in np.unique(np.asarray(relevant, np.int64)):
                file.write(f"{query} 0 {images[image]} 1\n")


def escape(name: str) -> str:
    r"""Writes white space, % and control characters as in a URL; `urllib.parse.unquote` reads it back.

    >>> escape("a b/100%.jpg")
    'a%20b/100%25.jpg'
    """
    return _UNSAFE.sub(lambda found: urllib.parse.quote(found[0], safe="", errors="surrogateescape"), name)


def _escaped(names: Sequence[str], what: str) -> list[str]:
    escaped = [escape(name) for name in names]
    if "" in escaped or len(set(escaped)) != len(escaped):
        doubled = sorted({name for name in escaped if not name or escaped.count(name) > 1})[:3]
        raise UserError(f"{what} names must be unique and not empty, but there is {doubled}")
    return escaped


def _strictly_falling(scores: np.ndarray) -> list[np.float32]:
    falling: list[np.float32] = []
    for score in scores.astype(np.float32):
        ceiling = np.nextafter(falling[-1], np.float32(-np.inf)) if falling else _LARGEST
        # nan (no score) compares false and so takes the ceiling; -inf cannot be written to such a file.
        value = max(score, -_LARGEST) if score < ceiling else ceiling
        falling.append(np.float32(min(value, ceiling)))
    return falling
