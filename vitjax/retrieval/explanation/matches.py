"""Which patch matched which, and what each match adds to the structural score.

The structural score is a sum over patch pairs, plan times similarity (method "mutual": the plan alone), so it
decomposes exactly: the strongest matches, plus one remainder for all others.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.reranking.matching import MatchParams, MatchSpec, only_matched
from vitjax.retrieval.reranking.plans import in_blocks, match_each

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Match:
    """One patch of the query matched with one of the candidate.

    Attributes:
        query_patch: number of the patch, in raster order; -1 for a token without a position.
        candidate_patch: likewise.
        query_box: (left, top, right, bottom) as shares of the image the model saw, 0 to 1.
        candidate_box: likewise.
        similarity: cosine of the two tokens.
        mass: share of the images' weight that moves between them.
        contribution: what the match adds to the structural score, mass times similarity; "mutual": mass.
    """

    query_patch: int
    candidate_patch: int
    query_box: Box
    candidate_box: Box
    similarity: float
    mass: float
    contribution: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The decomposition of a structural score: it equals the contributions of `matches` plus `remainder`.

    Attributes:
        structural: the score.
        matches: the strongest, by falling contribution; fewer than asked for where no more mass moved.
        remainder: what all other patch pairs add, summed for itself, and with a price what was left out.
        additivity_error: how far the parts are from the score in sum; rounding only.
        marginal_error: L1 distance of the plan's marginals from the wanted ones.
    """

    structural: float
    matches: list[Match]
    remainder: float
    additivity_error: float
    marginal_error: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return dataclasses.asdict(self)


@struct.dataclass
class Matches:
    """The strongest matches of p pairs, on the host; (p, top) by falling contribution, the rest (p,).

    Attributes:
        query_patch: (p, top).
        candidate_patch: (p, top).
        similarity: (p, top).
        mass: (p, top).
        contribution: (p, top).
        structural: (p,), NaN where the pair could not be matched.
        remainder: (p,), what all other patch pairs add, and what was left out.
        error: (p,), marginal error of the plan.
    """

    query_patch: Any
    candidate_patch: Any
    similarity: Any
    mass: Any
    contribution: Any
    structural: Any
    remainder: Any
    error: Any

    def explanation(
        self, pair: int, query_grid: tuple[int, int], candidate_grid: tuple[int, int] | None = None
    ) -> Explanation:
        """Returns one pair's matches with their boxes.

        Args:
            pair: which one, from 0.
            query_grid: (h, w) of the query's tokens.
            candidate_grid: of the candidate's; None: the same.
        """
        own = jax.tree.map(lambda x: x[pair], self)
        parts = float(own.contribution.sum(dtype=np.float64)) + float(own.remainder)
        rows = zip(
            own.query_patch, own.candidate_patch, own.similarity, own.mass, own.contribution, strict=True
        )
        return Explanation(
            structural=float(own.structural),
            matches=[
                Match(
                    query_patch=int(i),
                    candidate_patch=int(j),
                    query_box=_box(int(i), query_grid),
                    candidate_box=_box(int(j), candidate_grid or query_grid),
                    similarity=float(similarity),
                    mass=float(mass),
                    contribution=float(contribution),
                )
                for i, j, similarity, mass, contribution in rows
                if mass > 0
            ],
            remainder=float(own.remainder),
            additivity_error=abs(float(own.structural) - parts),
            marginal_error=float(own.error),
        )


def patch_box(patch: int, grid: tuple[int, int]) -> Box:
    """(left, top, right, bottom) of a patch in raster order, as shares of the image the model saw.

    >>> patch_box(3, (2, 2))
    (0.5, 0.5, 1.0, 1.0)
    """
    h, w = grid
    if not 0 <= patch < h * w:
        raise UserError(f"patch_box: patch {patch} is not on a {h}x{w} grid of {h * w} patches")
    row, column = divmod(patch, w)
    return column / w, row / h, (column + 1) / w, (row + 1) / h


def _box(patch: int, grid: tuple[int, int]) -> Box:
    """Box of a patch; the whole image for a token that lies on none."""
    return (0.0, 0.0, 1.0, 1.0) if patch < 0 else patch_box(patch, grid)


def explain_pair(
    plan: Float[Array | np.ndarray, "n m"],
    similarity: Float[Array | np.ndarray, "n m"],
    *,
    query_grid: tuple[int, int],
    candidate_grid: tuple[int, int] | None = None,
    top: int = 12,
    marginal_error: float = 0.0,
) -> Explanation:
    """Decomposes one pair's structural score, from a plan and similarities at hand.

    Args:
        plan: transported mass, of `vitjax.ot.structural_match`.
        similarity: cosines of the same patches.
        query_grid: (h, w) of the query's n tokens.
        candidate_grid: of the candidate's m tokens; None: the same.
        top: matches wanted; the rest is summed up.
        marginal_error: passed on.
    """
    plan, similarity = jnp.asarray(plan, jnp.float32)[None], jnp.asarray(similarity, jnp.float32)[None]
    structural = jnp.sum(plan * similarity, axis=(1, 2))
    error = jnp.full(1, marginal_error, jnp.float32)
    found = _strongest(plan, similarity, plan * similarity, structural, error, top)
    return sharding.fetch(found).explanation(0, query_grid, candidate_grid)


def match_pairs(
    queries: DescriptorSet,
    gallery: DescriptorSet,
    query_rows: Int[Array | np.ndarray, " p"],
    gallery_rows: Int[Array | np.ndarray, " p"],
    *,
    config: RerankConfig | None = None,
    top: int = 12,
) -> Matches:
    """Matches given pairs again, as `rerank` did, and keeps the strongest patch pairs of each.

    The whole plan of a pair never leaves the device. Pairs go through in blocks of one fixed shape.

    Args:
        queries: as given to `rerank`.
        gallery: likewise.
        query_rows: the query of each pair.
        gallery_rows: its candidate.
        config: the one given to `rerank`; None: the defaults.
        top: patch pairs kept; all, where there are no more.

    Raises:
        ValueError: rows out of range, descriptors that do not fit together, config out of range.
    """
    if top < 1:
        raise UserError(f"match_pairs: top is {top}; it must be at least 1")
    strongest = functools.partial(_match_strongest, top=top)
    done = list(in_blocks(strongest, queries, gallery, (query_rows, gallery_rows), config, "match_pairs"))
    found, matched = jax.tree.map(lambda *x: np.concatenate(x), *done)
    scores = {name: only_matched(getattr(found, name), matched) for name in ("structural", "error")}
    return dataclasses.replace(found, **scores)


@functools.partial(jax.jit, static_argnames=("spec", "top"))
def _match_strongest(
    queries: Descriptors, candidates: Descriptors, params: MatchParams, *, spec: MatchSpec, top: int
) -> tuple[Matches, Bool[Array, " p"]]:
    match = match_each(queries, candidates, params, spec)
    found = _strongest(match.plan, match.similarity, match.contribution, match.structural, match.error, top)
    found = dataclasses.replace(
        found,
        query_patch=_placed(found.query_patch, queries),
        candidate_patch=_placed(found.candidate_patch, candidates),
        remainder=found.remainder + match.unmatched,
    )
    return found, match.matched


def _placed(token: Int[Array, "p top"], images: Descriptors) -> Int[Array, "p top"]:
    """The patch that each token lies on."""
    return token if images.positions is None else jnp.take_along_axis(images.positions, token, axis=1)


def _strongest(
    plan: Float[Array, "p n m"],
    similarity: Float[Array, "p n m"],
    contribution: Float[Array, "p n m"],
    structural: Float[Array, " p"],
    error: Float[Array, " p"],
    top: int,
) -> Matches:
    p, n, m = plan.shape
    mass, cosine, parts = (x.reshape(p, n * m) for x in (plan, similarity, contribution))
    largest, where = jax.lax.top_k(parts, min(top, n * m))
    rest = parts.at[jnp.arange(p)[:, None], where].set(0.0)
    return Matches(
        query_patch=where // m,
        candidate_patch=where % m,
        similarity=jnp.take_along_axis(cosine, where, axis=1),
        mass=jnp.take_along_axis(mass, where, axis=1),
        contribution=largest,
        structural=structural,
        remainder=rest.sum(axis=1),
        error=error,
    )
