import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.pos_embed import resize_positions


@pytest.mark.parametrize(("source", "target"), [((4, 4), (7, 9)), ((7, 9), (2, 3)), ((5, 3), (3, 8))])
def test_antialiased_resize_equals_jax_image(rng, source, target):
    table = jax.random.normal(rng, (source[0] * source[1], 6))
    ours = resize_positions(table, source, target)
    reference = jax.image.resize(table.reshape(*source, 6), (*target, 6), "cubic", antialias=True)
    np.testing.assert_allclose(ours, reference.reshape(-1, 6), rtol=1e-5, atol=1e-5)


def test_plain_bicubic_has_the_value_worked_out_by_hand():
    # The first of 4 samples lies at -0.25: taps clamp to rows 0 0 0 1, and Keys' kernel with a = -0.75 gives
    # the last, at distance 1.25, the weight -0.75 * (1.25^3 - 5 * 1.25^2 + 8 * 1.25 - 4) = -0.10546875. The
    # second, at 0.25, has rows 0 0 1 1, the last two at distances 0.75 and 1.75: 0.26171875 - 0.03515625.
    table = jnp.asarray([[0.0], [1.0]])
    column = resize_positions(table, (2, 1), (4, 1), antialias=False)
    np.testing.assert_allclose(column[:, 0], [-0.10546875, 0.2265625, 0.7734375, 1.10546875], atol=1e-6)


def test_offset_moves_the_sampling_step(rng):
    # 7 samples with offset 7 are taken at the step of 14 samples: they are the first half of those.
    table = jax.random.normal(rng, (10, 3))
    ours = resize_positions(table, (10, 1), (7, 1), antialias=False, offset=7.0)
    half = resize_positions(table, (10, 1), (14, 1), antialias=False)[:7]
    np.testing.assert_allclose(ours, half, rtol=1e-5, atol=1e-6)
    slight = resize_positions(table, (10, 1), (7, 1), antialias=False, offset=0.1)
    assert np.abs(slight - resize_positions(table, (10, 1), (7, 1), antialias=False)).max() > 1e-3


def test_same_grid_gives_the_table_itself(rng):
    table = jax.random.normal(rng, (6, 4))
    assert resize_positions(table, (2, 3), (2, 3), antialias=False, offset=0.1) is table


@pytest.mark.parametrize("antialias", [True, False])
def test_a_constant_table_stays_constant(antialias):
    resized = resize_positions(jnp.ones((12, 2)), (3, 4), (5, 2), antialias=antialias)
    np.testing.assert_allclose(resized, np.ones((10, 2)), atol=1e-6)
