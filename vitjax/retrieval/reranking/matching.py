"""One block of image pairs matched on a device: the core that reranking and explaining share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from vitjax.config import RerankConfig, validate_rerank
from vitjax.errors import UserError
from vitjax.ot import (
    Solver,
    StructuralMatch,
    Transport,
    chamfer_match,
    mutual_mass_match,
    mutual_match,
    partial_match,
    priced_match,
    relaxed_match,
    unmatched_term,
)
from vitjax.ot.marginals import pair_marginals
from vitjax.ot.solvers import find_solver
from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.descriptors import Descriptors

_CROSS = ("cross_correlation", "inverse", "complement", "softmax")  # compare pooled vectors with tokens
_CPU_PAIRS = 128  # enough to keep the cores busy; more would only be padding for a single query
_BLOCK_BYTES = 2**30  # of an accelerator's memory, for one block of pairs


class MatchSpec(NamedTuple):
    """The static part of a rerank config: a change of it compiles anew."""

    method: str  # of _METHODS
    marginals: str
    iterations: int
    solver: Solver
    fixed_iterations: bool
    tau: float | None  # for a solver that wants it as a plain number


@struct.dataclass
class MatchParams:
    """The dynamic part of a rerank config: a change of it compiles nothing."""

    epsilon: Any
    mass: Any
    price: Any
    tau: Any
    tolerance: Any
    weight: Any
    lowest: Any  # the least structural score there is


@struct.dataclass
class PairMatch:
    """Results of a block of b queries with k candidates each.

    Attributes:
        matched: (b, k), False where the pair could not be: `only_matched` then puts NaN on the host. Inside
            of jit structural, error and mass are 0 there, so that `jax_debug_nans` finds faults alone.
        score: (b, k), structural + weight * pooled; see `rerank` for pairs that could not be matched.
        structural: (b, k).
        pooled: (b, k), cosine of the pooled vectors.
        error: (b, k), L1 distance of the plan's marginals from the wanted ones, rows and columns added.
        fallback: (b, k), True where a marginal was unusable and was replaced by uniform.
        mass: (b, k), share of the images that was matched.
        plan: (b, k, n, m).
        similarity: (b, k, n, m).
        contribution: (b, k, n, m), what each patch pair adds to the structural score.
        unmatched: (b, k), what unmatched mass adds to it; 0 without a price.
        query_weights: (b, k, n), what each token of the query weighed in this pair.
        candidate_weights: (b, k, m), likewise.
    """

    matched: Any
    score: Any
    structural: Any
    pooled: Any
    error: Any
    fallback: Any
    mass: Any
    plan: Any
    similarity: Any
    contribution: Any
    unmatched: Any
    query_weights: Any
    candidate_weights: Any


def settings(config: RerankConfig) -> tuple[MatchSpec, MatchParams]:
    """Splits a config into its static and dynamic parts; raises ValueError where it is out of range."""
    validate_rerank(config)
    method, mass = config.method, config.mass
    if method == "transport" and isinstance(mass, str):
        method = {"auto": "priced", "mutual": "mutual_mass"}[mass]
    elif method == "transport":
        method = "relaxed" if config.tau < 1 else "partial" if float(mass) < 1 else "balanced"
    solver = find_solver(config.solver)
    spec = MatchSpec(
        method=method,
        marginals=config.marginals,
        iterations=int(config.iterations),
        solver=solver,
        fixed_iterations=bool(config.tolerance <= 0),
        tau=float(config.tau) if solver.plain_taus else None,
    )
    mass = 1.0 if isinstance(mass, str) else mass
    lowest = {"partial": -mass, "mutual": 0.0, "pooled": 0.0}.get(method, -1.0)
    values = (config.epsilon, mass, config.price, config.tau, config.tolerance, config.weight, lowest)
    return spec, MatchParams(*(np.float32(x) for x in values))


def pairs_per_block(n: int, m: int, d: int) -> int:
    """How many pairs of n and m tokens of length d one block holds on one device.

    On an accelerator a block's tokens, similarities and plans stay below about 1 GiB; on a CPU it is 128
    pairs, or fewer where they would take more.
    """
    each = 4 * (d * (n + m) + 6 * n * m)
    most = max(1, _BLOCK_BYTES // each)
    return min(most, _CPU_PAIRS) if jax.default_backend() == "cpu" else most


def match_block(
    queries: Descriptors, candidates: Descriptors, spec: MatchSpec, params: MatchParams
) -> PairMatch:
    """Matches b queries with k candidates each, every pair for itself; to be called under jit.

    The same score as the method's function in `vitjax.ot` gives each pair; only the similarities of a query
    with all its candidates are one matrix product, several times faster than one product per pair.

    Args:
        queries: arrays with leading axis b.
        candidates: arrays with leading axes b, k.
        spec: static.
        params: float32 scalars.
    """
    k = candidates.pooled.shape[1]
    spread = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], k, *x.shape[1:])), queries)
    marginals = pair_marginals(
        spec.marginals,
        spread.tokens,
        candidates.tokens,
        spread.pooled,
        candidates.pooled,
        query_weights=spread.weights,
        candidate_weights=candidates.weights,
        query_valid=spread.valid,
        candidate_valid=candidates.valid,
    )
    similarity = jnp.einsum("bnd,bkmd->bknm", queries.tokens, candidates.tokens, precision="highest")
    match = _METHODS[spec.method](similarity, marginals.a, marginals.b, spec, params)
    pooled = jnp.einsum("bd,bkd->bk", queries.pooled, candidates.pooled, precision="highest")
    matched = spread.valid.any(axis=2) & candidates.valid.any(axis=2) & jnp.isfinite(match.score)
    error = match.transport.row_error + match.transport.col_error
    least = unmatched_score(pooled, params)
    return PairMatch(
        matched=matched,
        score=jnp.where(matched, match.score + params.weight * pooled, least),
        structural=jnp.where(matched, match.score, 0.0),
        pooled=pooled,
        error=jnp.where(matched, error, 0.0),
        fallback=marginals.fallback,
        mass=jnp.where(matched, match.transport.mass, 0.0),
        plan=match.transport.plan,
        similarity=similarity,
        contribution=match.transport.plan * (1.0 if spec.method == "mutual" else similarity),
        unmatched=unmatched_term(match.transport.mass, params.price) * (spec.method in _PRICED),
        query_weights=marginals.a,
        candidate_weights=marginals.b,
    )


def _solver(spec: MatchSpec, params: MatchParams) -> dict[str, Any]:
    return {
        "epsilon": params.epsilon,
        "iterations": spec.iterations,
        # A plain number chooses the cheaper program: no test for convergence.
        "tolerance": 0.0 if spec.fixed_iterations else params.tolerance,
        "solver": spec.solver,
    }


def _balanced(similarity: Array, a: Array, b: Array, spec: MatchSpec, params: MatchParams) -> StructuralMatch:
    return partial_match(similarity, a, b, mass=1.0, **_solver(spec, params))


def _partial(similarity: Array, a: Array, b: Array, spec: MatchSpec, params: MatchParams) -> StructuralMatch:
    return partial_match(similarity, a, b, mass=params.mass, **_solver(spec, params))


def _relaxed(similarity: Array, a: Array, b: Array, spec: MatchSpec, params: MatchParams) -> StructuralMatch:
    tau = params.tau if spec.tau is None else spec.tau
    return relaxed_match(similarity, a, b, tau_a=tau, tau_b=tau, **_solver(spec, params))


def _priced(similarity: Array, a: Array, b: Array, spec: MatchSpec, params: MatchParams) -> StructuralMatch:
    return priced_match(similarity, a, b, price=params.price, **_solver(spec, params))


def _mutual_mass(
    similarity: Array, a: Array, b: Array, spec: MatchSpec, params: MatchParams
) -> StructuralMatch:
    return mutual_mass_match(similarity, a, b, price=params.price, **_solver(spec, params))


def _pooled(similarity: Array, a: Array, b: Array, spec: MatchSpec, params: MatchParams) -> StructuralMatch:
    none = jnp.zeros(similarity.shape[:2], similarity.dtype)
    return StructuralMatch(none, Transport(jnp.zeros_like(similarity), none, none, none), similarity)


_METHODS = {
    "balanced": _balanced,
    "partial": _partial,
    "relaxed": _relaxed,
    "priced": _priced,
    "mutual_mass": _mutual_mass,
    "chamfer": lambda similarity, a, b, spec, params: chamfer_match(similarity, a, b),
    "mutual": lambda similarity, a, b, spec, params: mutual_match(similarity, a, b),
    "pooled": _pooled,
}
_PRICED = ("priced", "mutual_mass")


def only_matched(values: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """What a block gave, on the host, with NaN for pairs that could not be matched."""
    return np.where(matched, values, np.float32(np.nan))


def unmatched_score(pooled: Any, params: MatchParams) -> Any:
    """Score of a pair that was not matched: the least it could have got; -inf without a pooled cosine."""
    xp = jnp if isinstance(pooled, jax.Array) else np
    return xp.where(xp.isnan(pooled), -xp.inf, params.weight * pooled + params.lowest)


def check_pair(queries: DescriptorSet, gallery: DescriptorSet, marginals: str, where: str) -> None:
    """Raises ValueError where two sets of descriptors cannot be compared."""
    if not len(gallery):
        raise UserError(f"{where}: the gallery is empty")
    ours, theirs = (x.sizes.pooled for x in (queries, gallery))
    tokens, their_tokens = (x.sizes.length for x in (queries, gallery))
    if ours != theirs or tokens != their_tokens:
        raise UserError(
            f"{where}: queries have pooled length {ours} and token length {tokens}, the gallery {theirs} and "
            f"{their_tokens}; describe both with the same model and block"
        )
    if marginals in _CROSS and ours != tokens:
        raise UserError(
            f"{where}: marginals {marginals!r} compare pooled vectors (length {ours}) with tokens (length "
            f"{tokens}), so the lengths must be equal; use 'uniform' or 'rollout'"
        )
