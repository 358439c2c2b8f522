"""Token reduction methods behind one interface: pruning, merging, and learned tokens in the place of all.

Each method is a small frozen class; `REDUCERS` names those that a config can name. An object of any class
with the interface of `Reducer` can be handed to `vitjax.build(name, reduce=...)`: nothing has to be
registered.

All but `DynamicViT` and those with learned tokens (patchmerger, sit, sinkhorn) work with the weights of any
plain ViT as they are. Different from the papers' code: tokens stay in raster order after every step, and
prefix tokens are neither pruned nor merged. `vitjax.sparsify.reduction` has the steps of the published code.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.decisions import as_keep, keep_count, stage_ratios, take, top_k_index
from vitjax.sparsify.reduction.ats import ATS
from vitjax.sparsify.reduction.base import ByAttention, EveryBlock, KeepRatio, Reducer, StepInput
from vitjax.sparsify.reduction.diffrate import DiffRate
from vitjax.sparsify.reduction.dpcknn import DpcKnn
from vitjax.sparsify.reduction.kmedoids import KMedoids
from vitjax.sparsify.reduction.mctf import MCTF
from vitjax.sparsify.reduction.patchmerger import PatchMerging
from vitjax.sparsify.reduction.pitome import PiToMe
from vitjax.sparsify.reduction.sinkhorn import SinkhornTokens
from vitjax.sparsify.reduction.sit import SiT
from vitjax.sparsify.reduction.tofu import ToFu
from vitjax.sparsify.token_map import TokenMap, rows_after_keeping

BUDGETS = ("fixed", "own", "batch")
SLACK = 1.25  # of budget "batch": room that each image has, in units of what it would have alone


@dataclass(frozen=True)
class DynamicViT(KeepRatio):
    """Keeps the tokens with the highest scores of a learned predictor.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034).

    Attributes:
        budget: whose number of kept tokens is fixed. "fixed": the same for every image; "own": every image
            keeps those its predictor wants, at most that number; "batch": the batch shares out as many as
            all would keep. See `wanted`.
    """

    budget: str = "fixed"

    name = "dynamicvit"
    trained = True
    scores_tokens = True

    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """See `Reducer.count`; with budget "batch" the room that an image has."""
        ratio = stage_ratios(self.keep_ratio, self.steps)[stage] * (SLACK if self.budget == "batch" else 1)
        return keep_count(total, ratio, alive=alive, prefix=prefix, round_to=self.round_to)

    def wanted(
        self, stage: int, scores: Float[Array, "b n 2"], valid: Float[Array, "b n"], *, total: int
    ) -> Float[Array, "b n"]:
        """Which tokens a step wants to keep, where that differs from image to image: 1 = keep.

        Budget "own": those whose probability of being kept is at least one half, as in training without its
        noise. Budget "batch": the best of the whole batch, as many as all its images keep together with
        "fixed"; an image's result then depends on its batch. In both the shape stays that of `count`, and an
        image that wants more keeps its best.

        Args:
            stage: from 0.
            scores: log-probabilities of keeping (index 0) and dropping.
            valid: 1 where a token is still there.
            total: patch tokens before the first step.
        """
        keep, drop = scores[..., 0], scores[..., 1]
        if self.budget == "own":
            return valid * (keep >= drop)
        share = stage_ratios(self.keep_ratio, self.steps)[stage]
        flat = jnp.where(valid > 0, keep, -jnp.inf).reshape(1, -1)
        most = min(int(len(keep) * int(total * share)), flat.shape[1])
        return valid * as_keep(top_k_index(flat, most), flat.shape[1]).reshape(valid.shape)

    def field_errors(self, depth: int) -> list[str]:
        """See `Reducer.field_errors`."""
        wrong = super().field_errors(depth)
        if self.budget not in BUDGETS:
            wrong.append(f"budget {self.budget!r} is unknown; one of {', '.join(map(repr, BUDGETS))}")
        return wrong


@dataclass(frozen=True)
class TopK(ByAttention):
    """Keeps the tokens with the highest attention from CLS: EViT without its fused token."""

    name = "topk"


@dataclass(frozen=True)
class EViT(ByAttention):
    """Keeps those, and adds a fused token: the sum of the others, each times its attention (EViT, Eq. 3)."""

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


@dataclass(frozen=True)
class RandomTokens(KeepRatio):
    """Baseline: as many tokens as `DynamicViT` keeps, at random; the same positions in every image."""

    name = "random"

    def select(self, token_map: TokenMap, given: StepInput, kept: int) -> Int[Array, "b k"]:
        """See `Reducer.select`."""
        batch, count = token_map.index.shape
        fixed = np.sort(np.random.default_rng((0, given.stage)).permutation(count)[:kept])
        return jnp.broadcast_to(jnp.asarray(fixed, jnp.int32)[None], (batch, kept))


@dataclass(frozen=True)
class UniformTokens(KeepRatio):
    """Baseline: as many tokens as `DynamicViT` keeps, evenly spaced on the grid."""

    name = "uniform"

    def select(self, token_map: TokenMap, given: StepInput, kept: int) -> Int[Array, "b k"]:
        """See `Reducer.select`."""
        batch, count = token_map.index.shape
        order = spread_order(given.grid or (1, token_map.owner.shape[1]))  # those left are its first ones
        fixed = np.searchsorted(np.sort(order[:count]), np.sort(order[:kept]))
        return jnp.broadcast_to(jnp.asarray(fixed, jnp.int32)[None], (batch, kept))


REDUCERS: dict[str, type[Reducer]] = {
    reducer.name: reducer
    for reducer in (
        DynamicViT, TopK, EViT, ToMe, RandomTokens, UniformTokens,
        DpcKnn, KMedoids, ATS, PiToMe, ToFu, DiffRate, MCTF,
        PatchMerging, SiT, SinkhornTokens,
    )
}  # fmt: skip


def make_reducer(name: str, **fields: Any) -> Reducer:
    """Returns the method of that name with the fields that it has; the others do not concern it.

    Raises:
        UserError: an unknown name.
    """
    if name not in REDUCERS:
        near = difflib.get_close_matches(name, REDUCERS, n=1)
        hint = f"did you mean {near[0]!r}? Known" if near else "known"
        raise UserError(f"reduce {name!r} is unknown; {hint}: {', '.join(map(repr, REDUCERS))}")
    own = {field.name for field in dataclasses.fields(REDUCERS[name])}
    if "budget" not in own and fields.get("budget", "fixed") != "fixed":
        raise UserError(f"budget {fields['budget']!r} needs a predictor, which reduce {name!r} has not.")
    return REDUCERS[name](**{key: value for key, value in fields.items() if key in own})


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


def spread_order(grid: tuple[int, int]) -> np.ndarray:
    """All cells of a grid, such that the first k lie evenly on it, whatever k.

    A half of the cells is every other one, a quarter every other one of every other row.

    Source: Bayer 1973, the threshold matrix of ordered dithering, cut to the grid.

    >>> spread_order((2, 4)).tolist()
    [0, 2, 5, 7, 1, 3, 4, 6]
    """
    matrix = np.zeros((1, 1), int)
    while len(matrix) < max(grid):
        matrix = 4 * np.block([[matrix, matrix], [matrix, matrix]]) + np.kron(
            [[0, 2], [3, 1]], np.ones_like(matrix)
        )
    return np.argsort(matrix[: grid[0], : grid[1]], axis=None, kind="stable")
