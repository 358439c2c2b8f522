import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import ot


def _attention(seed: int, blocks: int, batch: int, heads: int, n: int) -> list[jax.Array]:
    logits = np.random.default_rng(seed).normal(size=(blocks, batch, heads, n, n)) * 2
    return list(jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1))


def test_two_tokens_and_one_block_by_hand():
    # Mean over heads [[.5, .5], [.2, .8]], plus identity, rows over their sum: [[.75, .25], [.1, .9]].
    attention = [jnp.asarray([[[[0.2, 0.8], [0.3, 0.7]], [[0.8, 0.2], [0.1, 0.9]]]])]
    np.testing.assert_allclose(ot.rollout_matrix(attention), [[[0.75, 0.25], [0.1, 0.9]]], atol=1e-6)
    np.testing.assert_allclose(ot.attention_rollout(attention), [[1.0]], atol=1e-6)


def test_later_blocks_multiply_from_the_left():
    attention = _attention(0, 3, 2, 2, 5)
    layers = [np.asarray(x).mean(1) + np.eye(5) for x in attention]
    layers = [x / x.sum(-1, keepdims=True) for x in layers]
    np.testing.assert_allclose(ot.rollout_matrix(attention), layers[2] @ layers[1] @ layers[0], atol=1e-6)
    np.testing.assert_allclose(ot.rollout_matrix(attention, start=1), layers[2] @ layers[1], atol=1e-6)
    np.testing.assert_allclose(ot.rollout_matrix(attention, start=-1), layers[2], atol=1e-6)


@pytest.mark.parametrize("heads", ["mean", "min", "max"])
@pytest.mark.parametrize(("prefix", "grid"), [(1, None), (1, (2, 3)), (5, (2, 3)), (0, (2, 3))])
def test_weights_sum_to_one_over_the_patches(heads, prefix, grid):
    attention = _attention(1, 3, 2, 3, 6 + prefix)
    weights = ot.attention_rollout(attention, heads=heads, grid=grid, discard=0.1)
    matrix = np.asarray(ot.rollout_matrix(attention, heads=heads, discard=0.1))
    row = matrix[:, 0, prefix:] if prefix else matrix.mean(1)
    assert weights.shape == (2, 6)
    np.testing.assert_allclose(weights, row / row.sum(-1, keepdims=True), atol=1e-6)


def test_an_image_does_not_depend_on_its_batch_mates():
    attention = _attention(2, 3, 4, 3, 7)
    together = ot.attention_rollout(attention, heads="min", discard=0.3)
    for i in range(4):
        alone = ot.attention_rollout([x[i : i + 1] for x in attention], heads="min", discard=0.3)
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-7)


def test_the_smallest_share_of_entries_is_discarded():
    n = 10
    attention = _attention(3, 1, 2, 1, n)
    matrix = np.asarray(ot.rollout_matrix(attention, discard=0.25))
    for image, fused in zip(matrix, np.asarray(attention[0])[:, 0], strict=True):
        cut = np.sort(fused, axis=None)[25]
        kept = np.where(fused < cut, 0.0, fused) + np.eye(n)
        np.testing.assert_allclose(image, kept / kept.sum(-1, keepdims=True), atol=1e-6)


def test_bfloat16_attention_is_multiplied_in_float32():
    attention = [x.astype(jnp.bfloat16) for x in _attention(4, 2, 1, 2, 5)]
    assert ot.rollout_matrix(attention).dtype == jnp.float32


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
        ot.attention_rollout(_attention(5, 3, 1, 2, 6), **settings)


def test_blocks_of_different_sizes_are_refused():
    attention = [*_attention(6, 1, 1, 2, 6), *_attention(6, 1, 1, 2, 4)]
    with pytest.raises(ValueError, match="one square size is needed"):
        ot.attention_rollout(attention)
    assert ot.attention_rollout(attention, start=1).shape == (1, 3)
