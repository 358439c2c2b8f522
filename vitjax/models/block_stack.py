"""A stack of equal blocks, run one after the other or as one scan."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vitjax.layers.basic import drop_rates


def run_blocks(
    model: Any,
    block: type[nn.Module],
    fields: Mapping[str, Any],
    tokens: Float[Array, "b *n d"],
    *shared: Any,
    last: int,
    first: int = 0,
) -> tuple[Float[Array, "b *n d"], tuple[Any, ...]]:
    """Runs blocks `first` to `last` inside the compact method of `model`, in the way its fields say.

    As a loop, block i has the parameters `blocks_<i>`: the layout of checkpoints. With `scan_layers`, one
    block is compiled and scanned over parameters `blocks` with a leading axis of `depth`;
    `vitjax.weights.scan_params` turns one layout into the other. Results are the same up to rounding.

    Compiling the gradient of DeiT-S took 4 s at depth 12 and 12 s at depth 24 as a loop, 2 s at either as a
    scan (2 CPU cores). With `remat` as well, the scan needs 0.18 GB beside its arguments at depth 24 and
    batch 8 instead of 1.8. In a loop `remat` frees nothing on CPU, as XLA computes the second time too early.

    Args:
        model: has the fields `depth`, `scan_layers` and `remat`; `drop_path_rate`, where it has that, is of
            the last block, or a tuple of each block's own.
        block: class of modules that map (tokens, *shared) to (tokens, attention or None).
        fields: of every block.
        tokens: what the first block gets; all blocks keep its shape and type.
        shared: what every block gets beside tokens.
        last: index from 0.
        first: likewise.

    Returns:
        Tokens after the last block, and what each returned beside them.
    """
    count = last + 1 - first
    kind: Any = nn.remat(block, prevent_cse=not model.scan_layers) if model.remat else block
    if not model.scan_layers:
        maps = []
        for i in range(first, last + 1):
            tokens, weights = kind(**fields_of(model, fields, i), name=f"blocks_{i}")(tokens, *shared)
            maps.append(weights)
        return tokens, tuple(maps)
    scan: Any = nn.scan
    stack: Any = scan(
        kind, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=count
    )
    if count < model.depth and not model.is_initializing():
        stack = nn.map_variables(
            stack, "params", lambda tree: jax.tree.map(lambda leaf: leaf[first : last + 1], tree)
        )
    tokens, stacked = stack(**fields, name="blocks")(tokens, *shared)
    return tokens, (None,) * count if stacked is None else tuple(stacked)


def fields_of(model: Any, fields: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Fields of block i: those of every block, and its own rate of stochastic depth."""
    rate = getattr(model, "drop_path_rate", 0.0)
    if not rate:
        return dict(fields)
    rates = rate if isinstance(rate, tuple) else drop_rates(rate, model.depth)
    return {**fields, "drop_path": rates[i]}
