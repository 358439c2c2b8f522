"""Whole transport plans of given pairs, block by block; the report page draws every patch from them."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.reranking import matching
from vitjax.retrieval.reranking.matching import MatchParams, MatchSpec, PairMatch
from vitjax.retrieval.reranking.pricing import with_price

_PAIRS = 32  # in a block, at most


class PairPlan(NamedTuple):
    """One pair matched, whole; its structural score is the sum of `contribution` plus `unmatched`.

    Tokens are those of the descriptors, in their order; `Descriptors.positions` has their patches.

    Attributes:
        mass: (n, m), share of the images' weight that moves between two tokens.
        contribution: (n, m), what that adds to the structural score.
        query_weights: (n,), what the query's tokens weigh in this pair; 0 for tokens that are not there.
        candidate_weights: (m,), likewise.
        unmatched: what unmatched mass adds; 0 without a price.
    """

    mass: Any
    contribution: Any
    query_weights: Any
    candidate_weights: Any
    unmatched: Any

    @property
    def left_out(self) -> Any:
        """The old name of `unmatched`, for one version."""
        warnings.warn("PairPlan.left_out is unmatched now", DeprecationWarning, stacklevel=2)
        return self.unmatched


def pair_plans(
    queries: DescriptorSet,
    gallery: DescriptorSet,
    query_rows: Int[Array | np.ndarray, " p"],
    gallery_rows: Int[Array | np.ndarray, " p"],
    *,
    config: RerankConfig | None = None,
) -> Iterator[PairPlan]:
    """Matches given pairs again, as `rerank` did, and yields the whole plan of each, on the host.

    Two blocks of at most 32 pairs are in memory at a time. Arguments and errors are those of `match_pairs`.
    """
    rows = query_rows, gallery_rows
    for block in in_blocks(_match_whole, queries, gallery, rows, config, "pair_plans"):
        yield from (PairPlan(*each) for each in zip(*block, strict=True))


def in_blocks(
    run: Callable[..., Any],
    queries: DescriptorSet,
    gallery: DescriptorSet,
    rows: tuple[Int[Array | np.ndarray, " p"], Int[Array | np.ndarray, " p"]],
    config: RerankConfig | None,
    where: str,
) -> Iterator[Any]:
    """What `run` gives for each block of pairs, on the host; the next one computes while it is read.

    Args:
        run: `(queries, candidates, params, spec=)` -> arrays with a leading axis of pairs, jitted; blocks
            have one fixed shape.
        queries: as given to `rerank`.
        gallery: likewise.
        rows: the query and the candidate of each pair.
        config: the one given to `rerank`; None: the defaults.
        where: begins the message of an error.

    Yields:
        at least one block; without pairs it is empty.

    Raises:
        ValueError: rows out of range, descriptors that do not fit together, config out of range.
    """
    config = with_price(config or RerankConfig(), gallery)
    spec, params = matching.settings(config)
    matching.check_pair(queries, gallery, config.marginals, where)
    pairs = np.stack([np.asarray(x) for x in rows], axis=1).reshape(-1, 2)
    sizes = np.array([len(queries), len(gallery)])
    if ((pairs < 0) | (pairs >= sizes[None, :])).any():
        raise UserError(
            f"{where}: rows must be in 0..{sizes[0] - 1} (queries) and 0..{sizes[1] - 1} (gallery)"
        )
    most = min(matching.pairs_per_block(queries.sizes.tokens, *gallery.sizes[2:]), _PAIRS)
    pending, size = None, 0
    for start in range(0, max(len(pairs), 1), most):
        part = pairs[start : start + most]
        block = sharding.pad_rows(part, most)
        found = run(queries.take(block[:, 0]), gallery.take(block[:, 1]), params, spec=spec)
        if pending is not None:
            yield _real(pending, size)
        pending, size = found, len(part)
    yield _real(pending, size)


def _real(block: Any, size: int) -> Any:
    return jax.tree.map(lambda x: x[:size], sharding.fetch(block))


def match_each(
    queries: Descriptors, candidates: Descriptors, params: MatchParams, spec: MatchSpec
) -> PairMatch:
    """Matches p queries with a candidate each; to be called under jit."""
    alone = jax.tree.map(lambda x: x[:, None], candidates)
    return jax.tree.map(lambda x: x[:, 0], matching.match_block(queries, alone, spec, params))


@functools.partial(jax.jit, static_argnames="spec")
def _match_whole(
    queries: Descriptors, candidates: Descriptors, params: MatchParams, *, spec: MatchSpec
) -> PairPlan:
    match = match_each(queries, candidates, params, spec)
    return PairPlan(
        match.plan, match.contribution, match.query_weights, match.candidate_weights, match.unmatched
    )
