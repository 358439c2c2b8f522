"""Ways to go on with fewer tokens, one interface: which tokens leave, and what becomes of them.

Source, by name:

- "dynamicvit": the best by a learned predictor. Rao et al. 2021 (arXiv:2106.02034).
- "topk": the best by the attention that CLS pays them. Liang et al. 2022, EViT (arXiv:2202.07800), Sec. 3.2,
  without the fused token.
- "evit": the same, and one token more: the sum of the rest, each times its attention (Eq. 3).
- "tome": no token leaves, the r most alike pairs become one. Bolya et al. 2023, ToMe (arXiv:2210.09461).
- "random", "uniform": as many as "dynamicvit" keeps, by lot or evenly on the grid: what choosing is worth.

All but "dynamicvit" work with the weights of any plain ViT as they are. Different from the papers' code:
tokens stay in raster order after every step, and the prefix (CLS and what stands beside it) neither leaves
nor merges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.decisions import as_keep, keep_count, stage_ratios, take, top_k_index

REDUCERS = ("dynamicvit", "topk", "evit", "tome", "random", "uniform")
BUDGETS = ("fixed", "own", "batch")
SLACK = 1.25  # of budget "batch": room that each image has, in units of what it would have alone


class Alive(flax.struct.PyTreeNode):
    """Which patches the tokens of a moment stand for.

    Attributes:
        index: position in the full grid of each token; the number of cells for one that has no place of its
            own (EViT's fused token).
        owner: row of the token that stands for each cell of the grid; -1 where its token was dropped.
        size: how many cells each token stands for.
        worth: of each token to the step that kept it last: the probability of being kept, or CLS's attention;
            for EViT's fused token that of all it stands for; 1 before the first step.
    """

    index: Int[Array, "b n"]
    owner: Int[Array, "b cells"]
    size: Float[Array, "b n"]
    worth: Float[Array, "b n"]

    @classmethod
    def all(cls, batch: int, cells: int) -> "Alive":
        """Every token stands for its own cell."""
        places = jnp.broadcast_to(jnp.arange(cells, dtype=jnp.int32)[None], (batch, cells))
        ones = jnp.ones((batch, cells), jnp.float32)
        return cls(places, places, ones, ones)

    def moved(self, row: Int[Array, "b n"], index: Int[Array, "b m"], worth: Float[Array, "b m"]) -> "Alive":
        """After a step: the new row of every old one, -1 where dropped; positions and worth of the new."""
        gone = jnp.take_along_axis(row, jnp.maximum(self.owner, 0), axis=1)
        size = jnp.zeros(index.shape, jnp.float32)
        size = size.at[jnp.arange(len(row))[:, None], row].add(
            self.size, mode="drop", wrap_negative_indices=False
        )
        return Alive(index, jnp.where(self.owner < 0, -1, gone), size, worth)

    def without(self, valid: Float[Array, "b n"]) -> "Alive":
        """The same rows, of which those that are not valid stand for nothing."""
        there = restore(valid[..., None], self.owner)[..., 0] > 0
        return Alive(self.index, jnp.where(there, self.owner, -1), self.size * valid, self.worth * valid)


@dataclass(frozen=True)
class Reducer:
    """When a model reduces its tokens, how, and to how many; plain numbers, so static under jit.

    Attributes:
        name: one of `REDUCERS`.
        blocks: where: before these blocks ("dynamicvit", "random", "uniform"), or inside them, between
            attention and MLP ("topk", "evit"); "tome" does it inside every block.
        keep_ratio: kept share of the first tokens: rho, then rho^2, and so on, or one number per stage; for
            "topk" and "evit", of the tokens before each stage: one number, or one per stage.
        r: tokens that "tome" merges away in every block, at most half of those that are left.
        round_to: see `keep_count`; not for "tome".
        budget: whose the number of kept tokens is, for "dynamicvit"; see `wanted`.
    """

    name: str
    blocks: tuple[int, ...]
    keep_ratio: float | int | tuple[float, ...] = 0.7
    r: int = 13
    round_to: int = 1
    budget: str = "fixed"

    @property
    def inside(self) -> bool:
        """Whether the step lies between attention and MLP."""
        return self.name in ("topk", "evit", "tome")

    @property
    def needs_attention(self) -> bool:
        """Whether the step looks at the block's attention."""
        return self.name in ("topk", "evit")

    @property
    def ranks(self) -> bool:
        """Whether the step says what each token is worth."""
        return self.name in ("dynamicvit", "topk", "evit")

    def stage(self, block: int) -> int | None:
        """Which step happens at a block, from 0; None = none."""
        if self.name == "tome":
            return block
        return self.blocks.index(block) if block in self.blocks else None

    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """Tokens after a step, without the fused one.

        Args:
            stage: from 0.
            alive: patch tokens before it.
            total: patch tokens before the first.
            prefix: tokens that always stay.
        """
        if self.name == "tome":
            return alive - min(self.r, alive // 2)
        if self.needs_attention:
            rate = self.keep_ratio[stage] if isinstance(self.keep_ratio, Sequence) else self.keep_ratio
            count = math.ceil(rate * alive)
            return keep_count(count, 1.0, alive=alive, prefix=prefix, round_to=self.round_to)
        ratio = stage_ratios(self.keep_ratio, len(self.blocks))[stage]
        if self.budget == "batch":
            ratio *= SLACK
        return keep_count(total, ratio, alive=alive, prefix=prefix, round_to=self.round_to)

    def mistakes(self, depth: int) -> list[str]:
        """Returns which fields do not go together, for a model of so many blocks."""
        if self.name not in REDUCERS:
            return [f"reduce {self.name!r} is unknown; one of {', '.join(map(repr, REDUCERS))}"]
        wrong = []
        if list(self.blocks) != sorted(set(self.blocks)) or not all(0 <= i < depth for i in self.blocks):
            wrong.append(f"pruning_loc {self.blocks} must be ascending blocks from 0 to {depth - 1}")
        if self.r < 0:
            wrong.append(f"r is {self.r}; it must be 0 or more")
        if self.budget not in BUDGETS:
            wrong.append(f"budget {self.budget!r} is unknown; one of {', '.join(map(repr, BUDGETS))}")
        elif self.budget != "fixed" and self.name != "dynamicvit":
            wrong.append(f"budget {self.budget!r} needs a predictor, which reduce {self.name!r} has not")
        if self.round_to < 1:
            wrong.append(f"round_to is {self.round_to}; it must be 1 or more")
        try:
            stage_ratios(self.keep_ratio, len(self.blocks))
        except ValueError as error:
            wrong.append(str(error).removesuffix("."))
        return wrong


def reduce(
    reducer: Reducer,
    stage: int,
    tokens: Float[Array, "b n d"],
    alive: Alive,
    *,
    prefix: int = 0,
    grid: tuple[int, int] | None = None,
    scores: Float[Array, "b n"] | None = None,
    keys: Float[Array, "b n w"] | None = None,
) -> tuple[Float[Array, "b m d"], Alive]:
    """One step: fewer tokens, in raster order, and what they stand for.

    Args:
        reducer: how, and to how many.
        stage: from 0.
        tokens: patch tokens.
        alive: what they stand for.
        prefix: number of tokens beside them.
        grid: (h, w) of the patches before the first step, on which "uniform" spreads what it keeps; None: one
            row.
        scores: which are worth keeping: log-probabilities of the predictor ("dynamicvit") or CLS's attention
            ("topk", "evit").
        keys: the block's keys, mean over heads; "tome" calls tokens alike whose keys are.
    """
    count, cells = tokens.shape[1], alive.owner.shape[1]
    kept = reducer.count(stage, alive=count, total=cells, prefix=prefix)
    if reducer.ranks and scores is not None:
        worth = jnp.exp(scores) if reducer.name == "dynamicvit" else scores
        alive = alive.replace(worth=worth.astype(jnp.float32))  # pyright: ignore[reportAttributeAccessIssue]
    if kept >= count:
        return tokens, alive
    if reducer.name == "tome":
        if keys is None:
            raise UserError("reducer 'tome' compares keys: give `keys`.")
        return merge(tokens, alive, keys, count - kept, prefix=prefix)
    index = _chosen(reducer.name, stage, scores, tokens.shape[0], count, kept, grid or (1, cells))
    row = _rows_after_keeping(index, count)
    if reducer.name != "evit" or scores is None:
        return take(tokens, index), alive.moved(row, take(alive.index, index), take(alive.worth, index))
    # The weight is the attention itself, not its share among the rest, as in the paper.
    rest = jnp.where(row < 0, scores, 0.0)
    fused = jnp.einsum("bn,bnd->bd", rest, tokens.astype(jnp.float32))[:, None].astype(tokens.dtype)
    place = jnp.full((len(tokens), 1), cells, jnp.int32)
    index_after = jnp.concatenate([take(alive.index, index), place], axis=1)
    tokens = jnp.concatenate([take(tokens, index), fused], axis=1)
    worth = jnp.concatenate([take(alive.worth, index), rest.sum(axis=1, keepdims=True)], axis=1)
    return tokens, alive.moved(jnp.where(row < 0, kept, row), index_after, worth)


def wanted(
    reducer: Reducer, stage: int, scores: Float[Array, "b n 2"], valid: Float[Array, "b n"], *, total: int
) -> Float[Array, "b n"]:
    """Which tokens a step wants to keep, where that differs from image to image: 1 = keep.

    Budget "own": those whose probability of being kept is at least one half, as in training without its
    noise. Budget "batch": the best of the whole batch, as many as all its images keep together with
    "fixed"; an image's result then depends on its batch. In both the shape stays that of `Reducer.count`,
    and an image that wants more keeps its best.

    Args:
        reducer: with one of these budgets.
        stage: from 0.
        scores: log-probabilities of keeping (index 0) and dropping.
        valid: 1 where a token is still there.
        total: patch tokens before the first step.
    """
    keep, drop = scores[..., 0], scores[..., 1]
    if reducer.budget == "own":
        return valid * (keep >= drop)
    share = stage_ratios(reducer.keep_ratio, len(reducer.blocks))[stage]
    flat = jnp.where(valid > 0, keep, -jnp.inf).reshape(1, -1)
    best = as_keep(top_k_index(flat, min(int(len(keep) * int(total * share)), flat.shape[1])), flat.shape[1])
    return valid * best.reshape(valid.shape)


def merge(
    tokens: Float[Array, "b n d"], alive: Alive, keys: Float[Array, "b n w"], r: int, *, prefix: int
) -> tuple[Float[Array, "b m d"], Alive]:
    """The r most alike pairs of tokens, one each of even and of odd place, become their mean by size.

    Source: Bolya et al. 2023, ToMe (arXiv:2210.09461), Sec. 3, bipartite soft matching. Tokens of even place
    leave, several may join the same odd one. As in the official code places count from the start of the
    sequence, so the prefix decides which patches are even: with a class token alone the second, fourth, ...
    Different from that code: what is left stays in raster order instead of evens first, so from the second
    block on the two groups are others than there.
    """
    batch, count, _ = tokens.shape
    unit = keys.astype(jnp.float32)
    unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
    even, odd = prefix % 2, 1 - prefix % 2  # first patches of either place
    alike = jnp.einsum("baw,bcw->bac", unit[:, even::2], unit[:, odd::2])
    best, partner = alike.max(axis=-1), alike.argmax(axis=-1).astype(jnp.int32)
    which = jax.lax.top_k(best, r)[1].astype(jnp.int32)  # of the even ones leave
    leaving, joined = 2 * which + even, 2 * jnp.take_along_axis(partner, which, axis=1) + odd
    gone = as_keep(leaving, count) > 0
    stay = jnp.argsort(gone, axis=1, stable=True)[:, : count - r].astype(jnp.int32)
    row = _rows_after_keeping(stay, count)
    each = jnp.arange(batch)[:, None]
    target = jnp.take_along_axis(row, joined, axis=1)
    row = row.at[each, leaving].set(target)
    weighed = tokens.astype(jnp.float32) * alive.size[..., None]
    total = take(weighed, stay).at[each, target].add(take(weighed, leaving))
    after = alive.moved(row, take(alive.index, stay), take(alive.worth, stay))
    return (total / after.size[..., None]).astype(tokens.dtype), after


def restore(
    tokens: Float[Array, "b n d"],
    owner: Int[Array, "b cells"],
    *,
    fill: float | int | Float[Array, "b cells d"] = 0.0,
) -> Float[Array, "b cells d"]:
    """Tokens back on the full grid: a merged one on each of its cells, `fill` where one was dropped.

    >>> restore(jnp.array([[[1.0], [2.0]]]), jnp.array([[1, -1, 0, 1]]), fill=9)[0, :, 0].tolist()
    [2.0, 9.0, 1.0, 2.0]
    """
    full = take(tokens, jnp.maximum(owner, 0))
    return jnp.where((owner < 0)[..., None], jnp.asarray(fill, full.dtype), full)


class ReducedAttention(flax.struct.PyTreeNode):
    """Attention of a block whose tokens are not those of the full grid; `np.asarray` gives `weights`.

    Attributes:
        weights: after softmax, rows are queries, prefix first.
        owner: as in `Alive`, at that block.
        prefix: number of tokens before the patches; static under jit.
    """

    weights: Float[Array, "b heads n n"]
    owner: Int[Array, "b cells"]
    prefix: int = flax.struct.field(pytree_node=False)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns `weights` on the host."""
        return np.array(self.weights, dtype=dtype, copy=copy)

    def on_grid(self) -> Float[Array, "b heads m m"]:
        """Attention between the prefix and all cells of the grid; rows sum to 1.

        The cells of a merged token look alike and share out what it gets. The cell of a dropped token looks
        at itself alone, so that rollout passes it by.
        """
        batch, _, count, _ = self.weights.shape
        front = jnp.broadcast_to(jnp.arange(self.prefix)[None], (batch, self.prefix))
        owner = jnp.where(self.owner < 0, -1, self.owner + self.prefix)
        owner = jnp.concatenate([front.astype(owner.dtype), owner], axis=1)
        there, row = owner >= 0, jnp.maximum(owner, 0)
        shared = jnp.zeros((batch, count), jnp.float32).at[jnp.arange(batch)[:, None], row].add(there)
        full = jnp.take_along_axis(self.weights, row[:, None, :, None], axis=2)
        full = jnp.take_along_axis(
            full / jnp.maximum(shared, 1.0)[:, None, None, :], row[:, None, None, :], axis=3
        )
        full = jnp.where((there[:, :, None] & there[:, None, :])[:, None], full, 0.0)
        alone = jnp.eye(owner.shape[1], dtype=bool)[None] & ~there[:, :, None]
        return jnp.where(alone[:, None], 1.0, full)


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


def _chosen(
    name: str, stage: int, scores: Array | None, batch: int, count: int, kept: int, grid: tuple[int, int]
) -> Int[Array, "b k"]:
    """Ascending rows that stay."""
    if name in ("random", "uniform"):
        # The same for every image, and known while tracing: what an image keeps depends on no other.
        if name == "random":
            fixed = np.sort(np.random.default_rng((0, stage)).permutation(count)[:kept])
        else:
            order = spread_order(grid)  # the tokens that are left are the first ones of it
            fixed = np.searchsorted(np.sort(order[:count]), np.sort(order[:kept]))
        return jnp.broadcast_to(jnp.asarray(fixed, jnp.int32)[None], (batch, kept))
    if scores is None:
        raise UserError(f"reducer {name!r} ranks tokens: give `scores`.")
    return top_k_index(scores, kept).astype(jnp.int32)


def _rows_after_keeping(index: Int[Array, "b k"], count: int) -> Int[Array, "b n"]:
    """New row of every old one; -1 where it leaves."""
    stays = as_keep(index, count) > 0
    return jnp.where(stays, jnp.cumsum(stays, axis=1, dtype=jnp.int32) - 1, -1)
