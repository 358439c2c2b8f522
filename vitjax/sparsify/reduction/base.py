"""Reducer: the interface of token reduction methods, and what several of them share."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.decisions import keep_count, stage_ratios, take, top_k_index
from vitjax.sparsify.token_map import TokenMap, rows_after_keeping

OF_ATTENTION = ("scores", "received", "significance")  # fields of `StepInput` that are made of it


class StepInput(flax.struct.PyTreeNode):
    """Inputs of a reduction step beside the tokens.

    Attributes:
        scores: log-probabilities of being kept, for a method with a predictor; for one inside a block the
            attention of CLS to each patch token, mean over heads (in a model without CLS the mean over all
            tokens that look, as in VisionZip, arXiv:2412.04467). Inside a block this, `keys`, `received` and
            `significance` are None unless the method's `needs` name them.
        keys: the block's keys, mean over heads.
        stage: which step this is, from 0; static, like the next two.
        prefix: number of tokens beside the patches.
        grid: (h, w) of the patches before the first step; None: one row.
        received: attention that each patch token gets, mean over heads and queries, prefix included.
        significance: attention as in `scores` times the norm of the value, summed over heads.
        made: of a method with learned tokens: these, and the weight of each token in them.
    """

    scores: Float[Array, "b n"] | None = None
    keys: Float[Array, "b n w"] | None = None
    stage: int = flax.struct.field(pytree_node=False, default=0)
    prefix: int = flax.struct.field(pytree_node=False, default=0)
    grid: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)
    received: Float[Array, "b n"] | None = None
    significance: Float[Array, "b n"] | None = None
    made: tuple[Float[Array, "b m d"], Float[Array, "b m n"]] | None = None


@dataclass(frozen=True)
class Reducer(abc.ABC):
    """A token reduction method: at which blocks it acts, and how many tokens stay; static under jit.

    A method of your own derives from this class, names itself, and defines `count` and
    `select`, `fewer` or `step`.

    Attributes:
        blocks: before which blocks, from 0, it happens, or inside which ones; None = after each quarter of
            them.
        round_to: numbers of tokens, prefix included, become multiples of this; see `keep_count`.
    """

    blocks: tuple[int, ...] | None = None
    round_to: int = 1

    name: ClassVar[str]
    inside: ClassVar[bool] = False  # between attention and MLP of its blocks, instead of before them
    in_every_block: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()  # fields of `StepInput` that its block computes: see `OF_ATTENTION`
    trained: ClassVar[bool] = False  # a predictor before each step, trained with masks
    scores_tokens: ClassVar[bool] = False  # its scores can be weights of the tokens
    merges: ClassVar[bool] = False  # tokens stand for several patches, and attention counts them by size
    keeps_all_patches: ClassVar[bool] = False  # no patch is without a token that stands for it

    def bound(self, depth: int) -> "Reducer":
        """The same with its blocks chosen, for a model of so many blocks."""
        if self.blocks is not None:
            return self
        blocks = (
            range(depth) if self.in_every_block else sorted({depth * quarter // 4 for quarter in (1, 2, 3)})
        )
        return dataclasses.replace(self, blocks=tuple(blocks))

    def stage(self, block: int) -> int | None:
        """Which step happens at a block, from 0; None = none."""
        if self.in_every_block:
            return block
        return self.blocks.index(block) if self.blocks and block in self.blocks else None

    @property
    def steps(self) -> int:
        """Number of steps of a bound reducer."""
        return len(self.blocks or ())

    @abc.abstractmethod
    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """Tokens that stay themselves after a step.

        Args:
            stage: from 0.
            alive: patch tokens before it.
            total: patch tokens before the first.
            prefix: tokens that always stay.
        """

    def select(self, token_map: TokenMap, given: StepInput, kept: int) -> Int[Array, "b k"]:
        """Ascending rows of the tokens that stay; by default those of the highest scores."""
        if given.scores is None:
            raise UserError(f"reducer {self.name!r} ranks tokens: give `scores`.")
        return top_k_index(given.scores, kept).astype(jnp.int32)

    def step(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """One step: fewer tokens, in raster order, and what they stand for; all where none would leave."""
        count = tokens.shape[1]
        kept = self.count(given.stage, alive=count, total=token_map.owner.shape[1], prefix=given.prefix)
        token_map = self.scored(token_map, given)
        if kept >= count:
            return tokens, token_map
        return self.fewer(tokens, token_map, given, kept)

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """The step where `kept` tokens, not all, stay themselves; by default those of `select`."""
        index = self.select(token_map, given, kept)
        row = rows_after_keeping(index, tokens.shape[1])
        return take(tokens, index), token_map.moved(
            row, take(token_map.index, index), take(token_map.score, index)
        )

    def make_tokens(
        self, tokens: Float[Array, "b n d"], kept: int, name: str
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m n"]] | None:
        """`StepInput.made`, by a module of that name inside of a model; None without a module."""
        return None

    def scored(self, token_map: TokenMap, given: StepInput) -> TokenMap:
        """The same tokens with the scores of this step, where it gives them any."""
        if not self.scores_tokens or given.scores is None:
            return token_map
        scores = jnp.exp(given.scores) if self.trained else given.scores
        return token_map.replace(score=scores.astype(jnp.float32))  # pyright: ignore[reportAttributeAccessIssue]

    def tokens_after(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """Tokens after a step, those that it makes included."""
        return self.count(stage, alive=alive, total=total, prefix=prefix)

    def field_errors(self, depth: int) -> list[str]:
        """Returns which fields do not go together, for a model of so many blocks."""
        blocks, wrong = self.bound(depth).blocks or (), []
        if list(blocks) != sorted(set(blocks)) or not all(0 <= i < depth for i in blocks):
            wrong.append(f"pruning_loc {blocks} must be ascending blocks from 0 to {depth - 1}")
        if self.round_to < 1:
            wrong.append(f"round_to is {self.round_to}; it must be 1 or more")
        return wrong


@dataclass(frozen=True)
class KeepRatio(Reducer):
    """Base of methods with keep ratios relative to the first tokens.

    Attributes:
        keep_ratio: kept share of the first tokens: rho, then rho^2, and so on, or one number per step.
    """

    keep_ratio: float | int | tuple[float, ...] = 0.7

    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """See `Reducer.count`."""
        ratio = stage_ratios(self.keep_ratio, self.steps)[stage]
        return keep_count(total, ratio, alive=alive, prefix=prefix, round_to=self.round_to)

    def field_errors(self, depth: int) -> list[str]:
        """See `Reducer.field_errors`."""
        wrong = super().field_errors(depth)
        try:
            stage_ratios(self.keep_ratio, self.bound(depth).steps)
        except UserError as error:
            wrong.append(str(error).removesuffix("."))
        return wrong


@dataclass(frozen=True)
class ByAttention(KeepRatio):
    """What methods share that rank tokens by the attention that CLS, or all tokens where it lacks, pay them.

    Source: Liang et al. 2022, EViT (arXiv:2202.07800), Sec. 3.2. `keep_ratio` is the kept share of the tokens
    before each step: one number, or one per step.
    """

    inside = True
    needs = ("scores",)
    scores_tokens = True

    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """See `Reducer.count`."""
        rate = self.keep_ratio[stage] if isinstance(self.keep_ratio, Sequence) else self.keep_ratio
        return keep_count(math.ceil(rate * alive), 1.0, alive=alive, prefix=prefix, round_to=self.round_to)


@dataclass(frozen=True)
class EveryBlock(Reducer):
    """Base of methods that take r tokens away in every block.

    Attributes:
        r: tokens taken away in every block, at most half of those that are left.
    """

    r: int = 13

    inside = True
    in_every_block = True
    needs = ("keys",)

    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """See `Reducer.count`."""
        return alive - min(self.r, alive // 2)

    def given_keys(self, given: StepInput) -> Float[Array, "b n w"]:
        """The keys, which it needs."""
        if given.keys is None:
            raise UserError(f"reducer {self.name!r} compares keys: give `keys`.")
        return given.keys

    def field_errors(self, depth: int) -> list[str]:
        """See `Reducer.field_errors`."""
        wrong = super().field_errors(depth)
        return [*wrong, f"r is {self.r}; it must be 0 or more"] if self.r < 0 else wrong


@dataclass(frozen=True)
class LearnedTokens(KeepRatio):
    """Base of methods that put learned tokens in the place of all: as many as `DynamicViT` keeps.

    They have to be trained: `token_pool_<step>` are their weights, which fit one number of tokens, so one
    image size and one keep ratio. Learned tokens have no place on the grid. A patch belongs to the one it
    weighs most in; sizes are sums of shares, of which each patch has 1 in all.
    """

    keeps_all_patches = True

    def fewer(
        self, tokens: Float[Array, "b n d"], token_map: TokenMap, given: StepInput, kept: int
    ) -> tuple[Float[Array, "b m d"], TokenMap]:
        """See `Reducer.fewer`."""
        if given.made is None:
            raise UserError(f"reducer {self.name!r} needs learned tokens: give `made`.")
        made, weights = given.made
        nowhere = jnp.full((len(tokens), kept), token_map.owner.shape[1], jnp.int32)
        row = weights.argmax(axis=1).astype(jnp.int32)
        after = token_map.moved(row, nowhere, jnp.ones(nowhere.shape, jnp.float32))
        share = weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
        size = (share * token_map.size[:, None, :]).sum(axis=-1)
        return made, after.replace(size=size)  # pyright: ignore[reportAttributeAccessIssue]


def in_raster_order(
    tokens: Float[Array, "b m d"],
    token_map: TokenMap,
    source: Int[Array, "b n"],
    targets: Int[Array, "b m"],
) -> tuple[Float[Array, "b m d"], TokenMap]:
    """Groups in any order of rows as a step returns them.

    Args:
        tokens: one per group.
        token_map: before the step.
        source: group of each token before the step; -1 = dropped.
        targets: the token before the step whose place each group takes.
    """
    order = jnp.argsort(targets, axis=1, stable=True)
    rank = jnp.argsort(order, axis=1).astype(jnp.int32)
    row = jnp.where(source < 0, -1, jnp.take_along_axis(rank, jnp.maximum(source, 0), axis=1))
    places = jnp.take_along_axis(targets, order, axis=1)
    after = token_map.moved(row, take(token_map.index, places), take(token_map.score, places))
    return take(tokens, order), after


def parity(x: Float[Array, "b n *d"], prefix: int) -> Float[Array, "b m *d"]:
    """Patch tokens, the first twice where the prefix is odd: even places are even in the whole sequence."""
    return jnp.concatenate([x[:, :1], x], axis=1) if prefix % 2 else x
