"""Dynamic spatial sparsification: selected tokens of a stage take its MLP (slow path), others a linear layer.

Source: Rao et al. 2023, "Dynamic Spatial Sparsification" (arXiv:2207.01580), Sec. 3.3. What mixes positions,
attention or convolution, is over all tokens either way, so all stay on their grid.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.models.outputs import TokenReduction
from vitjax.models.token_pruning import decide
from vitjax.sparsify.decisions import as_keep, keep_count, stage_ratios, take, top_k_index
from vitjax.sparsify.predictor import Predictor

SPARSE_STAGE = 2  # the third: 14 x 14 tokens at 224 pixels, and most of the blocks


class Split(NamedTuple):
    """Positions that take the slow path, the others, both ascending, and where each token is in the two."""

    slow: Int[Array, "b k"]
    fast: Int[Array, "b m"]
    back: Int[Array, "b n"]


def two_path_ratios(keep_ratio: float | int | Sequence[float | int], stages: int) -> tuple[float, ...]:
    """Share of tokens on the slow path after each predictor: r, r - 0.2, r - 0.4, or the shares themselves.

    Different from the official code, where 0.7 - 0.2 falls short of 0.5 in floating point and 97 of 196
    tokens stay: decimal differences, 98, which is what the published costs hold.

    Raises:
        ValueError: not one share per predictor, or one outside (0, 1].
    """
    if not isinstance(keep_ratio, Sequence):
        keep_ratio = tuple(round(keep_ratio - 0.2 * stage, 9) for stage in range(stages))
    return stage_ratios(keep_ratio, stages)


def two_path_reduction(name: str, model: Any) -> TokenReduction | None:
    """The `token_reduction` of a model by its fields `pruning_loc` and `keep_ratio`; None without blocks."""
    stages = len(model.pruning_loc)
    if not stages:
        return None
    off = {"pruning_loc": (), "keep_ratio": 1.0}  # a ratio per stage would have no stages
    ratios = two_path_ratios(model.keep_ratio, stages)
    return TokenReduction(name, True, model.keep_ratio, ratios, stages, off, drops=False)


def two_path_errors(model: Any) -> list[str]:
    """Returns which of `pruning_loc`, `keep_ratio` and `compat` do not fit a model's stages."""
    wrong = []
    if model.pruning_loc:
        blocks = model.depths[SPARSE_STAGE] if len(model.depths) > SPARSE_STAGE else 0
        loc = list(model.pruning_loc)
        if loc != sorted(set(loc)) or not all(0 <= i < blocks for i in loc):
            wrong.append(
                f"pruning_loc {model.pruning_loc} must be ascending blocks of a third stage of {blocks}"
            )
        try:
            two_path_ratios(model.keep_ratio, len(loc))
        except ValueError as error:
            wrong.append(str(error).removesuffix("."))
    if model.compat not in (None, "released"):
        wrong.append(f"compat {model.compat!r} is neither None nor 'released'")
    return wrong


def run_two_paths(
    stage: Any,
    layer: Callable[[int, bool], Callable],
    tokens: Float[Array, "b h w d"],
    *,
    depth: int,
    ratios: tuple[float, ...],
    train: bool = False,
    decisions: Float[Array, "b stages _"] | None = None,
    predictor_eps: float = 1e-5,
) -> tuple[Float[Array, "b h w d"], list[Any], dict[str, Any]]:
    """Runs the blocks of a stage inside its compact method, with a predictor before each of `pruning_loc`.

    Args:
        stage: has the fields `pruning_loc`, `compat` and `dtype`.
        layer: makes block i. A plain one maps tokens to (tokens, maps); one with two paths, from the first
            predictor on, (tokens, keep, split, other) to (tokens, other, maps), as `swin_dynamic` has it.
        tokens: on their grid.
        depth: blocks to run.
        ratios: share of tokens on the slow path after each predictor.
        train: samples decisions, from the rng "gumbel", and computes both paths for every token.
        decisions: given ones instead; both paths are computed whatever `train` says.
        predictor_eps: of the predictors' layer norms.

    Returns:
        The tokens, what each block returned last, and fields of the output.

    Raises:
        ValueError: decisions of another shape, or none and no rng to sample them from.
    """
    batch, height, width, _ = tokens.shape
    cells, stages = height * width, len(stage.pruning_loc)
    if decisions is not None and decisions.shape != (batch, stages, cells):
        raise UserError(
            f"decisions have shape {decisions.shape}; expected (images, predictors, tokens of the sparse "
            f"stage) = {(batch, stages, cells)}."
        )
    masked = train or decisions is not None
    keep, split, other = None, None, None
    maps, scores, applied, index = [], [], [], []
    for i in range(depth):
        if i in stage.pruning_loc:
            at = stage.pruning_loc.index(i)
            merged = _merged(tokens, other, keep)
            predictor = Predictor(predictor_eps, stage.dtype, name=f"score_predictor_{at}")
            scores.append(predictor(merged.reshape(batch, cells, merged.shape[-1])))
            if masked:
                flat = decide(stage, scores[-1], None if decisions is None else decisions[:, at])
            else:
                split = split_tokens(scores[-1][..., 0], ratios[at])
                flat = as_keep(split.slow, cells)
                index.append(split.slow)
            applied.append(flat)
            keep = flat.reshape(batch, height, width, 1).astype(tokens.dtype)
            if masked and stage.compat == "released" and other is None:
                other = tokens
        if keep is None:
            tokens, found = layer(i, False)(tokens)
        else:
            tokens, other, found = layer(i, True)(tokens, keep, split, other)
        maps.append(found)
    parts: dict[str, Any] = {"scores": tuple(scores), "keep_index": tuple(index)}
    if applied:
        parts["decisions"] = jnp.stack(applied, axis=1)
    return _merged(tokens, other, keep), maps, parts


def _merged(tokens: Array, other: Array | None, keep: Array | None) -> Array:
    """One value of every token where there are two."""
    return tokens if other is None or keep is None else tokens * keep + other * (1 - keep)


def split_tokens(scores: Float[Array, "b n"], ratio: float) -> Split:
    """The best int(n * ratio) tokens, at least one, and the others."""
    count = scores.shape[1]
    best = top_k_index(scores, keep_count(count, ratio, alive=count))
    order = jnp.argsort(as_keep(best, count), axis=1, stable=True)  # those that are not among the best first
    rest = order[:, : count - best.shape[1]]
    return Split(best, rest, jnp.argsort(jnp.concatenate([best, rest], axis=1), axis=1))


def each_its_way(tokens: Float[Array, "b n d"], split: Split, slow: Callable, fast: Callable) -> Array:
    """Updates of all tokens in their order, each path computed for its own tokens."""
    if not split.fast.shape[1]:
        return slow(tokens)
    updates = jnp.concatenate([slow(take(tokens, split.slow)), fast(take(tokens, split.fast))], axis=1)
    return take(updates, split.back)
