"""Masked softmax attention with gradients for dropped tokens (DynamicViT, Eqs. 10 and 11)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.errors import UserError

_EPS = 1e-6  # of the released form
# Above every kept logit by more than this, the gradient of a dropped one's decision no longer grows: exp of
# it must stay finite.
_LEAD = 30.0


def masked_softmax(
    logits: Float[Array, "b heads n m"],
    keep: Float[Array, "b m"],
    *,
    compat: str | None = None,
) -> Float[Array, "b heads n m"]:
    """Softmax over the kept keys and the token itself, in float32.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eqs. 10 and 11: exponentials are multiplied by
    `keep`, not shifted by a large number, so that a dropped token's decision receives the gradient of what
    the others would see. The diagonal is 1 whatever `keep` says, so every row has something to sum. As in
    the official code a dropped token is not seen by others but still looks at the kept ones; kept tokens see
    what they would if the paper's keep_i * keep_j had been taken.

    Args:
        logits: queries in rows, keys in columns, the same tokens.
        keep: 1 = kept, 0 = dropped; values between carry gradient.
        compat: "released": the official code's numbers. It takes the maximum over dropped keys too, so that
            one large dropped logit makes a row uniform, and smooths by 1e-6. None: over kept keys, no
            smoothing.

    Returns:
        Weights; rows sum to 1.
    """
    logits, keep = logits.astype(jnp.float32), keep.astype(jnp.float32)
    count = logits.shape[-1]
    seen = keep[:, None, None, :]
    own = jnp.eye(count, dtype=bool)[None, None]
    seen = jnp.where(own, 1.0, seen)
    if compat == "released":
        # The smoothing lets the maximum have a gradient, which goes to the first of equals.
        first = jnp.argmax(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - jnp.take_along_axis(logits, first, axis=-1)) * seen
        return (weights + _EPS / count) / (weights.sum(axis=-1, keepdims=True) + _EPS)
    if compat is not None:
        raise UserError(f"compat {compat!r} is unknown; 'released' or None.")
    # A key of almost 0 does not count as seen here: the row's sum would vanish with it.
    highest = jax.lax.stop_gradient(jnp.where(seen > 1e-6, logits, -jnp.inf).max(axis=-1, keepdims=True))
    weights = jnp.exp(jnp.minimum(logits - highest, _LEAD)) * seen
    return weights / weights.sum(axis=-1, keepdims=True)


def masked_attention(
    query: Float[Array, "b n heads w"],
    key: Float[Array, "b n heads w"],
    value: Float[Array, "b n heads w"],
    keep: Float[Array, "b n"],
    *,
    bias: Float[Array, "b heads n n"] | None = None,
    compat: str | None = None,
) -> tuple[Float[Array, "b n heads w"], Float[Array, "b heads n n"]]:
    """Self-attention among kept tokens and its weights; see `masked_softmax`.

    Scale 1 / sqrt(head width); `bias` is added to the products. Result in the type of `value`.
    """
    factor = query.shape[-1] ** -0.5
    logits = jnp.einsum("bnhw,bmhw->bhnm", query, key, preferred_element_type=jnp.float32) * factor
    logits = logits if bias is None else logits + bias
    weights = masked_softmax(logits, keep, compat=compat)
    return jnp.einsum("bhnm,bmhw->bnhw", weights.astype(value.dtype), value), weights
