"""ToMe: bipartite soft matching of a whole sequence, in the row order of the published code."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.reduction.groups import cosine, falling


def alternating_match(
    metric: Float[Array, "b n w"], r: int, *, class_token: bool = False, distill_token: bool = False
) -> tuple[Int[Array, "b n"], int]:
    """Groups by bipartite soft matching: r of the tokens at even places each join one at an odd place.

    Source: Bolya et al. 2023, ToMe (arXiv:2210.09461), Sec. 3. The first place is even, and the prefix
    counts: with a CLS token alone the second, fourth, ... patch is even. Several may join the same odd one.
    `vitjax.sparsify.reducers.merge` is the form that blocks use, which keeps raster order.

    Args:
        metric: what is compared by cosine; ToMe: keys, mean over heads.
        r: tokens that leave, at most half of those that are no prefix.
        class_token: the first token stays.
        distill_token: none joins the second.

    Returns:
        The row each token goes to, and the number of rows: even ones that stay (ascending with a class token,
        else by falling similarity to their partner), then the odd ones; with a distillation token the prefix
        comes first.
    """
    count = metric.shape[1]
    r = max(0, min(r, (count - class_token - distill_token) // 2))
    alike = cosine(metric[:, 0::2], metric[:, 1::2])
    if class_token:
        alike = alike.at[:, 0].set(-jnp.inf)
    if distill_token:
        alike = alike.at[:, :, 0].set(-jnp.inf)
    order = falling(alike.max(axis=-1))
    stay = jnp.sort(order[:, r:], axis=-1) if class_token else order[:, r:]
    evens, odds = alike.shape[1] - r, alike.shape[2]
    row_of_odd = evens + jnp.arange(odds, dtype=jnp.int32)
    row_of_stay = jnp.arange(evens, dtype=jnp.int32)
    if distill_token:
        row_of_odd = jnp.where(jnp.arange(odds) == 0, 1, row_of_odd)
        row_of_stay = jnp.where(row_of_stay == 0, 0, row_of_stay + 1)
    partner = row_of_odd[alike.argmax(axis=-1)]
    each = jnp.arange(len(metric))[:, None]
    even_rows = partner.at[each, stay].set(jnp.broadcast_to(row_of_stay[None], stay.shape))
    source = jnp.zeros(metric.shape[:2], jnp.int32).at[:, 0::2].set(even_rows)
    return source.at[:, 1::2].set(jnp.broadcast_to(row_of_odd[None], (len(metric), odds))), count - r


def every_kth_match(metric: Float[Array, "b n w"], k: int) -> tuple[Int[Array, "b n"], int]:
    """Groups in which every k-th token stays, and each other one joins the most similar of those.

    Source: the same authors' code. Tokens after the last full group of k are dropped.

    Returns:
        As `alternating_match`; rows are those that stay, ascending.

    Raises:
        UserError: k below 2, or no full group.
    """
    batch, count = metric.shape[:2]
    groups = count // k if k > 1 else 0
    if groups < 1:
        raise UserError(f"k is {k}; it must be from 2 to {count}, the number of tokens.")
    places = jnp.arange(count)
    stays = (places % k == k - 1)[None]
    source = cosine(metric, metric[:, k - 1 :: k][:, :groups]).argmax(axis=-1)
    source = jnp.where(stays, (places // k)[None], source)
    source = jnp.where((places < groups * k)[None], source, -1).astype(jnp.int32)
    return jnp.broadcast_to(source, (batch, count)), groups
