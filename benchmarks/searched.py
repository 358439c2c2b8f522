"""What benchmarks of a search share: a folder's images described, searched in themselves or for others."""

import pathlib
import runpy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.kept_tokens import KeptTokens
from vitjax.cli.console import bar
from vitjax.config import EvalConfig, ModelConfig
from vitjax.data.sources.base import FolderSource, ImageSource, RowsSource
from vitjax.errors import UserError
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors
from vitjax.retrieval.metrics.relevance import Truth, read_ground_truth

Describing = Reranker | tuple[KeptTokens, ModelConfig]


class Searched(NamedTuple):
    """Descriptors of both sides, the same object where the gallery is searched in itself, and the truth."""

    queries: Descriptors
    gallery: Descriptors
    truth: Truth


def config_of(text: str) -> EvalConfig:
    """The config of `FILE.py` or `FILE.py:preset`."""
    path, _, arg = text.partition(":")
    return runpy.run_path(path)["get_config"](arg)


def searched(
    reranker: Reranker,
    gallery: pathlib.Path,
    query: pathlib.Path | None = None,
    ground_truth: pathlib.Path | None = None,
    *,
    limit: int = 0,
    kept: KeptTokens | None = None,
) -> Searched:
    """Describes a folder, and queries if there are any.

    Args:
        reranker: describes.
        gallery: folder; without queries its sub-folders are classes, and each image is searched for.
        query: folder.
        ground_truth: JSON of relevant images, as for eval.py; needed with queries.
        limit: of the gallery so many images, drawn at random, the same in every run; 0 = all.
        kept: describes instead, by the model config of `reranker`, from tokens on a disk.
    """
    by: Describing = reranker if kept is None else (kept, reranker.config.model)
    source = FolderSource(gallery)
    chosen = np.arange(len(source))
    if 0 < limit < len(source):
        chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:limit])
    if query is None and source.labels is None:
        raise UserError(f"{gallery} has no sub-folders as classes; give queries and their ground truth")
    if query is not None and ground_truth is None:
        raise UserError("queries need a ground truth; give its JSON file")
    found, rows = _described(by, RowsSource(source, chosen), "gallery")
    if query is None:
        labels = np.asarray(source.labels)[chosen[rows]]
        return Searched(found, found, Truth.from_labels(labels, labels, np.arange(len(rows))))
    asked = FolderSource(query)
    queries, ours = _described(by, asked, "queries")
    listed = read_ground_truth(ground_truth or "", asked.names, source.names)
    right = [np.flatnonzero(np.isin(chosen[rows], listed.get(int(i), []))) for i in ours]
    return Searched(queries, found, Truth.from_rows(right, np.full(len(ours), -1)))


def _described(by: Describing, source: ImageSource, name: str) -> tuple[Descriptors, np.ndarray]:
    if isinstance(by, tuple):
        kept, model = by
        return kept.describe(source, model)

    def progress(batches: Iterable[Any], count: int) -> Iterator[Any]:
        return bar(batches, count, name, total=len(source))

    return by.describe(source, batch_size=by.config.batch_size, progress=progress)[:2]


def with_model(config: EvalConfig, model: str = "", weights: str = "") -> EvalConfig:
    """The config with another model or other weights, where they are given."""
    changed = replace(config.model, name=model) if model else config.model
    return replace(config, model=changed, weights=weights or config.weights)
