"""Weights of an image's patch tokens: how much mass each may send or receive.

Every function returns weights that sum to 1 over the valid tokens. Where the raw weights are all zero or not
finite (cross-correlation with a CLS token that is orthogonal to every patch, say), uniform weights
replace them; `pair_marginals` tells where. An image without a single valid token has weights 0.

Source of the kinds: DIML (ICCV 2021, arXiv:2108.05889) and "Beyond the CLS Token" (BMVC 2022). Difference
from their code: divided by the sum, not by the sum + 1e-5; that form is in `vitjax.ot.released`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vitjax import ranges
from vitjax.errors import UserError
from vitjax.ot import released
from vitjax.ot.outputs import PairMarginals, Values

KINDS = ("uniform", "rollout", "keep", "learned", "cross_correlation", "inverse", "complement", "softmax")


def uniform(valid: Bool[Values, "*batch n"]) -> Float[Array, "*batch n"]:
    """Same weight for every valid token."""
    return _normalise(_even(valid), valid)[0]


def cross_correlation(
    tokens: Float[Values, "*batch n d"],
    other: Float[Values, "*batch d"],
    *,
    valid: Bool[Values, "*batch n"] | None = None,
) -> Float[Array, "*batch n"]:
    """More weight on tokens that look like the other image: relu(token . other).

    Args:
        tokens: of one image, L2-normalised.
        other: pooled vector of the image it is compared with, L2-normalised.
        valid: False = padding, weight 0.

    Returns:
        Weights that sum to 1.
    """
    return _of_tokens("cross_correlation", tokens, other, valid)


def inverse(
    tokens: Float[Values, "*batch n d"],
    other: Float[Values, "*batch d"],
    *,
    temperature: float | int | np.number = 0.1,
    valid: Bool[Values, "*batch n"] | None = None,
) -> Float[Array, "*batch n"]:
    """Less weight on tokens that look like the other image: exp(-relu(token . other) / temperature)."""
    ranges.check("vitjax.ot.marginals", "temperature", temperature, 0, above=True)
    return _of_tokens("inverse", tokens, other, valid, temperature)


def complement(
    tokens: Float[Values, "*batch n d"],
    other: Float[Values, "*batch d"],
    *,
    valid: Bool[Values, "*batch n"] | None = None,
) -> Float[Array, "*batch n"]:
    """Less weight on tokens that look like the other image: 1 - relu(token . other)."""
    return _of_tokens("complement", tokens, other, valid)


def softmax(
    tokens: Float[Values, "*batch n d"],
    other: Float[Values, "*batch d"],
    *,
    valid: Bool[Values, "*batch n"] | None = None,
) -> Float[Array, "*batch n"]:
    """Mildly more weight on tokens that look like the other image: softmax over tokens of token . other."""
    return _of_tokens("softmax", tokens, other, valid)


def from_rollout(
    weights: Float[Values, "*batch n"], *, valid: Bool[Values, "*batch n"] | None = None
) -> Float[Array, "*batch n"]:
    """Given weights, negative ones cut to 0; those of `attention_rollout`, or any other."""
    return _normalise(jax.nn.relu(weights), valid)[0]


def from_keep_scores(
    log_probabilities: Float[Values, "*batch n 2"], *, valid: Bool[Values, "*batch n"] | None = None
) -> Float[Array, "*batch n"]:
    """Weights in proportion to a token's probability of being kept.

    Args:
        log_probabilities: of a pruning stage, as in `BackboneOutput.scores`; index 0 = keep.
        valid: False = padding, weight 0.

    Returns:
        Weights that sum to 1.
    """
    return _normalise(jnp.exp(log_probabilities[..., 0]), valid)[0]


def pair_marginals(
    kind: str,
    query_tokens: Float[Values, "*batch n d"],
    candidate_tokens: Float[Values, "*batch m d"],
    query_pooled: Float[Values, "*batch _"],
    candidate_pooled: Float[Values, "*batch _"],
    *,
    query_weights: Float[Values, "*batch n"] | None = None,
    candidate_weights: Float[Values, "*batch m"] | None = None,
    query_valid: Bool[Values, "*batch n"] | None = None,
    candidate_valid: Bool[Values, "*batch m"] | None = None,
    compat: str | None = None,
) -> PairMarginals:
    """Weights of both images of a pair, each by the tokens of one and the pooled vector of the other.

    Args:
        kind: "uniform", "rollout", "keep" or "learned" (the given weights), "cross_correlation", "inverse",
            "complement" or "softmax".
        query_tokens: L2-normalised.
        candidate_tokens: L2-normalised.
        query_pooled: L2-normalised.
        candidate_pooled: L2-normalised.
        query_weights: of the query's tokens, non-negative; "rollout", "keep" and "learned" need them, no
            other kind uses them.
        candidate_weights: likewise.
        query_valid: False = padding, weight 0; None: no token is padding.
        candidate_valid: likewise.
        compat: "released" divides by the sum + 1e-5 and replaces nothing.

    Returns:
        Both marginals, and where uniform weights replaced either.
    """
    query_valid, candidate_valid = (
        jnp.ones(tokens.shape[:-1], bool) if valid is None else jnp.asarray(valid)
        for tokens, valid in ((query_tokens, query_valid), (candidate_tokens, candidate_valid))
    )
    if kind == "uniform":
        a_raw, b_raw = _even(query_valid), _even(candidate_valid)
    elif kind in ("rollout", "keep", "learned"):
        if query_weights is None or candidate_weights is None:
            raise UserError(f"vitjax.ot.marginals: kind {kind!r} needs query_weights and candidate_weights")
        a_raw, b_raw = jax.nn.relu(query_weights), jax.nn.relu(candidate_weights)
    else:
        a_raw = _raw(kind, query_tokens, candidate_pooled, query_valid)
        b_raw = _raw(kind, candidate_tokens, query_pooled, candidate_valid)
    if compat not in (None, "released"):
        raise UserError(f"vitjax.ot.marginals: compat {compat!r} is unknown; known: None, 'released'")
    normalise = released.normalise if compat == "released" else _normalise
    a, a_fallback = normalise(a_raw, query_valid)
    b, b_fallback = normalise(b_raw, candidate_valid)
    return PairMarginals(a, b, a_fallback | b_fallback)


def _raw(kind: str, tokens: Values, other: Values, valid: Values, temperature: Any = 0.1) -> Array:
    """Weights before they are made to sum to 1, of a kind that compares tokens with the other image."""
    # Float32 whatever the tokens were: exp(-c / 0.1) of a bfloat16 cosine is off by several percent.
    dtype = jnp.promote_types(tokens.dtype, jnp.float32)
    c = jnp.einsum(
        "...nd,...d->...n", tokens.astype(dtype), other.astype(dtype), precision=jax.lax.Precision.HIGHEST
    )
    if kind == "softmax":
        weights = jnp.where(valid, jnp.exp(c), 0.0)  # of a cosine: no overflow
        return weights / jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(dtype).tiny)
    kinds = {
        "cross_correlation": jax.nn.relu,
        "inverse": lambda c: jnp.exp(-jax.nn.relu(c) / temperature),
        "complement": lambda c: 1.0 - jax.nn.relu(c),
    }
    if kind not in kinds:
        raise UserError(
            f"vitjax.ot.marginals: kind {kind!r} is unknown; known: {', '.join(map(repr, KINDS))}"
        )
    return kinds[kind](c)


def _of_tokens(
    kind: str, tokens: Values, other: Values, valid: Values | None, temperature: Any = 0.1
) -> Array:
    valid = jnp.ones(tokens.shape[:-1], bool) if valid is None else valid
    return _normalise(_raw(kind, tokens, other, valid, temperature), valid)[0]


def _even(valid: Values) -> Array:
    valid = jnp.asarray(valid)
    return valid / jnp.maximum(valid.sum(-1, keepdims=True), 1).astype(jnp.float32)


def _normalise(weights, valid) -> tuple[Array, Array]:
    """Weights over their sum, and True where uniform ones were needed."""
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    valid = jnp.ones(weights.shape, bool) if valid is None else valid
    weights = jnp.where(valid, weights, 0.0)
    total = weights.sum(-1, keepdims=True)
    # Sums so small that dividing by them overflows are as good as zero.
    usable = jnp.isfinite(total) & (total > 1e-20)
    # The inner `where` keeps NaN out of the gradient, which passes through both branches of the outer one.
    share = jnp.where(usable, weights, 0.0) / jnp.where(usable, total, 1.0)
    return jnp.where(usable, share, _even(valid).astype(weights.dtype)), ~usable[..., 0]
