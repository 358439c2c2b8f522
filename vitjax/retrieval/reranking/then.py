"""What may follow the reranking: stages that look at a query's candidates together, or at where they match.

`STAGES` maps the names of `config.rerank.then` to functions of a `Shortlist` and its `Reranked`, which return
the candidates in a new order. Each query is a list of its own: its order does not depend on other queries.
Only the matched candidates move, and `structural` and the matches that explain it stay what they are.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.config import RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.descriptors import TINY, unit_vectors
from vitjax.retrieval.explanation.matches import match_pairs
from vitjax.retrieval.reranking.rerank_candidates import Reranked

Distance = Literal["euclidean", "squared"]


class Shortlist(NamedTuple):
    """What was reranked.

    Attributes:
        queries: as given to `rerank`.
        gallery: likewise.
        config: likewise.
        grid: (h, w) of the tokens, for stages that look at positions; None: square, one token on each patch.
    """

    queries: DescriptorSet
    gallery: DescriptorSet
    config: RerankConfig
    grid: tuple[int, int] | None = None


Stage = Callable[[Shortlist, Reranked], Reranked]


def refine(shortlist: Shortlist, found: Reranked) -> Reranked:
    """Applies the stages of `config.rerank.then`, one after the other.

    Args:
        shortlist: what was reranked.
        found: the result of `rerank`.

    Raises:
        ValueError: a stage that there is not.
    """
    for name in stage_names(shortlist.config):
        if name not in STAGES:
            raise UserError(
                f"{name!r} is no stage after reranking; known: {', '.join(STAGES)}", fields=["rerank.then"]
            )
        found = STAGES[name](shortlist, found)
    return found


def stage_names(config: RerankConfig) -> list[str]:
    """The stages of a config, in their order."""
    return [name.strip() for name in config.then.split(",") if name.strip()]


@dataclass(frozen=True)
class KReciprocal:
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017) of each query with its matched candidates.

    Different from the paper: other queries are no neighbours, so the order depends on the query alone; and
    the query's own neighbours and distances are those of its reranked order, while those of candidates among
    each other are of their pooled vectors.

    Attributes:
        k1: neighbours that must be mutual.
        k2: neighbours whose sets are averaged; 1: none.
        share: of the distance in the result, lambda; the rest is the Jaccard distance of neighbours.
    """

    k1: int = 20
    k2: int = 6
    share: float = 0.3

    def __call__(self, shortlist: Shortlist, found: Reranked) -> Reranked:
        """The order of 1 - distance, which becomes the score."""
        queries = _pooled(shortlist.queries, np.arange(len(found.index)))
        score = found.score.copy()
        for q, row in enumerate(_matched(found)):
            if row.sum() < 2:
                continue
            vectors = np.concatenate([queries[q : q + 1], _pooled(shortlist.gallery, found.index[q, row])])
            distance = normalised_distance(vectors @ vectors.T)
            order = np.argsort(distance, axis=1, kind="stable")
            order[0] = np.arange(len(vectors))  # the query, and its candidates as they are ranked
            jaccard = jaccard_distance(distance, order, 1, self.k1, self.k2)[0]
            own = 1 - found.score[q, row].astype(np.float64) / (1 + shortlist.config.weight)
            own /= max(own.max(), TINY)
            score[q, row] = 1 - (1 - self.share) * jaccard - self.share * own
        return _in_order(found, score)


def k_reciprocal(
    similarity: Float[np.ndarray, "n n"],
    queries: int,
    k1: int,
    k2: int,
    share: float,
    distance: Distance = "euclidean",
) -> tuple[Float[np.ndarray, "q g"], Float[np.ndarray, "q g"]]:
    """Distances that count how many mutual neighbours two images share.

    Source: Zhong et al. 2017 and their code. D = 2 - 2 s, each row divided by its largest.

    Args:
        similarity: cosines of all images with each other, queries first.
        queries: how many of them are queries.
        k1: neighbours that must be mutual; fewer where there are fewer images.
        k2: nearest neighbours over which sets are averaged; 1: none.
        share: of D in the result.
        distance: "squared": D is squared before it is divided, as in later implementations.

    Returns:
        Jaccard distances, and (1 - share) of them with `share` of D; smaller is nearer.
    """
    d = normalised_distance(similarity, distance)
    jaccard = jaccard_distance(d, np.argsort(d, axis=1, kind="stable"), queries, k1, k2)
    return jaccard, (1 - share) * jaccard + share * d[:queries, queries:]


def normalised_distance(
    similarity: Float[np.ndarray, "n n"], distance: Distance = "euclidean"
) -> Float[np.ndarray, "n n"]:
    """2 - 2 s, or its square; each row divided by its largest."""
    d = np.maximum(2 - 2 * np.asarray(similarity, np.float64), 0)
    d = d**2 if distance == "squared" else d
    return d / np.maximum(d.max(axis=1, keepdims=True), TINY)


def jaccard_distance(
    distance: Float[np.ndarray, "n n"], order: Int[np.ndarray, "n n"], queries: int, k1: int, k2: int
) -> Float[np.ndarray, "q g"]:
    """How few k-reciprocal neighbours a query and an image share, nearer ones counting more.

    Args:
        distance: of all images, queries first.
        order: of all images for each, itself first.
        queries: how many of them are queries.
        k1: neighbours that must be mutual.
        k2: nearest neighbours over which sets are averaged; 1: none.
    """
    sets = np.where(expanded_neighbours(order, k1), np.exp(-distance), 0)
    sets /= np.maximum(sets.sum(axis=1, keepdims=True), TINY)
    if k2 > 1:
        sets = sets[order[:, :k2]].mean(axis=1)
    common = np.minimum(sets[:queries, None], sets[None, queries:]).sum(axis=-1)
    return 1 - common / (2 - common)


def expanded_neighbours(order: Int[np.ndarray, "n n"], k1: int) -> Bool[np.ndarray, "n n"]:
    """The k-reciprocal neighbours of each image, and theirs where most of them are shared."""
    mutual, half = (_mutual(order, k) for k in (k1, int(np.around(k1 / 2))))
    size = half.sum(axis=1)
    shared = mutual.astype(np.int64) @ half.T.astype(np.int64)  # of image i and its neighbour j
    joined = mutual & (shared > 2 / 3 * size[None, :])
    return mutual | ((joined.astype(np.int64) @ half.astype(np.int64)) > 0)


def _mutual(order: np.ndarray, k: int) -> np.ndarray:
    """Which images are among the k + 1 nearest of each other."""
    near = np.zeros(order.shape, bool)
    np.put_along_axis(near, order[:, : k + 1], True, axis=1)
    return near & near.T


@dataclass(frozen=True)
class AlphaQueryExpansion:
    """The pooled vector of the query is joined by those of its first candidates (Radenovic et al. 2018).

    Attributes:
        k: candidates that join, best first.
        alpha: exponent of their cosine, which is their weight.
    """

    k: int = 3
    alpha: float = 3.0

    def __call__(self, shortlist: Shortlist, found: Reranked) -> Reranked:
        """The order of structural + weight * cosine with the expanded query."""
        queries = _pooled(shortlist.queries, np.arange(len(found.index)))
        matched = _matched(found)
        score, pooled = found.score.copy(), found.pooled.copy()
        for q, row in enumerate(matched):
            if not row.any():
                continue
            vectors = _pooled(shortlist.gallery, found.index[q, row])
            first = np.arange(min(self.k, len(vectors)))[None]
            pooled[q, row] = vectors @ expand(queries[q : q + 1], vectors, first, self.alpha)[0]
            score[q, row] = found.structural[q, row] + shortlist.config.weight * pooled[q, row]
        return _in_order(dataclasses.replace(found, pooled=pooled), score)


def expand(
    vectors: Float[np.ndarray, "q d"],
    gallery: Float[np.ndarray, "n d"],
    nearest: Int[np.ndarray, "q k"],
    alpha: float,
) -> Float[np.ndarray, "q d"]:
    """unit(v + sum over the nearest of max(cosine, 0)^alpha g): of queries, or of a gallery (DBA)."""
    found = gallery[nearest]
    weight = np.maximum(np.einsum("qd,qkd->qk", vectors, found), 0) ** alpha
    return unit_vectors(vectors + np.einsum("qk,qkd->qd", weight, found))


@dataclass(frozen=True)
class GeometricCheck:
    """How much of a plan one transform of the image explains: the share of matched patches that are inliers.

    The best partner of each query patch is a correspondence; a similarity or a homography is fitted by RANSAC
    (Fischler and Bolles 1981), the same draws for every pair.

    Attributes:
        transform: "similarity" or "homography".
        depth: candidates that are checked, best first.
        threshold: distance to its place at which a patch is an inlier, in patches.
        weight: of the share in the score, which becomes score + weight * share for candidates that were
            checked.
        trials: of RANSAC.
    """

    transform: Literal["similarity", "homography"] = "similarity"
    depth: int = 10
    threshold: float = 1.5
    weight: float = 1.0
    trials: int = 100

    def __call__(self, shortlist: Shortlist, found: Reranked) -> Reranked:
        """The order of score + weight * share."""
        head = _matched(found)[:, : self.depth]
        rows = np.argwhere(head)
        shares = self.shares(shortlist, rows[:, 0], found.index[rows[:, 0], rows[:, 1]])
        score = found.score.copy()
        score[rows[:, 0], rows[:, 1]] += np.float32(self.weight) * shares
        return _in_order(found, score)

    def shares(
        self, shortlist: Shortlist, query_rows: Int[np.ndarray, " p"], gallery_rows: Int[np.ndarray, " p"]
    ) -> Float[np.ndarray, " p"]:
        """Share of inliers of each pair, in [0, 1]; 0 where no transform fits."""
        tokens = shortlist.queries.sizes.tokens
        width = shortlist.grid[1] if shortlist.grid else round(tokens**0.5)
        found = match_pairs(
            shortlist.queries, shortlist.gallery, query_rows, gallery_rows, config=shortlist.config,
            top=4 * tokens,
        )  # fmt: skip
        shares = np.zeros(len(query_rows), np.float32)
        for p in range(len(shares)):
            patches = np.stack([found.query_patch[p], found.candidate_patch[p]])
            patches = patches[:, (patches >= 0).all(axis=0) & (found.mass[p] > 0)]
            # Strongest first, so the first partner of a patch is its best.
            _, first = np.unique(patches[0], return_index=True)
            places = np.stack([patches[:, first] % width, patches[:, first] // width], axis=-1)
            shares[p] = self.inlier_share(*places.astype(np.float64))
        return shares

    def inlier_share(self, here: Float[np.ndarray, "n 2"], there: Float[np.ndarray, "n 2"]) -> float:
        """Share of correspondences that the best transform found brings to their positions."""
        from skimage.measure import ransac  # takes a while, and other stages do without
        from skimage.transform import ProjectiveTransform, SimilarityTransform

        model, least = {
            "similarity": (SimilarityTransform, 2),
            "homography": (ProjectiveTransform, 4),
        }[self.transform]
        if len(here) <= least:
            return 0.0
        _, inliers = ransac(
            (here, there), model, min_samples=least, residual_threshold=self.threshold,
            max_trials=self.trials, rng=0,
        )  # fmt: skip
        return 0.0 if inliers is None else float(np.mean(inliers))


STAGES: dict[str, Stage] = {
    "kreciprocal": KReciprocal(),
    "alpha_qe": AlphaQueryExpansion(),
    "geometry": GeometricCheck(),
}


def _pooled(images: DescriptorSet, rows: np.ndarray) -> np.ndarray:
    """Pooled vectors of some rows, which need not be in order."""
    some, where = np.unique(rows, return_inverse=True)
    return images.read_pooled(some)()[0].astype(np.float32)[where]


def _matched(found: Reranked) -> np.ndarray:
    """Which candidates were matched, and so may move."""
    return np.isfinite(found.structural)


def _in_order(found: Reranked, score: np.ndarray) -> Reranked:
    """Matched candidates by their new score, equal ones as they were; then the rest, at most as good."""
    head = _matched(found)
    lowest = np.where(head, score, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    score = np.where(head, score, np.minimum(score, lowest)).astype(np.float32)
    order = np.lexsort((np.where(head, -score, 0.0), ~head, found.index < 0), axis=1)
    found = dataclasses.replace(found, score=score)
    return jax.tree.map(lambda x: np.take_along_axis(np.asarray(x), order, axis=1), found)
