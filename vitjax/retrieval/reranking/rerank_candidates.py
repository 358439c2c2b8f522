"""The top of a ranking, ordered again by matching patch tokens; the rest keeps its order."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.descriptors import Descriptors
from vitjax.retrieval.gallery.codecs import Codec
from vitjax.retrieval.gallery.quantize import Stored, decode
from vitjax.retrieval.reranking import matching
from vitjax.retrieval.reranking.matching import MatchParams, MatchSpec
from vitjax.retrieval.reranking.pricing import with_price


@struct.dataclass
class Reranked:
    """A new order, and what it is made of; every array is (q, k), on the host, in the new order.

    Attributes:
        index: rows of the gallery, best first, -1 = padding, always last.
        score: structural + weight * pooled for the candidates that were matched. For the others, what they
            would have got at the very least, weight * pooled + the least structural score there is; -inf for
            padding. So a score depends on its own pair only, has a stated range, and never rises along a
            row, if the ranking that came in had falling pooled cosines.
        structural: score of the matched patches, in the range of the method (see `rerank`); NaN where not
            matched: beyond `top_k`, padding, an image without valid tokens, or values that are not finite.
        pooled: cosine of the pooled vectors; NaN for padding.
        error: how far the plan's marginals are from what was asked (L1, rows and columns added); NaN where
            not matched.
        fallback: True where a marginal was all zero or not finite and uniform weights took its place.
        mass: share of the images that was matched, in [0, 1]; NaN where not matched.
    """

    index: Any
    score: Any
    structural: Any
    pooled: Any
    error: Any
    fallback: Any
    mass: Any

    def in_order_of(self, index: Int[np.ndarray, "q k"]) -> "Reranked":
        """The same candidates in another order of theirs."""
        place = np.empty(index.shape, np.int64)
        ours, theirs = (np.argsort(x, axis=1, kind="stable") for x in (self.index, index))
        np.put_along_axis(place, theirs, ours, axis=1)
        return jax.tree.map(lambda x: np.take_along_axis(x, place, axis=1), self)


def rerank(
    queries: Descriptors,
    gallery: DescriptorSet,
    index: Int[Array | np.ndarray, "q k"],
    *,
    config: RerankConfig | None = None,
    mesh: Mesh | None = None,
) -> Reranked:
    """Matches each query with its first `config.top_k` candidates and orders those by the new score.

    Source: "Beyond the CLS Token", BMVC 2022: score = structural + pooled cosine (`config.weight` scales the
    latter), the top reordered, the rest left in its order. Differs from the released code in that each pair
    is solved for itself, until its iterations are used up or its own marginal error is small enough.
    Equal scores keep the order they had.

    | config.method | structural score | range |
    |---|---|---|
    | transport, tau 1 | sum(plan * similarity), a share `mass` of each image matched | [-mass, mass] |
    | transport, mass "auto" or "mutual" | sum(plan * similarity) + (1 - price) * (1 - mass) | [-1, 1] |
    | transport, tau < 1 | sum(plan * similarity) / sum(plan), tokens may stay out | [-1, 1] |
    | chamfer | mean best match, both ways | [-1, 1] |
    | mutual | share of the images in mutual nearest neighbours | [0, 1] |
    | pooled | 0: the order of the pooled cosine alone | 0 |

    `partial_match`, `priced_match`, `mutual_mass_match`, `relaxed_match`, `chamfer_match` and `mutual_match`
    of `vitjax.ot` define them. Where a price is needed and `config.price` is 0, random pairs of the gallery
    set it (`match_price`): they are taken to be unrelated, and a score is then relative to that gallery. A
    score lies in the range of the structural score plus [-weight, weight].

    Pairs go through the device in blocks of one fixed shape, so there is one compilation whatever the number
    of queries, and for a gallery on the host also for galleries of similar size. Memory on each device: a
    block, 128 pairs on a CPU and about 1 GiB on an accelerator, and for descriptors the gallery (about 4 t d
    bytes an image; it stays there during the call, so `jax.device_put` it once when calling often). Of a
    `Gallery` only the candidates of a block are there, as they are stored; the next block's are read while
    it is matched, by each process for its own devices.

    Args:
        queries: q images.
        gallery: n images, in memory or on a disk; tokens of the same length, not necessarily as many.
        index: rows of the gallery per query, best first, as `search` returns it; -1 = padding.
        config: see `vitjax.config.RerankConfig`; None: its defaults.
        mesh: spreads the pairs over its devices; each holds the descriptors. None: one device.

    Raises:
        GalleryError: damage among the candidates.
        ValueError: rows outside of the gallery, descriptors that do not fit together, config out of range.
    """
    config = with_price(config or RerankConfig(), gallery)
    spec, params = matching.settings(config)
    matching.check_pair(queries, gallery, config.marginals, "rerank")
    index = _checked(index, len(queries), len(gallery))
    q, k = index.shape
    queries, head = sharding.fetch(queries), min(config.top_k, k)
    found = _match_head(queries, gallery, index[:, :head], spec, params, mesh)
    tail = _pooled(queries.pooled, gallery, index[:, head:])
    blank = np.full(tail.shape, np.nan, np.float32)
    least = matching.unmatched_score(tail, params)
    joined = {
        "index": index,
        "score": np.concatenate([found["score"], least], axis=1).astype(np.float32),
        "structural": np.concatenate([found["structural"], blank], axis=1),
        "pooled": np.concatenate([found["pooled"], tail], axis=1),
        "error": np.concatenate([found["error"], blank], axis=1),
        "fallback": np.concatenate([found["fallback"], np.zeros(tail.shape, bool)], axis=1),
        "mass": np.concatenate([found["mass"], blank], axis=1),
    }
    padding = index < 0
    for name in ("structural", "pooled", "error", "mass"):
        joined[name][padding] = np.nan
    joined["score"][padding] = -np.inf
    joined["fallback"][padding] = False
    return _by_score(Reranked(**joined), np.broadcast_to(np.arange(k) < head, (q, k)))


def reweighed(after: Reranked, before: Int[np.ndarray, "q k"], config: RerankConfig) -> Reranked:
    """The order that another `config.weight` gives, without matching anything again.

    Args:
        after: a result of `rerank`.
        before: the ranking it was made of.
        config: the one given to `rerank`, but for the weight.
    """
    _, params = matching.settings(config)
    found = after.in_order_of(before)
    score = np.where(
        np.isfinite(found.structural),
        found.structural + params.weight * found.pooled,
        matching.unmatched_score(found.pooled, params),
    ).astype(np.float32)
    head = np.broadcast_to(np.arange(before.shape[1]) < config.top_k, before.shape)
    return _by_score(found.replace(score=score), head)  # pyright: ignore[reportAttributeAccessIssue]


def _by_score(found: Reranked, head: np.ndarray) -> Reranked:
    """Within the head by score, equal ones in the order they have; then the rest; padding last."""
    # lexsort is stable and its last key leads.
    keys = np.where(head, -found.score, 0.0), ~head, found.index < 0
    order = np.lexsort(keys, axis=1)
    return jax.tree.map(lambda x: np.take_along_axis(x, order, axis=1), found)


def _checked(index: Any, queries: int, rows: int) -> np.ndarray:
    index = np.asarray(index)
    if index.ndim != 2 or len(index) != queries or not np.issubdtype(index.dtype, np.integer):
        raise UserError(
            f"rerank: index is {index.dtype} of shape {index.shape} for {queries} queries; "
            "expected integers (queries, k)"
        )
    if index.size and (index.min() < -1 or index.max() >= rows):
        raise UserError(
            f"rerank: index holds rows {index.min()} to {index.max()}, but the gallery has {rows}; "
            "rows count from 0, and -1 is padding"
        )
    return index.astype(np.int32)


def _match_head(
    queries: Descriptors,
    gallery: DescriptorSet,
    index: np.ndarray,
    spec: MatchSpec,
    params: MatchParams,
    mesh: Mesh | None,
) -> dict[str, np.ndarray]:
    """Scores of all pairs of `index`, block by block, in its shape."""
    names: tuple[str, ...] = ("score", "structural", "pooled", "error", "fallback", "mass", "matched")
    q, k = index.shape
    if not index.size:
        return {name: np.zeros((q, k), bool if name == "fallback" else np.float32) for name in names}
    most = matching.pairs_per_block(queries.tokens.shape[1], *gallery.sizes[2:])
    parts = -(-k // most)  # a query with more candidates than a block holds is cut into even parts
    width = -(-k // parts)
    lines = np.pad(index, ((0, 0), (0, parts * width - k)), constant_values=-1).reshape(q * parts, width)
    height = max(1, most // width) * (1 if mesh is None else mesh.size)
    done, pending = [], None
    blocks = (sharding.pad_rows(lines + 1, height) - 1).reshape(-1, height, width)  # pads with -1
    for i, block in enumerate(gallery.candidate_blocks(blocks, mesh)):
        owner = np.arange(i * height, min((i + 1) * height, len(lines))) // parts
        part = sharding.pad_rows(queries.take(owner), height)
        part = jax.device_put(part) if mesh is None else sharding.spread_rows(part, mesh)
        # One block computes while the one before it is fetched: bounded memory, no idle device.
        candidates = [block.index, block.rows, block.codec]
        computing = _match_block(part, candidates, params, spec=spec, mesh=mesh, shared=block.shared)
        pending, before = computing, pending
        if before is not None:
            done.append(sharding.fetch(before))
    done.append(sharding.fetch(pending))
    columns = (
        np.concatenate(x)[: len(lines)].reshape(q, parts * width)[:, :k] for x in zip(*done, strict=True)
    )
    found: dict[str, np.ndarray] = dict(zip(names, columns, strict=True))
    for name in ("structural", "error", "mass"):
        found[name] = matching.only_matched(found[name], found["matched"])
    return found


@functools.partial(jax.jit, static_argnames=("spec", "mesh", "shared"))
def _match_block(
    queries: Descriptors,
    candidates: Sequence[Any],
    params: MatchParams,
    *,
    spec: MatchSpec,
    mesh: Mesh | None,
    shared: bool,
) -> tuple[Array, ...]:
    """Matches a block of queries with their candidates: index, rows and codec of a `CandidateBlock`."""

    def local(queries: Descriptors, candidates: Sequence[Any], params: MatchParams) -> tuple[Array, ...]:
        match = matching.match_block(queries, _gathered(*candidates), spec, params)
        scores = match.score, match.structural, match.pooled, match.error, match.fallback, match.mass
        return *scores, match.matched

    if mesh is None:
        return local(queries, candidates, params)
    # Each device solves its own pairs: no communication, whatever a solver does inside.
    rows, whole = sharding.ROWS, PartitionSpec()
    specs = (rows, [rows, whole if shared else rows, whole], whole)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(
        queries, candidates, params
    )


def _gathered(block: Int[Array, "b k"], rows: Descriptors | Stored, codec: Codec | None) -> Descriptors:
    """Descriptors of a block's candidates; under jit, on each device for its part."""
    # Padding reads row 0, and its result is dropped later.
    found = rows.take(jnp.maximum(block, 0))
    return decode(found, codec) if isinstance(found, Stored) else found


def _pooled(queries: np.ndarray, gallery: DescriptorSet, index: np.ndarray) -> np.ndarray:
    """Cosines of the candidates that are not matched, on the host in blocks of about 64 MiB."""
    found = np.zeros(index.shape, np.float32)
    if not index.size:
        return found
    step = max(1, 2**24 // (index.shape[1] * queries.shape[1]))
    for start in range(0, len(index), step):
        rows = slice(start, start + step)
        unique, where = np.unique(np.maximum(index[rows], 0), return_inverse=True)
        pooled = gallery.read_pooled(unique)()[0].astype(np.float32)[where.reshape(index[rows].shape)]
        found[rows] = np.matmul(pooled, queries[rows, :, None])[:, :, 0]
    return found
