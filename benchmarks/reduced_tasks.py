"""Four tasks that a backbone with fewer tokens is judged by, on fixed lists of photos."""

import json
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from benchmarks.explanations import Pair, flat_pairs, stereo_pair
from benchmarks.reduced import Reduced, Seen, every_owner
from benchmarks.reduced_photos import Labelled, composites, draw, listed, some
from benchmarks.rerankers import per_query
from vitjax.data.sources.base import FolderSource, ImageSource, RowsSource, fingerprint
from vitjax.data.sources.split import take
from vitjax.errors import UserError
from vitjax.retrieval import rerank, search
from vitjax.retrieval.explanation.correspondence import Correspondence
from vitjax.retrieval.explanation.faithfulness import match_accuracy
from vitjax.retrieval.metrics.bootstrap import RESAMPLES, bootstrap_intervals
from vitjax.retrieval.metrics.relevance import Truth, read_ground_truth
from vitjax.retrieval.reranking.plans import pair_plans
from vitjax.system import disk_cache
from vitjax.training.trunk import linear_probe

TASKS = {
    "classify": ("caltech101", "imagenet"),
    "retrieve": ("corridor", "grocery"),
    "rerank": ("corridor", "grocery"),
    "correspond": ("graffiti", "stereo"),
    "segment": ("caltech101",),
}
LISTED = 5  # photos of a class on a list
LEARNED = 15  # others of each class that the classifier is fitted to
SEGMENTED = 20  # classes of the composites
COMPOSED = 10  # others of each such class, for the classifier of tokens
STRENGTH = 0.3  # of both classifiers, as configs/caltech101.py has it


class Scores(NamedTuple):
    """Two metrics in [0, 1] with their 95 % intervals, of so many images, queries or pairs."""

    count: int
    metric: str
    value: float
    low: float
    high: float
    metric_2: str
    value_2: float
    low_2: float
    high_2: float


class Tasks:
    """What belongs to one backbone, whatever its tokens: photos, truth, and classifiers of the dense model.

    Args:
        dense: the dense model.
        folders: of each set of photos by name, see `TASKS`; "stereo" has three files.
        cache: folder for what is fitted to the dense model.
        limit: so many lines of every list, for a trial; 0 = all.
    """

    def __init__(
        self, dense: Reduced, folders: Mapping[str, Any], cache: pathlib.Path, *, limit: int = 0
    ) -> None:
        self.dense, self.folders, self.cache, self.limit = dense, folders, cache, limit
        self._kept: dict[str, Any] = {}

    def score(self, reduced: Reduced, task: str, images: str, seen: dict[str, Seen]) -> Scores:
        """One row.

        Args:
            reduced: the model.
            task: of `TASKS`.
            images: one of its sets.
            seen: what the model gave of sets of photos so far; what is missing is added.
        """

        def look(what: str, views: np.ndarray) -> Seen:
            if what not in seen:
                seen[what] = reduced.see(views)
            return seen[what]

        if task == "classify":
            return self._classify(images, look)
        if task == "correspond":
            return self._correspond(reduced, images, look)
        if task == "segment":
            return self._segment(reduced, look)
        return self._search(reduced, images, look, again=task == "rerank")

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]

    def _views(self, source: ImageSource) -> np.ndarray:
        with ThreadPoolExecutor(2) as pool:
            return np.stack(
                list(pool.map(lambda i: self.dense.preprocess.view(source.read(i)), range(len(source))))
            )

    def _listed(self, images: str) -> tuple[RowsSource, RowsSource]:
        """The photos on the list, and the others of their folder."""

        def read() -> tuple[RowsSource, RowsSource]:
            source = FolderSource(self.folders[images])
            if source.labels is None:
                raise UserError(f"{self.folders[images]} has no sub-folders as classes")
            names = listed(images) or draw(source, LISTED)
            rest = np.flatnonzero(~np.isin(source.names, names))
            return take(source, names[: self.limit or None]), RowsSource(source, rest)

        return self._once(f"names of {images}", read)

    def _labelled(self, images: str) -> Labelled:
        def read() -> Labelled:
            source = self._listed(images)[0]
            return Labelled(self._views(source), np.asarray(source.labels))

        return self._once(images, read)

    def _linear(
        self, what: str, learned: ImageSource, fit: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias of a classifier, kept on the disk."""

        def find() -> np.ndarray:
            config = self.dense.config
            model = config.weights, asdict(config.model), asdict(self.dense.preprocess)
            key = json.dumps([what, model, fingerprint(learned), learned.names])
            path = self.cache / f"{what}_{zlib.crc32(key.encode()):08x}.npz"
            if (found := disk_cache.load(path, key)) is None:
                kernel, bias = fit()
                found = np.concatenate([kernel, bias[None]])
                disk_cache.save(path, key, found)
            return found

        both = self._once(what, find)
        return both[:-1], both[-1]

    def _classify(self, images: str, look: Callable[[str, np.ndarray], Seen]) -> Scores:
        chosen, rest = self._listed(images)
        learned = some(rest, np.unique(np.asarray(chosen.labels)), LEARNED)

        def fit() -> tuple[np.ndarray, np.ndarray]:
            seen = self.dense.see(self._views(learned))
            labels = np.asarray(learned.labels)
            return linear_probe(seen.pooled, labels, len(learned.class_names), strength=STRENGTH)

        kernel, bias = self._linear(f"pooled_{images}", learned, fit)
        photos = self._labelled(images)
        scores = look(images, photos.views).pooled.astype(np.float32) @ kernel + bias
        rank = np.argsort(-scores, axis=1, kind="stable")
        hit = rank == photos.labels[:, None]
        return _means("top_1", hit[:, 0], "top_5", hit[:, :5].any(axis=1))

    def _search(
        self, reduced: Reduced, images: str, look: Callable[[str, np.ndarray], Seen], *, again: bool
    ) -> Scores:
        if images == "corridor":
            views, truth = self._once(images, self._places)
            queries, gallery = (
                reduced.descriptors(look(f"corridor {side}", each)) for side, each in views.items()
            )
        else:
            photos = self._labelled(images)
            queries = gallery = reduced.descriptors(look(images, photos.views))
            truth = Truth.from_labels(photos.labels, photos.labels, np.arange(len(photos.labels)))
        rule = reduced.reranker.rule
        _, order = search(queries, gallery, min(rule.top_k, len(gallery)), exclude=truth.own)
        if again:
            order = np.asarray(rerank(queries, gallery, order, config=rule).index)
        found = per_query(truth, order)
        first = "recall_at_1" if images == "corridor" else "precision_at_1"
        second = "mean_average_precision_at_r"
        return _means(first, found[first], second, found[second])

    def _places(self) -> tuple[dict[str, np.ndarray], Truth]:
        folder = pathlib.Path(self.folders["corridor"])
        sides = {side: FolderSource(folder / side) for side in ("query", "ref")}
        relevant = read_ground_truth(folder / "ground_truth.json", *(s.names for s in sides.values()))
        names, rows = listed("corridor"), {}
        for side, source in sides.items():
            own = [name.removeprefix(f"{side}/") for name in names if name.startswith(f"{side}/")]
            chosen = take(source, own[: self.limit or None])
            rows[side] = [source.names.index(name) for name in chosen.names]
            sides[side] = chosen  # pyright: ignore[reportArgumentType]
        place = {row: i for i, row in enumerate(rows["ref"])}
        right = [[place[row] for row in relevant.get(i, []) if row in place] for i in rows["query"]]
        views = {side: self._views(source) for side, source in sides.items()}
        return views, Truth.from_rows(right, np.full(len(right), -1))

    def _correspond(self, reduced: Reduced, images: str, look: Callable[[str, np.ndarray], Seen]) -> Scores:
        pairs: list[Pair] = self._once(images, lambda: self._pairs(images))
        view = self.dense.preprocess.view
        seen = look(images, np.stack([view(x) for pair in pairs for x in (pair.query, pair.candidate)]))
        found = reduced.descriptors(seen)
        owner = every_owner(seen.owner, reduced.grid)
        one, two = np.arange(0, len(owner), 2), np.arange(1, len(owner), 2)
        plans = [
            on_patches(np.asarray(plan.mass), owner[i], owner[j])
            for i, j, plan in zip(
                one, two, pair_plans(found, found, one, two, config=reduced.reranker.rule), strict=True
            )
        ]
        both = list(zip(plans, (pair.truth for pair in pairs), strict=True))
        if len(pairs) == 1:  # the patches are what is resampled
            both = [(plans[0], alone) for alone in _each(pairs[0].truth)]
        hits = np.array([match_accuracy(*each)[:2] for each in both])
        return _means("right_cell", hits[:, 0], "within_1_cell", hits[:, 1])

    def _pairs(self, images: str) -> list[Pair]:
        given = self.folders[images]
        if images == "stereo":
            return [stereo_pair([pathlib.Path(file) for file in given], self.dense.reranker)]
        folder = pathlib.Path(given)
        missing = [name for name in listed(images) if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder} has no {missing[0]!r}")
        return list(flat_pairs(folder, self.dense.reranker))[: self.limit or None]

    def _segment(self, reduced: Reduced, look: Callable[[str, np.ndarray], Seen]) -> Scores:
        chosen, rest = self._listed("caltech101")
        labels = np.asarray(chosen.labels)
        classes = np.unique(labels)
        classes = classes[:: max(1, len(classes) // SEGMENTED)][:SEGMENTED]
        learned, grid = some(rest, classes, COMPOSED), self.dense.grid

        def fit() -> tuple[np.ndarray, np.ndarray]:
            made = composites(self._views(learned), np.asarray(learned.labels), grid)
            tokens = self.dense.see(made.views).tokens.reshape(len(made.views), *grid, -1)
            every_other = tokens[:, ::2, ::2], made.labels.reshape(-1, *grid)[:, ::2, ::2]
            features, cells = every_other[0].reshape(-1, tokens.shape[-1]), every_other[1].ravel()
            return linear_probe(features, cells, len(learned.class_names), strength=STRENGTH)

        def make() -> Labelled:
            photos, rows = self._labelled("caltech101"), np.flatnonzero(np.isin(labels, classes))
            return composites(photos.views[rows], labels[rows], grid)

        kernel, bias = self._linear("tokens", learned, fit)
        made: Labelled = self._once("composites", make)
        seen = look("composites", made.views)
        said = (seen.tokens.astype(np.float32) @ kernel + bias).argmax(axis=-1)
        said = np.take_along_axis(said, every_owner(seen.owner, reduced.grid), axis=1)
        return _overlap(said, made.labels, classes)


def on_patches(plan: np.ndarray, query: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """A plan between tokens as one between patches: what a token moves is shared out among its patches.

    >>> on_patches(np.eye(2), np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
    [[0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.5, 0.5]]
    """
    shares = (1 / np.maximum(np.bincount(owner), 1) for owner in (query, candidate))
    ours, theirs = (share[owner] for share, owner in zip(shares, (query, candidate), strict=True))
    return plan[query][:, candidate] * (ours[:, None] * theirs[None, :])


def _each(truth: Correspondence) -> list[Correspondence]:
    """The truth about every visible patch alone."""
    count = len(truth.known)
    only = (np.arange(count) == i for i in np.flatnonzero(truth.visible))
    return [truth._replace(known=one, visible=one) for one in only]


def _means(name: str, values: np.ndarray, other: str, others: np.ndarray) -> Scores:
    both = np.stack([values, others], axis=1).astype(np.float64)
    (low, high), (low_2, high_2) = bootstrap_intervals(both).tolist()
    mean, mean_2 = np.nanmean(both, axis=0).tolist()
    counted = int((~np.isnan(both[:, 0])).sum())
    return Scores(counted, name, mean, low, high, other, mean_2, low_2, high_2)


def _overlap(said: np.ndarray, true: np.ndarray, classes: Sequence[int] | np.ndarray) -> Scores:
    """Mean IoU over classes, and the share of patches of the correct class; images are resampled."""
    inter = np.stack([((said == c) & (true == c)).sum(axis=1) for c in classes], axis=1).astype(np.float64)
    union = np.stack([((said == c) | (true == c)).sum(axis=1) for c in classes], axis=1).astype(np.float64)

    def mean_iou(times: np.ndarray) -> np.ndarray:
        whole = times @ union
        return np.where(whole > 0, times @ inter / np.maximum(whole, 1), np.nan)

    count = len(said)
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    low, high = np.quantile(np.nanmean(mean_iou(times.astype(np.float64)), axis=1), (0.025, 0.975)).tolist()
    value = float(np.nanmean(mean_iou(np.ones((1, count)))))
    right = _means("", (said == true).mean(axis=1), "", (said == true).mean(axis=1))
    return Scores(count, "mean_iou", value, low, high, "patch_accuracy", *right[2:5])
