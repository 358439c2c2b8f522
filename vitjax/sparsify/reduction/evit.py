"""EViT: tokens that CLS attends to stay, the others become one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.sparsify.decisions import take
from vitjax.sparsify.reduction.base import ByAttention, StepInput
from vitjax.sparsify.reduction.groups import Groups, group_sum, kept
from vitjax.sparsify.token_map import TokenMap, rows_after_keeping


def cls_attention(weights: Float[Array, "b heads n n"]) -> Float[Array, "b m"]:
    """Attention that the first token pays all others, mean over heads."""
    return weights[:, :, 0, 1:].mean(axis=1)


def keep_by_attention(
    tokens: Float[Array, "b n d"], attention: Float[Array, "b m"], k: int, *, fused: bool = False
) -> Groups:
    """The CLS token, the k others of the highest attention, and what the rest is fused to.

    Source: Liang et al. 2022, EViT (arXiv:2202.07800), Eq. 3: the fused token is the sum of the rest, each
    times its attention itself, not its share of the rest's.

    Args:
        tokens: CLS first; all others are ranked, a second prefix token too.
        attention: of CLS to all others.
        k: how many stay; from 1 to m.
        fused: whether there is a fused token, where anything is left for it.

    Returns:
        Rows: CLS, the kept ones best first, the fused one.
    """
    order = 1 + jax.lax.top_k(attention, k)[1].astype(jnp.int32)
    front = jnp.zeros((len(tokens), 1), jnp.int32)
    found = kept(tokens, jnp.concatenate([front, order], axis=1))
    if not fused or k >= attention.shape[1]:
        return found
    rest = jnp.where(found.source < 0, jnp.pad(attention, ((0, 0), (1, 0))), 0.0)
    extra = (rest[..., None] * tokens.astype(jnp.float32)).sum(axis=1)[:, None].astype(tokens.dtype)
    source = jnp.where(found.source < 0, k + 1, found.source)
    sizes = group_sum(jnp.ones(source.shape, jnp.float32), source, k + 2)
    return Groups(jnp.concatenate([found.tokens, extra], axis=1), sizes, source)


@dataclass(frozen=True)
class EViT(ByAttention):
    """Keeps the tokens that CLS attends to, and a fused one: see `keep_by_attention`."""

    name = "evit"
    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        (batch, count), cells = tokens.shape[:2], token_map.owner.shape[1]
        index = self.select(token_map, given, kept)
        row = rows_after_keeping(index, count)
        # The weight is the attention itself, not its share among the rest, as in the paper.
        rest = jnp.where(row < 0, jnp.asarray(given.scores), 0.0)
        fused = jnp.einsum("bn,bnd->bd", rest, tokens.astype(jnp.float32))[:, None].astype(tokens.dtype)
        nowhere = jnp.full((batch, 1), cells, jnp.int32)
        score = jnp.concatenate([take(token_map.score, index), rest.sum(axis=1, keepdims=True)], axis=1)
        after = jnp.concatenate([take(token_map.index, index), nowhere], axis=1)
        tokens = jnp.concatenate([take(tokens, index), fused], axis=1)
        return tokens, token_map.moved(jnp.where(row < 0, kept, row), after, score)

    def tokens_after(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """See `Reducer.tokens_after`: the fused token is one more."""
        kept = self.count(stage, alive=alive, total=total, prefix=prefix)
        return kept + (kept < alive)
