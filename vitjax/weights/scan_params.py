"""Parameters of blocks, side by side as checkpoints have them, or on one leading axis for `scan_layers`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.errors import UserError


def stack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a model with `scan_layers` from those of the same model without.

    Args:
        variables: {"params": {"blocks_0": ..., "blocks_1": ..., ...}, ...}, the blocks at any depth.

    Returns:
        The same with {"blocks": ...} in their place: every leaf has a leading axis, block 0 first.

    Raises:
        ValueError: no blocks, or some missing from their row.
    """
    params, rows = _stacked(variables["params"])
    if not rows:
        raise UserError(
            f"stack_blocks: no parameters 'blocks_0', 'blocks_1', ... among {sorted(params)}; give the "
            "variables of a model built with scan_layers=False."
        )
    return {**variables, "params": params}


def _stacked(params: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Parameters with all rows of blocks stacked, and how many rows there were."""
    names = [name for name in params if re.fullmatch(r"blocks_\d+", name)]
    blocks = [params.get(f"blocks_{i}") for i in range(len(names))]
    if None in blocks:
        raise UserError(
            "stack_blocks: expected parameters 'blocks_0', 'blocks_1', ... without gaps, got "
            f"{sorted(names)}; give the variables of a model built with scan_layers=False."
        )
    inside = {
        k: _stacked(v) if isinstance(v, Mapping) else (v, 0) for k, v in params.items() if k not in names
    }
    found = {name: value for name, (value, _) in inside.items()}
    if blocks:
        found["blocks"] = jax.tree.map(lambda *leaf: jnp.stack(leaf), *blocks)
    return found, bool(blocks) + sum(rows for _, rows in inside.values())


def unstack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a model without `scan_layers` from those of the same model with it.

    Raises:
        ValueError: no stacked blocks.
    """
    params, rows = _unstacked(variables["params"])
    if not rows:
        raise UserError(
            f"unstack_blocks: no parameters 'blocks' among {sorted(params)}; give the variables of a model "
            "built with scan_layers=True."
        )
    return {**variables, "params": params}


def _unstacked(params: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Parameters with all stacks of blocks taken apart, and how many stacks there were."""
    found, rows = {}, 0
    for name, value in params.items():
        if name == "blocks":
            depth = jax.tree.leaves(value)[0].shape[0]
            found |= {f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], value) for i in range(depth)}
            rows += 1
        elif isinstance(value, Mapping):
            found[name], inside = _unstacked(value)
            rows += inside
        else:
            found[name] = value
    return found, rows
