import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from tests.models.family import filled, run
from vitjax.layers.rope import Rope, axial_rope, counted_rope, rotate
from vitjax.models import build
from vitjax.weights.scan_params import stack_blocks

SMALL = {"img_size": (48, 80), "embed_dim": 24, "depth": 3, "num_heads": 2}


def test_rotated_products_depend_on_the_shift_alone():
    """On one row: query at column i, key at column j, the product is a function of j - i."""
    rng = np.random.default_rng(0)
    query, key = (jnp.tile(rng.normal(size=(1, 1, 1, 8)).astype("f"), (1, 6, 1, 1)) for _ in range(2))
    sines, cosines = axial_rope((1, 6), 8)
    rope = jnp.stack([sines, cosines], axis=1)[None]
    products = np.einsum("bnhw,bmhw->nm", rotate(query, rope), rotate(key, rope))
    for shift in range(-5, 6):
        assert np.ptp(np.diagonal(products, shift)) < 1e-5
    assert np.ptp(products) > 0.1


def test_counted_positions_turn_pairs_like_complex_numbers_column_before_row():
    vectors = np.random.default_rng(0).normal(size=(1, 6, 2, 8)).astype("f")
    sines, cosines = counted_rope((2, 3), 8, base=100.0, first=1)
    turned = rotate(jnp.asarray(vectors), jnp.stack([sines, cosines], axis=1)[None], pairs=True)
    pairs = vectors.reshape(1, 6, 2, 4, 2)
    numbers = pairs[..., 0] + 1j * pairs[..., 1]
    rows, columns = np.divmod(np.arange(6), 3)
    angles = np.stack([columns + 1, (columns + 1) / 10, rows + 1, (rows + 1) / 10], axis=1)
    wanted = numbers * np.exp(1j * angles)[None, :, None]
    np.testing.assert_allclose(turned[..., 0::2], wanted.real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(turned[..., 1::2], wanted.imag, rtol=1e-5, atol=1e-6)


def test_counted_positions_stay_the_same_at_other_sizes():
    small, large = (counted_rope(grid, 8)[0].reshape(*grid, 8) for grid in ((2, 3), (4, 5)))
    np.testing.assert_array_equal(small, large[:2, :3])


def test_coordinates_are_scaled_by_each_side_on_its_own():
    tall, _ = axial_rope((4, 2), 4)
    wide, _ = axial_rope((2, 4), 4)
    np.testing.assert_allclose(tall.reshape(4, 2, 4)[:, :, 0], wide.reshape(2, 4, 4)[:, :, 1].T, atol=1e-6)


def test_tokens_without_a_position_are_not_rotated_and_half_precision_is_exact_in_between():
    rope = Rope((2, 3), 4, 2, 100.0)
    rows = rope.at(jnp.array([[5, 6]]))  # the last patch, and none
    vectors = np.random.default_rng(0).normal(size=(1, 4, 1, 4)).astype("f")
    turned = compiled(rotate)(vectors, rows)
    np.testing.assert_array_equal(turned[:, [0, 1, 3]], vectors[:, [0, 1, 3]])
    assert np.abs(turned[:, 2] - vectors[:, 2]).max() > 0.1
    short = vectors.astype(jnp.bfloat16)
    exact = compiled(rotate)(short.astype("f"), rows)
    np.testing.assert_array_equal(compiled(rotate)(short, rows), exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vit_small_patch16_dinov3_qkvb", {"mlp": "gelu"}),
        ("vit_small_patch16_dinov3_qkvb", {"mlp": "swiglu"}),
        ("vit_pe_core_base_patch16_224", {"pool_heads": 3}),
    ],
)
def test_pruned_tokens_keep_the_rotations_of_their_own_places(name, fields):
    model = build(name, **SMALL, **fields, mlp_hidden=40, reduce="dynamicvit", pruning_loc=(1, 2))
    images = np.random.default_rng(1).normal(size=(3, 48, 80, 3)).astype("f")
    variables = filled(model, images)
    gathered = run(model, variables, images)
    masked = run(model, variables, images, decisions=gathered.decisions)
    assert gathered.tokens.shape[1] == int(15 * 0.49)
    kept = gathered.keep_index[-1][..., None]
    np.testing.assert_allclose(
        gathered.tokens, np.take_along_axis(masked.tokens, kept, 1), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(gathered.prefix, masked.prefix, rtol=1e-5, atol=1e-5)


def test_scanned_blocks_rotate_too():
    model = build("vit_small_patch16_dinov3", **SMALL)
    images = np.random.default_rng(1).normal(size=(2, 48, 80, 3)).astype("f")
    variables = filled(model, images)
    scanned = model.clone(scan_layers=True)
    stacked = stack_blocks(jax.device_get(variables))
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, images).tokens,
        jax.jit(scanned.apply)(stacked, images).tokens,
        rtol=1e-5,
        atol=1e-5,
    )
