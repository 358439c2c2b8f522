"""Relative position biases of a Swin that an export folded into constants of its graph.

The table of a block, ((2 m - 1)^2, heads), is looked up by an index that never changes, so exports keep what
comes out: (heads, m^2, m^2), which an Add brings to the attention scores. Here the table is made of it again.
"""

import math
from typing import Any

import numpy as np

from vitjax.errors import WeightsError

TABLE = "relative_position_bias_table"
_STEPS = 16  # from the scores back to the queries, at most


def name_bias_tables(
    state: dict[str, np.ndarray], graph: Any, layers: dict[str, str]
) -> dict[str, np.ndarray]:
    """Replaces folded position biases by their tables, named by the attention that they belong to.

    Args:
        state: constants by name.
        graph: the ONNX graph that uses them.
        layers: name of the layer by the value that its bias is added to.

    Raises:
        WeightsError: a constant of this shape whose entries are no function of the relative position.
    """
    if any(name.endswith(TABLE) for name in state):
        return state
    makers = {output: node for node in graph.node for output in node.output}
    tables, folded = {}, set()
    for node in graph.node:
        if node.op_type != "Add" or len(node.input) != 2:
            continue
        for constant, scores in (node.input, reversed(node.input)):
            if constant not in state or not (window := _window(state[constant])):
                continue
            if scope := _attention(scores, makers, layers, state):
                tables[f"{scope}.{TABLE}"] = _table(constant, state[constant], window)
                folded.add(constant)
    return tables | {name: array for name, array in state.items() if name not in folded}


def _window(bias: np.ndarray) -> int:
    """Side of the window that a constant of this shape is for; 0 = it is no position bias.

    A constant for one head alone is taken for a mask: of a causal transformer, say.
    """
    if bias.ndim == 4 and bias.shape[0] == 1:
        bias = bias[0]
    if bias.ndim != 3 or bias.shape[0] == 1 or bias.shape[1] != bias.shape[2]:
        return 0
    side = math.isqrt(bias.shape[1])
    return side if side > 1 and side * side == bias.shape[1] else 0


def _attention(scores: str, makers: dict[str, Any], layers: dict[str, str], state: dict) -> str:
    """Name of the attention whose scores a value holds, by the layer that its queries come from."""
    for _ in range(_STEPS):
        if scores in layers:
            return layers[scores].rpartition(".")[0]
        node = makers.get(scores)
        if node is None or not node.input:
            return ""
        # Data come first, but for a product with a constant, which may be written either way round.
        scores = next((name for name in node.input if name not in state), "")
    return ""


def _table(name: str, bias: np.ndarray, window: int) -> np.ndarray:
    """The table, ((2 m - 1)^2, heads), that a folded bias was looked up in."""
    bias = bias.reshape(bias.shape[-3:])
    row, column = np.divmod(np.arange(window * window), window)
    span = 2 * window - 1
    index = (row[:, None] - row + window - 1) * span + (column[:, None] - column + window - 1)
    table = np.empty((span * span, len(bias)), bias.dtype)
    table[index.ravel()] = bias.reshape(len(bias), -1).T
    if not np.array_equal(table[index].transpose(2, 0, 1), bias):
        raise WeightsError(
            f"{name!r} of shape {bias.shape} is added to attention scores, but is no bias by relative "
            "position; refused."
        )
    return table
