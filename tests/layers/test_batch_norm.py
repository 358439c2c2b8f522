import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.layers.batch_norm import BatchNorm


def _run(x, train=True, **fields):
    model = BatchNorm(**fields)
    variables = model.init(jax.random.key(0), x)
    return model.apply(variables, x, train=train, mutable=["batch_stats"])


def test_training_normalises_by_the_batch_and_remembers_it_by_torchs_rule():
    # Channel 0 holds 1 2 3 6: mean 3, biased variance 3.5, unbiased 14 / 3. Running ones start at 0 and 1.
    x = jnp.asarray([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [6.0, 4.0]])
    out, changed = _run(x, momentum=0.1, eps=0.0)
    np.testing.assert_allclose(out[:, 0], (np.asarray([1, 2, 3, 6]) - 3) / np.sqrt(3.5), rtol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], [0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["var"], [0.9 + 0.1 * 14 / 3, 0.9 + 0.1 * 4], rtol=1e-6)


def test_evaluation_normalises_by_the_running_statistics_and_leaves_them():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    stats = {"mean": jnp.arange(4.0), "var": jnp.asarray([1.0, 4.0, 0.25, 9.0])}
    params = {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, -1.0)}
    out, changed = BatchNorm(eps=0.0).apply(
        {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
    )
    wanted = 2 * (np.asarray(x) - np.arange(4)) / np.asarray([1, 2, 0.5, 3]) - 1
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(changed["batch_stats"]["mean"], stats["mean"])
    np.testing.assert_array_equal(changed["batch_stats"]["var"], stats["var"])


def test_training_without_keeping_the_statistics_is_an_error():
    x = jnp.ones((4, 2))
    variables = BatchNorm().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"mutable=\['batch_stats'\]"):
        BatchNorm().apply(variables, x, train=True)


def test_one_value_per_channel_is_an_error_in_training():
    with pytest.raises(ValueError, match="more than one value per channel"):
        _run(jnp.ones((1, 2)))


def test_bfloat16_is_normalised_in_float32():
    x = jax.random.normal(jax.random.key(1), (64, 3)).astype(jnp.bfloat16) + 8
    out, _ = _run(x)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out.mean(axis=0), np.zeros(3), atol=1e-5)


def test_two_devices_share_the_statistics_of_the_whole_batch():
    x = jax.random.normal(jax.random.key(2), (8, 3)) * jnp.arange(1.0, 9.0)[:, None]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    out, changed = _run(x)
    halves, both = jax.jit(_run)(jax.device_put(x, split))
    np.testing.assert_allclose(halves, out, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both["batch_stats"]["var"], changed["batch_stats"]["var"], rtol=1e-5)
