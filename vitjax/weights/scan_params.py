"""Parameters of blocks, side by side as checkpoints have them, or on one leading axis for `scan_layers`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.errors import UserError


def stack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a model with `scan_layers` from those of the same model without.

    Args:
        variables: {"params": {"blocks_0": ..., "blocks_1": ..., ...}, ...}.

    Returns:
        The same with {"params": {"blocks": ..., ...}}: every leaf has a leading axis, block 0 first.

    Raises:
        ValueError: no blocks, or some missing from their row.
    """
    params = dict(variables["params"])
    if "image" in params and "text" in params:
        return {**variables, "params": params | _each_tower(stack_blocks, params)}
    names = [name for name in params if re.fullmatch(r"blocks_\d+", name)]
    blocks = [params.pop(f"blocks_{i}", None) for i in range(len(names))]
    if not blocks or None in blocks:
        raise UserError(
            "stack_blocks: expected parameters 'blocks_0', 'blocks_1', ... without gaps, got "
            f"{sorted(names)}; give the variables of a model built with scan_layers=False."
        )
    return {**variables, "params": params | {"blocks": jax.tree.map(lambda *leaf: jnp.stack(leaf), *blocks)}}


def unstack_blocks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a model without `scan_layers` from those of the same model with it.

    Raises:
        ValueError: no stacked blocks.
    """
    params = dict(variables["params"])
    if "image" in params and "text" in params:
        return {**variables, "params": params | _each_tower(unstack_blocks, params)}
    stacked = params.pop("blocks", None)
    if stacked is None:
        raise UserError(
            f"unstack_blocks: no parameters 'blocks' among {sorted(params)}; give the variables of a model "
            "built with scan_layers=True."
        )
    depth = jax.tree.leaves(stacked)[0].shape[0]
    blocks = {f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(depth)}
    return {**variables, "params": params | blocks}


def _each_tower(change: Callable[[Mapping[str, Any]], dict[str, Any]], params: Mapping[str, Any]) -> dict:
    """The parameters of both towers, changed."""
    return {tower: change({"params": params[tower]})["params"] for tower in ("image", "text")}
