"""Blocks that go on with fewer tokens: masked where that is learned, gathered where it is to be fast."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.models.block_stack import fields_of, run_blocks
from vitjax.models.call_checks import refuse_pruning
from vitjax.sparsify.decisions import cumulative, sample, take
from vitjax.sparsify.predictor import Predictor
from vitjax.sparsify.reducers import Alive, ReducedAttention, Reducer, reduce, restore, wanted


class Reduced(NamedTuple):
    """What `run_reduced` returns; fields that are not explained are those of `BackboneOutput`.

    Attributes:
        tokens: prefix first, then the patches that are left.
        maps: attention of every block; None where not asked for.
        parts: fields of `BackboneOutput`, by name.
        keep: 1 where one of these patches counts, 0 where it was dropped but not removed; None = all count.
    """

    tokens: Float[Array, "b n d"]
    maps: tuple[Any, ...]
    parts: dict[str, Any]
    keep: Float[Array, "b m"] | None = None


def reducer_of(model: Any, keep_ratio: Any = None) -> Reducer | None:
    """How a model reduces its tokens, from its fields; None where it does not."""
    if not model.reduce:
        return None
    blocks = model.pruning_loc
    if blocks is None:
        blocks = sorted({model.depth * quarter // 4 for quarter in (1, 2, 3)})
    ratio = model.keep_ratio if keep_ratio is None else keep_ratio
    ratio = tuple(ratio) if isinstance(ratio, list) else ratio
    return Reducer(model.reduce, tuple(blocks), ratio, model.r, model.round_to, model.budget)


def reducer_mistakes(model: Any) -> list[str]:
    """Returns which fields of a model do not go together with its reducer."""
    reducer = reducer_of(model)
    if reducer is None:
        return []
    wrong = reducer.mistakes(model.depth)
    if model.scan_layers:
        wrong.append("scan_layers needs blocks of equal shape, and reduce makes them differ")
    if reducer.needs_attention and not getattr(model, "class_token", True):
        wrong.append(f"reduce {model.reduce!r} ranks tokens by the attention of CLS, which the model lacks")
    return wrong


def run_reduced(
    model: nn.Module,
    block: type[nn.Module],
    fields: Mapping[str, Any],
    tokens: Float[Array, "b n d"],
    *,
    last: int,
    grid: tuple[int, int],
    train: bool = False,
    keep_ratio: Any = None,
    decisions: Float[Array, "b stages cells"] | None = None,
) -> Reduced:
    """Runs blocks 0 to `last` inside the compact method of `model`, with fewer tokens as it goes if so built.

    Args:
        model: its fields say how tokens are reduced, if at all (`reducer_of`, else `run_blocks`), and `remat`
            and `dtype` count; its predictors are `score_predictor_<stage>`.
        block: `vit.Block`.
        fields: of every block.
        tokens: prefix first, then all patches.
        last: index from 0.
        grid: (h, w) of the patches; tokens before them, the prefix, always stay.
        train: "dynamicvit" samples decisions, from the rng "gumbel", and masks. All others drop tokens for
            real, as it does without `train`.
        keep_ratio: instead of the model's own.
        decisions: given ones, before they are made cumulative; they mask whatever `train` says.

    Raises:
        ValueError: a ratio or decisions that this cannot be done with.
    """
    reducer = reducer_of(model, keep_ratio)
    if reducer is None:
        refuse_pruning(keep_ratio, decisions)
        return Reduced(*run_blocks(model, block, fields, tokens, last=last), {})
    wrong = reducer.mistakes(max(reducer.blocks, default=0) + 1)
    if decisions is not None and reducer.name != "dynamicvit":
        wrong.append(f"decisions are for models with a predictor; this one reduces by {reducer.name!r}")
    if wrong:
        raise UserError("; ".join(wrong) + ".")
    kind: Any = nn.remat(block) if getattr(model, "remat", False) else block

    def layer(i: int, **more: Any) -> Callable:
        return kind(**fields_of(model, fields, i), **more, name=f"blocks_{i}")

    if reducer.name == "dynamicvit" and (train or decisions is not None):
        return _masked(model, layer, tokens, reducer, last, grid, decisions)
    return _gathered(model, layer, tokens, reducer, last, grid)


def _masked(
    model: nn.Module,
    layer: Callable,
    tokens: Float[Array, "b n d"],
    reducer: Reducer,
    last: int,
    grid: tuple[int, int],
    decisions: Float[Array, "b stages cells"] | None,
) -> Reduced:
    """All tokens go through all blocks; those dropped are not seen by the others."""
    cells, stages = grid[0] * grid[1], len(reducer.blocks)
    prefix = tokens.shape[1] - cells
    if decisions is not None and decisions.shape != (len(tokens), stages, cells):
        raise UserError(
            f"decisions have shape {decisions.shape}; expected (images, stages, patches) = "
            f"{(len(tokens), stages, cells)}."
        )
    kept, raw, scores, maps = None, [], [], []
    for i in range(last + 1):
        if i in reducer.blocks:
            stage = reducer.blocks.index(i)
            scores.append(_predictor(model, stage)(tokens[:, prefix:], kept))
            raw.append(decide(model, scores[-1], None if decisions is None else decisions[:, stage]))
            kept = raw[-1] if kept is None else kept * raw[-1]
        keep = None
        if kept is not None:
            keep = jnp.concatenate([jnp.ones((len(tokens), prefix), kept.dtype), kept], axis=1)
        tokens, weights = layer(i)(tokens, keep)
        maps.append(weights)
    applied = cumulative(jnp.stack(raw, axis=1)) if raw else None
    return Reduced(tokens, tuple(maps), {"scores": tuple(scores), "decisions": applied}, kept)


def _gathered(
    model: nn.Module,
    layer: Callable,
    tokens: Float[Array, "b n d"],
    reducer: Reducer,
    last: int,
    grid: tuple[int, int],
) -> Reduced:
    """Tokens that leave are gone and cost nothing; where images keep different numbers, padding is masked."""
    cells = grid[0] * grid[1]
    prefix = tokens.shape[1] - cells
    alive, valid, overflow = Alive.all(len(tokens), cells), None, []
    scores, index, owner, maps = [], [], [], []
    for i in range(last + 1):
        stage = reducer.stage(i)
        if stage is not None and not reducer.inside:
            front, patches = tokens[:, :prefix], tokens[:, prefix:]
            count = patches.shape[1]
            if reducer.name == "dynamicvit":
                scores.append(_predictor(model, stage)(patches, valid))
            given = scores[-1] if scores else None
            if reducer.budget == "fixed":
                worth = None if given is None else given[..., 0]
                patches, alive = reduce(
                    reducer, stage, patches, alive, prefix=prefix, grid=grid, scores=worth
                )
            else:
                patches, alive, valid, extra = _own_number(
                    reducer, stage, patches, alive, valid, given, prefix
                )
                overflow.append(extra)
            if patches.shape[1] < count:
                tokens = jnp.concatenate([front, patches], axis=1)
        asked, keep = alive, None
        if valid is not None:
            keep = jnp.concatenate([jnp.ones((len(tokens), prefix), valid.dtype), valid], axis=1)
        if stage is not None and reducer.inside:
            tokens, (weights, alive) = layer(i, reducer=reducer, stage=stage, prefix=prefix)(
                tokens, None, alive
            )
        else:
            sized = alive if reducer.name == "tome" else None
            tokens, weights = layer(i)(tokens, keep, sized)
        if weights is not None and (weights.shape[-1] < cells + prefix or valid is not None):
            weights = ReducedAttention(weights, asked.owner, prefix)
        maps.append(weights)
        if stage is not None:
            index.append(alive.index if valid is None else jnp.where(valid > 0, alive.index, cells))
            owner.append(alive.owner)
    parts = {
        "scores": tuple(scores), "keep_index": tuple(index), "owner": tuple(owner), "sizes": alive.size,
        "overflow": sum(overflow) if overflow else None, "worth": alive.worth if reducer.ranks else None,
    }  # fmt: skip
    if owner and reducer.name not in ("tome", "evit"):
        parts["decisions"] = jnp.stack([(o >= 0).astype(jnp.float32) for o in owner], axis=1)
    return Reduced(tokens, tuple(maps), parts, valid)


def _own_number(
    reducer: Reducer,
    stage: int,
    patches: Float[Array, "b n d"],
    alive: Alive,
    valid: Float[Array, "b n"] | None,
    scores: Any,
    prefix: int,
) -> tuple[Float[Array, "b m d"], Alive, Float[Array, "b m"], Array]:
    """One step in which every image keeps a number of its own, in the room that all have.

    Returns:
        tokens, what they stand for, 1 where one is no padding, and how many had no room.
    """
    there = jnp.ones(patches.shape[:2], jnp.float32) if valid is None else valid
    wish = wanted(reducer, stage, scores, there, total=alive.owner.shape[1])
    on_grid = restore(wish[..., None], alive.owner)
    worth = jnp.where(wish > 0, scores[..., 0], -jnp.inf)
    patches, alive = reduce(reducer, stage, patches, alive, prefix=prefix, scores=worth)
    kept = take(on_grid, alive.index)[..., 0]
    return patches, alive.without(kept), kept, (wish.sum(axis=1) - kept.sum(axis=1)).astype(jnp.int32)


def decide(
    model: nn.Module, scores: Float[Array, "b n 2"], given: Float[Array, "b n"] | None
) -> Float[Array, "b n"]:
    """Decisions of one stage: the given ones, or sampled from a predictor's scores with the rng "gumbel".

    Raises:
        ValueError: none given, and `model` has no such rng.
    """
    if given is not None:
        return given.astype(jnp.float32)
    if not model.has_rng("gumbel"):
        raise UserError("train=True samples which tokens to drop: pass rngs={'gumbel': key}, or decisions.")
    return sample(model.make_rng("gumbel"), scores)


def _predictor(model: Any, stage: int) -> Predictor:
    return Predictor(dtype=model.dtype, name=f"score_predictor_{stage}")
