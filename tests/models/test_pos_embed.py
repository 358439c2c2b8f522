import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models.pos_embed import resize_positions


@pytest.mark.parametrize(("source", "target"), [((4, 4), (7, 9)), ((7, 9), (2, 3)), ((5, 3), (3, 8))])
def test_antialiased_resize_equals_jax_image(rng, source, target):
    table = jax.random.normal(rng, (source[0] * source[1], 6))
    ours = resize_positions(table, source, target)
    reference = jax.image.resize(table.reshape(*source, 6), (*target, 6), "cubic", antialias=True)
    np.testing.assert_allclose(ours, reference.reshape(-1, 6), rtol=1e-5, atol=1e-5)


def test_plain_bicubic_has_the_value_worked_out_by_hand():
    # First of 4 samples lies at -0.25: taps clamp to rows 0 0 0 1, and Keys' kernel with a = -0.75 gives the
    # last one, at distance 1.25, the weight -0.75 * (1.25^3 - 5 * 1.25^2 + 8 * 1.25 - 4) = -0.10546875.
    table = jnp.asarray([[0.0], [1.0]])
    column = resize_positions(table, (2, 1), (4, 1), antialias=False)
    np.testing.assert_allclose(column[:, 0], [-0.10546875, 0.26171875, 0.73828125, 1.10546875], atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_offset_moves_the_sampling_step(offset):
    # A ramp is reproduced where all four taps are inside, so that values are the sampling positions.
    ramp = jnp.arange(10.0)[:, None]
    resized = resize_positions(ramp, (10, 1), (14, 1), antialias=False, offset=offset)[:, 0]
    wanted = (np.arange(14) + 0.5) * 10 / (14 + offset) - 0.5
    inside = (wanted >= 1) & (wanted <= 8)
    assert inside.sum() > 6
    np.testing.assert_allclose(resized[inside], wanted[inside], atol=1e-5)


def test_same_grid_gives_the_table_itself(rng):
    table = jax.random.normal(rng, (6, 4))
    assert resize_positions(table, (2, 3), (2, 3), antialias=False, offset=0.1) is table


@pytest.mark.parametrize("antialias", [True, False])
def test_a_constant_table_stays_constant(antialias):
    resized = resize_positions(jnp.ones((12, 2)), (3, 4), (5, 2), antialias=antialias)
    np.testing.assert_allclose(resized, np.ones((10, 2)), atol=1e-6)
