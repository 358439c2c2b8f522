"""ToMe: bipartite soft matching, in blocks and in the row order of the published code."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.decisions import as_keep, take
from vitjax.sparsify.reduction.base import EveryBlock, StepInput
from vitjax.sparsify.reduction.groups import cosine, falling
from vitjax.sparsify.token_map import TokenMap, rows_after_keeping


def alternating_match(
    metric: Float[Array, "b n w"], r: int, *, class_token: bool = False, distill_token: bool = False
) -> tuple[Int[Array, "b n"], int]:
    """Groups by bipartite soft matching: r of the tokens at even places each join one at an odd place.

    Source: Bolya et al. 2023, ToMe (arXiv:2210.09461), Sec. 3. The first place is even, and the prefix
    counts: with a CLS token alone the second, fourth, ... patch is even. Several may join the same odd one.
    `merge` is the form that blocks use, which keeps raster order.

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


def merge(
    tokens: Float[Array, "b n d"], token_map: TokenMap, keys: Float[Array, "b n w"], r: int, *, prefix: int
) -> tuple[Float[Array, "b m d"], TokenMap]:
    """Merges the r most similar pairs of an even and an odd token into their mean weighted by size.

    Source: Bolya et al. 2023, ToMe (arXiv:2210.09461), Sec. 3, bipartite soft matching. Even tokens
    leave, several may join the same odd one. As in the official code positions count from the start of the
    sequence, so the prefix decides which patches are even: with a class token alone the second, fourth, ...
    Different from that code: what is left stays in raster order instead of evens first, so from the second
    block on the two groups are others than there.
    """
    batch, count, _ = tokens.shape
    unit = keys.astype(jnp.float32)
    unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
    even, odd = prefix % 2, 1 - prefix % 2  # first patches of either parity
    alike = jnp.einsum("baw,bcw->bac", unit[:, even::2], unit[:, odd::2])
    best, partner = alike.max(axis=-1), alike.argmax(axis=-1).astype(jnp.int32)
    which = jax.lax.top_k(best, r)[1].astype(jnp.int32)  # of the even ones leave
    leaving, joined = 2 * which + even, 2 * jnp.take_along_axis(partner, which, axis=1) + odd
    gone = as_keep(leaving, count) > 0
    stay = jnp.argsort(gone, axis=1, stable=True)[:, : count - r].astype(jnp.int32)
    row = rows_after_keeping(stay, count)
    each = jnp.arange(batch)[:, None]
    target = jnp.take_along_axis(row, joined, axis=1)
    row = row.at[each, leaving].set(target)
    weighed = tokens.astype(jnp.float32) * token_map.size[..., None]
    total = take(weighed, stay).at[each, target].add(take(weighed, leaving))
    after = token_map.moved(row, take(token_map.index, stay), take(token_map.score, stay))
    return (total / after.size[..., None]).astype(tokens.dtype), after


@dataclass(frozen=True)
class ToMe(EveryBlock):
    """Merges the r most similar pairs of tokens; Bolya et al. 2023, ToMe (arXiv:2210.09461)."""

    name = "tome"
    merges = True
    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        r = tokens.shape[1] - kept
        return merge(tokens, token_map, self.given_keys(given), r, prefix=given.prefix)
