"""Blocks of Swin against their paper's formulae, written out in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.windows import Windows
from vitjax.models.swin_blocks import WindowSelfAttention

HEADS = 2


def offsets_bias(table: np.ndarray, size: tuple[int, int], window: tuple[int, int]) -> np.ndarray:
    """Of Liu et al. 2021: a row of the table for each (query minus key) offset, down before across."""
    places = list(itertools.product(range(size[0]), range(size[1])))
    bias = np.zeros((HEADS, len(places), len(places)), np.float32)
    for (q, (row, column)), (k, (other_row, other_column)) in itertools.product(enumerate(places), repeat=2):
        down, across = row - other_row + window[0] - 1, column - other_column + window[1] - 1
        bias[:, q, k] = table.reshape(2 * window[0] - 1, 2 * window[1] - 1, HEADS)[down, across]
    return bias


@pytest.mark.parametrize(
    ("grid", "window"),
    [((4, 4), (4, 4)), ((2, 3), (2, 3)), ((2, 3), (4, 5))],
    ids=["square", "oblong", "smaller than its table"],
)
def test_a_logit_belongs_to_the_offset_from_the_key_to_the_query_down_before_across(grid, window):
    windows = Windows.fit(grid, window, shifted=False)
    model = WindowSelfAttention(HEADS, window)
    tokens = jax.random.normal(jax.random.key(0), (1, *grid, 4))
    params = model.init(jax.random.key(1), tokens, windows)["params"]
    table = jax.random.normal(jax.random.key(2), params["relative_position_bias_table"].shape)
    params = jax.tree.map(jnp.zeros_like, params) | {"relative_position_bias_table": table}
    _, maps = model.apply({"params": params}, tokens, windows, return_attention=True)
    wanted = np.exp(offsets_bias(np.asarray(table), grid, window))
    np.testing.assert_allclose(
        maps.weights[0], wanted / wanted.sum(axis=-1, keepdims=True), rtol=1e-5, atol=1e-6
    )
