import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.windows import WindowAttention, Windows

# grid, window, shifted, what fit makes of it: (size, shift)
FITS = [
    ((8, 12), (4, 4), False, ((4, 4), (0, 0))),
    ((8, 12), (4, 4), True, ((4, 4), (2, 2))),
    ((7, 9), (4, 4), True, ((4, 4), (2, 2))),
    ((5, 3), (3, 7), True, ((3, 3), (1, 0))),
    ((4, 5), (4, 4), True, ((4, 4), (0, 2))),
    ((3, 3), (7, 7), True, ((3, 3), (0, 0))),
]


@pytest.mark.parametrize(("grid", "size", "shifted", "wanted"), FITS)
def test_windows_shrink_to_the_grid_and_a_single_one_does_not_roll(grid, size, shifted, wanted):
    windows = Windows.fit(grid, size, shifted=shifted)
    assert (windows.size, windows.shift) == wanted


@pytest.mark.parametrize(("grid", "size", "shifted", "wanted"), FITS)
def test_cutting_and_joining_gives_the_grid_back(grid, size, shifted, wanted):
    windows = Windows.fit(grid, size, shifted=shifted)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, *grid, 5)), jnp.float32)
    cut = windows.cut(tokens)
    np.testing.assert_array_equal(windows.join(cut), tokens)
    # Every place of every window holds the token that positions() names, padding zeros.
    padded = np.concatenate([np.asarray(tokens).reshape(2, -1, 5), np.zeros((2, 1, 5))], axis=1)
    np.testing.assert_array_equal(cut, padded[:, windows.positions()].reshape(cut.shape))
    np.testing.assert_array_equal(
        np.sort(windows.positions()[windows.positions() >= 0]), np.arange(np.prod(grid))
    )


def test_the_shift_mask_separates_tokens_of_far_apart_positions():
    windows = Windows.fit((8, 8), (4, 4), shifted=True)
    mask, positions = windows.shift_mask(), windows.positions()
    assert mask is not None
    for block, where in zip(mask, positions, strict=True):
        rows, columns = np.divmod(where, 8)
        near = (abs(rows[:, None] - rows) < 4) & (abs(columns[:, None] - columns) < 4)
        np.testing.assert_array_equal(block == 0, near)
        np.testing.assert_array_equal(block != 0, block == -100)
    still = Windows.fit((8, 8), (4, 4), shifted=False)
    assert still.shift_mask() is None
    with pytest.deprecated_call(match="shift_mask"):
        assert still.strangers() is None


def _attention(windows, batch=2, heads=3):
    count, slots = windows.positions().shape
    weights = np.random.default_rng(0).uniform(size=(batch * count, heads, slots, slots))
    weights /= weights.sum(axis=-1, keepdims=True)
    return WindowAttention(jnp.asarray(weights, jnp.float32), windows)


@pytest.mark.parametrize(("grid", "size", "shifted", "wanted"), FITS)
def test_on_grid_equals_a_loop_over_pairs_of_tokens(grid, size, shifted, wanted):
    windows = Windows.fit(grid, size, shifted=shifted)
    attention = _attention(windows)
    (size, shift), (down, across) = wanted, (-(-grid[0] // wanted[0][0]), -(-grid[1] // wanted[0][1]))
    weights = np.asarray(attention).reshape(2, down * across, 3, size[0] * size[1], size[0] * size[1])

    def place(row, column):
        row, column = (row - shift[0]) % grid[0], (column - shift[1]) % grid[1]
        window = row // size[0] * across + column // size[1]
        return window, row % size[0] * size[1] + column % size[1]

    tokens = [place(row, column) for row in range(grid[0]) for column in range(grid[1])]
    expected = np.zeros((2, 3, len(tokens), len(tokens)))
    for query, (window, slot) in enumerate(tokens):
        for key, (other, other_slot) in enumerate(tokens):
            if window == other:
                expected[:, :, query, key] = weights[:, window, :, slot, other_slot]
    expected /= expected.sum(axis=-1, keepdims=True)
    found = jax.jit(lambda a: a.on_grid())(attention)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_attention_is_an_array_on_the_host_and_a_tree_under_jit():
    attention = _attention(Windows.fit((4, 6), (2, 3), shifted=True))
    np.testing.assert_array_equal(np.asarray(attention), attention.weights)
    doubled = jax.jit(lambda a: jax.tree.map(lambda x: 2 * x, a))(attention)
    assert doubled.windows == attention.windows
    np.testing.assert_allclose(np.asarray(doubled, np.float64), 2 * np.asarray(attention, np.float64))
    assert jnp.asarray(attention.weights).shape == attention.weights.shape
