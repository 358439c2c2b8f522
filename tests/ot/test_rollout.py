from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.compiled import compiled
from tests.ot.problems import programs
from vitjax import ot
from vitjax.ot.attention_maps import count_of


def _attention(seed: int, blocks: int, batch: int, heads: int, n: int) -> list[np.ndarray]:
    logits = np.random.default_rng(seed).normal(size=(blocks, batch, heads, n, n)) * 2
    return list(scipy.special.softmax(logits, axis=-1).astype("f"))


def test_two_tokens_and_one_block_by_hand():
    # Mean over heads [[.5, .5], [.2, .8]], plus identity, rows over their sum: [[.75, .25], [.1, .9]].
    attention = [np.array([[[[0.2, 0.8], [0.3, 0.7]], [[0.8, 0.2], [0.1, 0.9]]]])]
    np.testing.assert_allclose(programs.rollout_matrix(attention), [[[0.75, 0.25], [0.1, 0.9]]], atol=1e-6)
    np.testing.assert_allclose(programs.attention_rollout(attention), [[1.0]], atol=1e-6)


def test_later_blocks_multiply_from_the_left():
    attention = _attention(0, 3, 2, 2, 5)
    layers = [np.asarray(x).mean(1) + np.eye(5) for x in attention]
    layers = [x / x.sum(-1, keepdims=True) for x in layers]
    np.testing.assert_allclose(
        programs.rollout_matrix(attention), layers[2] @ layers[1] @ layers[0], atol=1e-6
    )
    np.testing.assert_allclose(programs.rollout_matrix(attention, start=1), layers[2] @ layers[1], atol=1e-6)
    np.testing.assert_allclose(programs.rollout_matrix(attention, start=-1), layers[2], atol=1e-6)


@pytest.mark.parametrize("heads", ["mean", "min", "max"])
@pytest.mark.parametrize(("prefix", "grid"), [(1, None), (1, (2, 3)), (5, (2, 3)), (0, (2, 3))])
def test_weights_sum_to_one_over_the_patches(heads, prefix, grid):
    attention = _attention(1, 3, 2, 3, 6 + prefix)
    weights = programs.attention_rollout(attention, heads=heads, grid=grid, discard=0.1)
    matrix = programs.rollout_matrix(attention, heads=heads, discard=0.1)
    row = matrix[:, 0, prefix:] if prefix else matrix.mean(1)
    assert weights.shape == (2, 6)
    np.testing.assert_allclose(weights, row / row.sum(-1, keepdims=True), atol=1e-6)


def test_an_image_does_not_depend_on_its_batch_mates():
    attention = _attention(2, 3, 4, 3, 7)
    together = programs.attention_rollout(attention, heads="min", discard=0.3)
    for i in range(4):
        alone = programs.attention_rollout([x[i : i + 1] for x in attention], heads="min", discard=0.3)
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-7)


def test_the_smallest_share_of_entries_is_discarded():
    n = 10
    attention = _attention(3, 1, 2, 1, n)
    matrix = programs.rollout_matrix(attention, discard=0.25)
    for image, fused in zip(matrix, np.asarray(attention[0])[:, 0], strict=True):
        cut = np.sort(fused, axis=None)[25]
        kept = np.where(fused < cut, 0.0, fused) + np.eye(n)
        np.testing.assert_allclose(image, kept / kept.sum(-1, keepdims=True), atol=1e-6)


def test_bfloat16_attention_is_multiplied_in_float32():
    attention = [x.astype(jnp.bfloat16) for x in _attention(4, 2, 1, 2, 5)]
    assert programs.rollout_matrix(attention).dtype == jnp.float32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"heads": "median"}, "heads 'median' is unknown; known: 'mean', 'min', 'max'"),
        ({"start": 3}, "start is 3 but there are 3 blocks"),
        ({"discard": 1.0}, r"discard is 1.0; it must be a share in \[0, 1\)"),
        ({"grid": (3, 3)}, r"attention has 6 tokens, fewer than the \(3, 3\) grid"),
    ],
)
def test_wrong_settings_say_what_to_do(settings, words):
    with pytest.raises(ValueError, match=words):
        programs.attention_rollout(_attention(5, 3, 1, 2, 6), **settings)


def test_blocks_of_different_sizes_are_refused():
    attention = [*_attention(6, 1, 1, 2, 6), *_attention(6, 1, 1, 2, 4)]
    with pytest.raises(ValueError, match="one square size is needed"):
        programs.attention_rollout(attention)
    assert programs.attention_rollout(attention, start=1).shape == (1, 3)


def _stages(seed: int, batch: int = 2) -> list[np.ndarray]:
    """CvT's kind: 16x12, 8x6 and 4x3 grids, keys on every second token, a class token in the last stage."""
    shapes = [(192, 48), (48, 12), (13, 5), (13, 5)]
    chance = np.random.default_rng(seed)
    return [
        scipy.special.softmax(chance.normal(size=(batch, 2, *shape)) * 2, axis=-1).astype("f")
        for shape in shapes
    ]


def _share(coarse: tuple[int, int], fine: tuple[int, int]) -> np.ndarray:
    """Row i: a coarse cell's weight over the fine tokens it stands for, two by two; rows sum to 1."""
    matrix = np.zeros((coarse[0] * coarse[1], fine[0] * fine[1]))
    for y in range(fine[0]):
        for x in range(fine[1]):
            matrix[(y // 2) * coarse[1] + x // 2, y * fine[1] + x] = 1
    return matrix / matrix.sum(1, keepdims=True)


def _with_residual(attention: np.ndarray) -> np.ndarray:
    mixed = attention + np.eye(attention.shape[-1])
    return mixed / mixed.sum(-1, keepdims=True)


def test_a_hierarchy_equals_the_product_of_its_stochastic_maps():
    attention = _stages(0)
    fused = [np.asarray(x, np.float64).mean(1) for x in attention]
    first = _with_residual(fused[0] @ _share((8, 6), (16, 12)))
    second = _with_residual(fused[1] @ _share((4, 3), (8, 6)))
    # Keys of the 4x3 grid lie on 2x2: the last column's cells hold one column of tokens.
    with_cls = np.zeros((5, 13))
    with_cls[0, 0] = 1
    with_cls[1:, 1:] = _share((2, 2), (4, 3))
    last = _with_residual(fused[3] @ with_cls) @ _with_residual(fused[2] @ with_cls)
    for maps in (first, second, last):
        np.testing.assert_allclose(maps.sum(-1), np.ones(maps.shape[:2]), atol=1e-6)
    row = last[:, :1, 1:] @ _share((4, 3), (8, 6)) @ second @ _share((8, 6), (16, 12)) @ first
    cells = row[:, 0] @ (_share((8, 6), (16, 12)) > 0).T @ (_share((4, 3), (8, 6)) > 0).T
    weights = programs.attention_rollout(attention, grid=(4, 3))
    np.testing.assert_allclose(weights, cells / cells.sum(-1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), np.ones(2), rtol=1e-6)


def test_a_stage_may_be_left_out_by_a_later_start():
    attention = _stages(1)
    late = programs.attention_rollout(attention, start=2, grid=(4, 3))
    np.testing.assert_allclose(programs.attention_rollout(attention[2:], grid=(4, 3)), late, atol=1e-7)
    assert np.abs(late - programs.attention_rollout(attention, grid=(4, 3))).max() > 1e-3


def test_attention_to_one_corner_gives_the_corner_its_weight():
    # Every query of an even 4x4 grid attends to the first of 2x2 keys: half of each row stays with the token,
    # half goes to the four tokens of the first cell. The mean row gives them 1/32 + 1/8 each, others 1/32.
    attention = [np.tile(np.array([1, 0, 0, 0], "f"), (1, 1, 16, 1))]
    wanted = np.full((4, 4), 1 / 32)
    wanted[:2, :2] += 1 / 8
    np.testing.assert_allclose(
        programs.attention_rollout(attention, grid=(4, 4))[0], wanted.ravel(), atol=1e-6
    )


@pytest.mark.parametrize("settings", [{"discard": 0.2, "heads": "min"}, {"compat": "released", "pool": 2}])
def test_an_image_of_a_hierarchy_does_not_depend_on_its_batch_mates(settings):
    attention = _stages(2, batch=3)
    together = programs.attention_rollout(attention, grid=(4, 3), **settings)
    alone = programs.attention_rollout([x[1:2] for x in attention], grid=(4, 3), **settings)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-7)


def test_the_released_form_has_its_papers_settings_by_default():
    attention = _stages(3)
    weights = programs.attention_rollout(attention, grid=(4, 3), compat="released", pool=2)
    named = compiled(ot.released.cvt_rollout)(attention, grid=(4, 3), pool=2, heads="min", discard=0.1)
    np.testing.assert_array_equal(weights, named.marginal)
    assert weights.shape == (2, 4)
    np.testing.assert_allclose(weights.sum(-1), 1 / (1 + 1e-5) * np.ones(2), rtol=1e-5)
    plain = compiled(ot.released.cvt_rollout)(attention, grid=(4, 3), pool=2, heads="mean", discard=0.0)
    # Averaging an 8x6 grid of keys to 2x2 leaves 4 / 48 of each row: why it is not the default.
    np.testing.assert_allclose(plain.resized[0].sum(-1), np.full((2, 4), 4 / 48), rtol=1e-5)


class _Cut(NamedTuple):
    """A 3x4 grid in windows of 2x2, the lower ones half padding, rolled left by one."""

    grid: tuple[int, int] = (3, 4)

    def positions(self) -> np.ndarray:
        places = np.full((4, 4), -1)
        padded = np.concatenate([np.roll(np.arange(12).reshape(3, 4), -1, axis=1), np.full((1, 4), -1)])
        for i in range(4):
            y, x = divmod(i, 2)
            places[i] = padded[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
        return places


class _Windowed(NamedTuple):
    weights: np.ndarray
    windows: _Cut


def _windowed(seed: int, batch: int) -> tuple[_Windowed, np.ndarray]:
    """Attention in windows, and the same on the whole grid, padding left out and rows whole again."""
    logits = np.random.default_rng(seed).normal(size=(batch * 4, 2, 4, 4))
    maps = scipy.special.softmax(logits, axis=-1).astype("f")
    dense, cut = np.zeros((batch, 2, 12, 12)), _Cut()
    for window, places in enumerate(cut.positions()):
        for q, row in enumerate(places):
            for k, column in enumerate(places):
                if row >= 0 and column >= 0:
                    dense[:, :, row, column] = maps.reshape(batch, 4, 2, 4, 4)[:, window, :, q, k]
    return _Windowed(jnp.asarray(maps), cut), dense / dense.sum(-1, keepdims=True)


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_windows_followed_one_by_one_equal_the_dense_map(heads):
    pairs = [_windowed(seed, 2) for seed in (0, 1)]
    dense = [x.astype("f") for _, x in pairs]
    weights = ot.attention_rollout([x for x, _ in pairs], heads=heads)
    wanted = programs.attention_rollout(dense, heads=heads, grid=(3, 4))
    np.testing.assert_allclose(weights, wanted, atol=1e-6)
    np.testing.assert_allclose(
        ot.attention_rollout([x for x, _ in pairs], grid=(3, 4), heads=heads), wanted, atol=1e-6
    )


def test_discarding_in_windows_counts_real_pairs_of_each_image_only():
    block, dense = _windowed(2, 3)
    fused = dense.mean(1)
    real = np.asarray([np.sort(image[image > 0]) for image in fused])
    assert real.shape == (3, 40)  # two windows of 4 x 4 pairs, two of 2 x 2
    kept = np.where(fused >= real[:, 10, None, None], fused, 0)
    wanted = _with_residual(kept).mean(1)
    weights = ot.attention_rollout([block], discard=0.25)
    np.testing.assert_allclose(weights, wanted / wanted.sum(-1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        ([(12, 12), (9, 9)], {"grid": (3, 3)}, "12 tokens before a 3x3 grid: no grid, or more than one"),
        ([(30, 30), (9, 9)], {"grid": (3, 3)}, "30 tokens before a 3x3 grid: no grid, or more than one"),
        ([(16, 3)], {"grid": (4, 4)}, "3 keys for a 4x4 grid"),
        ([(16, 4)], {"compat": "released"}, "needs grid"),
        ([(16, 4)], {"compat": "released", "grid": (4, 4)}, "side 2 cannot be averaged to 7x7"),
        ([(16, 4)], {"compat": "paper", "grid": (4, 4)}, "compat 'paper' is unknown"),
    ],
)
def test_grids_that_cannot_be_told_are_an_error(shapes, settings, words):
    with pytest.raises(ValueError, match=words):
        programs.attention_rollout([jnp.ones((1, 1, *shape)) for shape in shapes], **settings)


@pytest.mark.parametrize(("fine", "coarse"), [((5, 7), (3, 4)), ((27, 14), (14, 7)), ((1, 3), (1, 2))])
def test_odd_grids_are_found_and_lose_no_weight(fine, coarse):
    count, before = coarse[0] * coarse[1], fine[0] * fine[1]
    attention = [np.full((1, 1, n, n), 1 / n, "f") for n in (before, count)]
    weights = programs.attention_rollout(attention, grid=coarse)
    assert weights.shape == (1, count)
    cell = np.outer(*(np.bincount(np.arange(n) // 2) for n in fine)).ravel()
    # Two uniform blocks: half of the uniform row of the fine grid comes from there, half from the coarse one.
    wanted = 0.5 * cell / before + 0.5 / count
    np.testing.assert_allclose(weights[0], wanted, atol=1e-6)


def test_a_share_of_entries_is_rounded_down():
    assert [count_of(share, 10) for share in (0.0, 0.09, 0.29, 0.99)] == [0, 0, 2, 9]
