"""Blocks with token reduction: masking where the reduction is trained, gathering at inference."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.layers.rope import Rope
from vitjax.models.block_stack import fields_of, run_blocks
from vitjax.models.call_checks import refuse_pruning
from vitjax.models.outputs import TokenReduction
from vitjax.sparsify.decisions import cumulative, sample, stage_ratios, take
from vitjax.sparsify.predictor import Predictor
from vitjax.sparsify.reducers import DynamicViT, Reducer, StepInput
from vitjax.sparsify.token_map import ReducedAttention, TokenMap, restore


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


class Pass(NamedTuple):
    """What a pass through the blocks needs beside the tokens.

    Attributes:
        layer: makes block i, with further fields if any.
        reducer: bound to the model's depth.
        last: index of the last block, from 0.
        grid: (h, w) of the patches.
        rope: rotations of the tokens; None = none.
    """

    layer: Callable
    reducer: Reducer
    last: int
    grid: tuple[int, int]
    rope: Rope | None


def reducer_errors(model: Any) -> list[str]:
    """Returns which fields of a model do not go together with its reducer."""
    reducer = model.reducer
    if reducer is None:
        return []
    wrong = reducer.field_errors(model.depth)
    if model.scan_layers:
        wrong.append("scan_layers needs blocks of equal shape, and reduce makes them differ")
    return wrong


def reduction_by(reducer: Reducer | None, depth: int) -> TokenReduction | None:
    """The `token_reduction` of a model with a field `reducer` and so many blocks."""
    if reducer is None:
        return None
    bound, share = reducer.bound(depth), getattr(reducer, "keep_ratio", None)
    ratios = () if share is None else stage_ratios(share, bound.steps)
    return TokenReduction(reducer.name, reducer.trained, share, ratios, bound.steps, {"reducer": None})


def _chosen(reducer: Reducer, depth: int, keep_ratio: Any) -> Reducer:
    """The model's reducer for one call."""
    if keep_ratio is not None:
        if not hasattr(reducer, "keep_ratio"):
            raise UserError(
                f"keep_ratio is {keep_ratio}; reducer {reducer.name!r} keeps no share of the tokens."
            )
        ratio: Any = tuple(keep_ratio) if isinstance(keep_ratio, list) else keep_ratio
        reducer = replace(reducer, keep_ratio=ratio)  # pyright: ignore[reportCallIssue]
    reducer = reducer.bound(depth)
    if wrong := reducer.field_errors(depth):
        raise UserError("; ".join(wrong) + ".")
    return reducer


def run_reduced(
    model: nn.Module,
    block: type[nn.Module],
    fields: Mapping[str, Any],
    tokens: Float[Array, "b n d"],
    *,
    last: int,
    grid: tuple[int, int],
    first: int = 0,
    train: bool = False,
    keep_ratio: Any = None,
    decisions: Float[Array, "b stages cells"] | None = None,
    rope: Rope | None = None,
) -> Reduced:
    """Runs blocks `first` to `last` inside the compact method of `model`, reducing tokens if so built.

    Args:
        model: its `reducer` says how tokens are reduced, if at all (else `run_blocks`); `remat` and `dtype`
            count too; its predictors are `score_predictor_<stage>`.
        block: `vit.Block`.
        fields: of every block.
        tokens: prefix first, then all patches.
        last: index from 0.
        grid: (h, w) of the patches; tokens before them, the prefix, always stay.
        first: index from 0; above 0 only of a model without a reducer.
        train: a trained reducer samples decisions, from the rng "gumbel", and masks. All others drop tokens
            for real, as it does without `train`.
        keep_ratio: instead of the model's own.
        decisions: given ones, before they are made cumulative; they mask whatever `train` says.
        rope: rotations of the tokens, as far as the model has them.

    Raises:
        ValueError: a ratio or decisions that this cannot be done with.
    """
    owner: Any = model
    if owner.reducer is None:
        refuse_pruning(keep_ratio, decisions)
        shared = () if rope is None else (None, None, rope.all())
        return Reduced(*run_blocks(model, block, fields, tokens, *shared, first=first, last=last), {})
    reducer = _chosen(owner.reducer, owner.depth, keep_ratio)
    if decisions is not None and not reducer.trained:
        raise UserError(f"decisions are for models with a predictor; this one reduces by {reducer.name!r}.")
    kind: Any = nn.remat(block) if getattr(model, "remat", False) else block

    def layer(i: int, **more: Any) -> Callable:
        return kind(**fields_of(model, fields, i), **more, name=f"blocks_{i}")

    if reducer.trained and (train or decisions is not None):
        return _masked(model, tokens, Pass(layer, reducer, last, grid, rope), decisions)
    return _gathered(model, tokens, Pass(layer, reducer, last, grid, rope))


def _masked(
    model: nn.Module,
    tokens: Float[Array, "b n d"],
    blocks: Pass,
    decisions: Float[Array, "b stages cells"] | None,
) -> Reduced:
    """Training: all tokens run through all blocks, and attention masks the dropped ones."""
    layer, reducer, last, grid, rope = blocks
    cells, stages = grid[0] * grid[1], reducer.steps
    prefix = tokens.shape[1] - cells
    if decisions is not None and decisions.shape != (len(tokens), stages, cells):
        raise UserError(
            f"decisions have shape {decisions.shape}; expected (images, stages, patches) = "
            f"{(len(tokens), stages, cells)}."
        )
    kept, raw, scores, maps = None, [], [], []
    turned = None if rope is None else rope.all()
    for i in range(last + 1):
        stage = reducer.stage(i)
        if stage is not None:
            scores.append(_predictor(model, stage)(tokens[:, prefix:], kept))
            raw.append(decide(model, scores[-1], None if decisions is None else decisions[:, stage]))
            kept = raw[-1] if kept is None else kept * raw[-1]
        keep = None
        if kept is not None:
            keep = jnp.concatenate([jnp.ones((len(tokens), prefix), kept.dtype), kept], axis=1)
        tokens, weights = layer(i)(tokens, keep, None, turned)
        maps.append(weights)
    applied = cumulative(jnp.stack(raw, axis=1)) if raw else None
    return Reduced(tokens, tuple(maps), {"scores": tuple(scores), "decisions": applied}, kept)


def _gathered(model: nn.Module, tokens: Float[Array, "b n d"], blocks: Pass) -> Reduced:
    """Inference: kept tokens are gathered; where images keep different numbers, padding is masked."""
    layer, reducer, last, grid, rope = blocks
    cells = grid[0] * grid[1]
    prefix = tokens.shape[1] - cells
    token_map, valid, overflow = TokenMap.all(len(tokens), cells), None, []
    scores, index, owner, maps = [], [], [], []
    for i in range(last + 1):
        stage = reducer.stage(i)
        if stage is not None and not reducer.inside:
            front, patches = tokens[:, :prefix], tokens[:, prefix:]
            count = patches.shape[1]
            if reducer.trained:
                scores.append(_predictor(model, stage)(patches, valid))
            kept = reducer.count(stage, alive=count, total=cells, prefix=prefix)
            made = reducer.make_tokens(patches, kept, f"token_pool_{stage}") if kept < count else None
            given = StepInput(scores[-1][..., 0] if scores else None, None, stage, prefix, grid, made=made)
            if isinstance(reducer, DynamicViT) and reducer.budget != "fixed":
                patches, token_map, valid, extra = _own_number(
                    reducer, patches, token_map, valid, scores[-1], given
                )
                overflow.append(extra)
            else:
                patches, token_map = reducer.step(patches, token_map, given)
            if patches.shape[1] < count:
                tokens = jnp.concatenate([front, patches], axis=1)
        before, keep = token_map, None
        turned = None if rope is None else rope.at(token_map.index)
        if valid is not None:
            keep = jnp.concatenate([jnp.ones((len(tokens), prefix), valid.dtype), valid], axis=1)
        if stage is not None and reducer.inside:
            tokens, (weights, token_map) = layer(i, reducer=reducer, stage=stage, prefix=prefix)(
                tokens, None, token_map, turned
            )
        else:
            sized = token_map if reducer.merges else None
            tokens, weights = layer(i)(tokens, keep, sized, turned)
        if weights is not None and (weights.shape[-1] < cells + prefix or valid is not None):
            weights = ReducedAttention(weights, before.owner, prefix)
        maps.append(weights)
        if stage is not None:
            positions = token_map.index
            index.append(positions if valid is None else jnp.where(valid > 0, positions, cells))
            owner.append(token_map.owner)
    parts = {
        "scores": tuple(scores), "keep_index": tuple(index), "owner": tuple(owner), "sizes": token_map.size,
        "overflow": sum(overflow) if overflow else None,
        "kept_scores": token_map.score if reducer.scores_tokens else None,
    }  # fmt: skip
    if owner and not reducer.keeps_all_patches:
        parts["decisions"] = jnp.stack([(o >= 0).astype(jnp.float32) for o in owner], axis=1)
    return Reduced(tokens, tuple(maps), parts, valid)


def _own_number(
    reducer: DynamicViT,
    patches: Float[Array, "b n d"],
    token_map: TokenMap,
    valid: Float[Array, "b n"] | None,
    scores: Float[Array, "b n 2"],
    given: StepInput,
) -> tuple[Float[Array, "b m d"], TokenMap, Float[Array, "b m"], Array]:
    """One step in which every image keeps a number of its own, in the room that all have.

    Returns:
        tokens, what they stand for, 1 where one is no padding, and how many had no room.
    """
    there = jnp.ones(patches.shape[:2], jnp.float32) if valid is None else valid
    wish = reducer.wanted(given.stage, scores, there, total=token_map.owner.shape[1])
    on_grid = restore(wish[..., None], token_map.owner)
    given = given.replace(scores=jnp.where(wish > 0, scores[..., 0], -jnp.inf))  # pyright: ignore[reportAttributeAccessIssue]
    patches, token_map = reducer.step(patches, token_map, given)
    kept = take(on_grid, token_map.index)[..., 0]
    return patches, token_map.without(kept), kept, (wish.sum(axis=1) - kept.sum(axis=1)).astype(jnp.int32)


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
