"""Tables of one row per patch or per offset, brought to the grid or the windows of a model.

A table does not say what its rows are: 144 are 12 x 12 as well as 9 x 16. What is known comes first: the
model's own grid, its aspect, then a square. Where several fit, the table decides: neighbours on its true grid
are alike. Where it does not tell, the first reading is taken and the other is named.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vitjax.weights.layout import Positions
from vitjax.weights.rename import Renamed, to_path

Grid = tuple[int, int]
# Mean squared differences of neighbours below this share of another reading's tell the true one; tables of
# independent numbers stay within a tenth or two of 1.
_EVIDENCE = 0.6


def fit_positions(renamed: Renamed, model: Any, tower: str = "") -> list[str]:
    """Brings the position table to the model's grid and prefix rows; returns what was done, in words.

    A table that cannot be brought there is left as it is, for the report.

    Args:
        renamed: holds the table.
        model: a backbone; of two towers, that of images.
        tower: what stands before its names.
    """
    table, how = renamed.state[f"{tower}pos_embed"], renamed.positions
    if getattr(model, "interpolation", "bicubic") == "bilinear":  # names do not tell TIPS from DINOv2
        how = dataclasses.replace(
            how,
            interpolation="bilinear",
            antialias=model.interpolate_antialias,
            offset=model.interpolate_offset,
        )
    if table.ndim != 3 or table.shape[0] != 1:
        return []
    patches_only = getattr(model, "no_embed_class", False)
    rows_in_model = 0 if patches_only else model.prefix_count
    tokens = [n for n in (f"{tower}cls_token", f"{tower}dist_token") if n in renamed.state]
    prefix, readings = _split_rows(table.shape[1], how, rows_in_model, model.grid)
    if not readings or prefix > (len(tokens) if patches_only else rows_in_model):
        return []
    notes = []
    patches = table[0, prefix:]
    grid, doubt = _most_even(patches, readings)
    if grid != model.grid:
        resize = functools.partial(
            model.resize_positions,
            source=grid,
            antialias=how.antialias,
            offset=how.offset,
            corners=how.corners,
            interpolation=how.interpolation,
        )
        resized = jax.jit(resize)(np.asarray(patches, np.float32))  # one program, not one an operation
        patches = np.asarray(resized)
        notes.append(f"position table resized from {_by(grid)} to {_by(model.grid)}, {how}{doubt}")
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
        renamed.state[f"{tower}pos_embed"] = np.concatenate([front, patches])[None]
    return notes


def _split_rows(rows: int, how: Positions, rows_in_model: int, grid: Grid) -> tuple[int, list[Grid]]:
    """Prefix rows of a table and what the grid of its other rows may be, the likeliest first."""
    # The model's own prefix comes first: other counts may fit its grid by chance.
    for prefix in dict.fromkeys([rows_in_model, 0, 1, 2]) if how.prefix_rows is None else [how.prefix_rows]:
        if readings := _readings(rows - prefix, grid, square=how.square):
            return prefix, readings
    return 0, []


def _readings(count: int, grid: Grid, *, square: bool) -> list[Grid]:
    """Grids of `count` patches: the model's or one of its aspect, and a square, alone where asked for."""
    if count <= 0:
        return []
    side = math.isqrt(count)
    squares = [(side, side)] if side * side == count else []
    if square and squares:
        return squares
    unit = math.gcd(*grid)
    high, wide = grid[0] // unit, grid[1] // unit
    times = math.isqrt(count // (high * wide))
    like = [(high * times, wide * times)] if high * wide * times * times == count else []
    return list(dict.fromkeys([*like, *squares]))


def _most_even(rows: np.ndarray, readings: list[Grid]) -> tuple[Grid, str]:
    """The reading whose neighbours are clearly most alike, else the first; and the doubt, in words."""
    if len(readings) == 1:
        return readings[0], ""
    rough = [_roughness(rows, grid) for grid in readings]
    best = min(range(len(readings)), key=rough.__getitem__)
    others = [i for i in range(len(readings)) if i != best]
    if all(rough[best] < _EVIDENCE * rough[i] for i in others):
        return readings[best], f"; not of {_by(readings[0])}, where neighbours are less alike" if best else ""
    return readings[0], f"; it may as well be of {_by(readings[1])}, nothing in it tells"


def _roughness(rows: np.ndarray, grid: Grid) -> float:
    """Mean squared difference of neighbours on a grid."""
    with np.errstate(all="ignore"):
        table = np.asarray(rows, np.float64).reshape(*grid, rows.shape[-1])
        pairs = [np.square(np.diff(table, axis=axis)).ravel() for axis in (0, 1)]
        found = float(np.mean(np.concatenate(pairs)))
    return found if math.isfinite(found) else math.inf


def fit_offsets(renamed: Renamed, wanted: Mapping[tuple[str, ...], tuple[int, ...]], model: Any) -> list[str]:
    """Cuts tables of logits by offset to smaller windows; returns what was done, in words.

    An offset keeps its own logit, in tokens; timm stretches the table instead, so that its ends meet the
    ends of the smaller window. Larger windows have offsets that no table knows: left for the report.
    """
    notes = []
    for name, table in renamed.state.items():
        path = to_path(name, table)[0]
        if path[-1] != "relative_position_bias_table" or path not in wanted or table.ndim != 2:
            continue
        window = model.windows[int(path[0].split("_")[1])]
        own = (2 * window[0] - 1, 2 * window[1] - 1)
        side = math.isqrt(table.shape[0])
        readings = [own] if math.prod(own) == table.shape[0] else []
        if side % 2 and side**2 == table.shape[0]:
            readings += [(side, side)]
        if not (readings := list(dict.fromkeys(readings))):
            continue
        grid, doubt = _most_even(table, readings)
        if grid == own:
            if doubt:
                notes.append(f"tables of offsets taken to be of windows of {_by(window)}{doubt}")
            continue
        spare = [(length - wished) // 2 for length, wished in zip(grid, own, strict=True)]
        square = table.reshape(*grid, table.shape[1])
        if min(spare) < 0:  # of as many rows, perhaps, but of other offsets: unlike the model's in shape
            renamed.state[name] = square if math.prod(own) == table.shape[0] else table
            continue
        middle = tuple(slice(s, length - s) for s, length in zip(spare, grid, strict=True))
        renamed.state[name] = square[middle].reshape(-1, table.shape[1])
        notes.append(f"tables of offsets cut to windows of {_by(window)}{doubt}")
    return list(dict.fromkeys(notes))


def _by(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"
