import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import build
from vitjax.models.resnet import Bottleneck
from vitjax.weights import load_with_report
from vitjax.weights.rename import to_name

SMALL = {"layers": (2, 1, 1, 1), "channels": (4, 4, 6, 8), "num_classes": 5, "img_size": 64}


@functools.cache
def _made(**changes):
    model = build("resnet50", **SMALL | changes)
    images = jax.random.normal(jax.random.key(1), (2, 64, 96, 3))
    chance = np.random.default_rng(0)

    def value(path, leaf):
        noise = chance.normal(size=leaf.shape).astype("f")
        kind = path[-1].key
        if kind == "kernel":
            return noise * np.float32((leaf.size / leaf.shape[-1]) ** -0.5)
        return 1 + 0.2 * np.abs(noise) if kind in ("var", "scale") else 0.2 * noise

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return model, jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(value, shapes)), images


def _run(model, variables, images, **static):
    return jax.jit(lambda v, x: model.apply(v, x, **static))(variables, images)


def test_the_published_model_gives_a_map_of_49_tokens():
    model = build("resnet50")
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    seen = []

    def parts(v, x):
        out = model.apply(v, x)
        seen.append(out.grid)
        return out.tokens, out.pooled, out.prefix, out.logits

    shapes = [part.shape for part in jax.eval_shape(parts, variables, image)]
    assert shapes == [(2, 49, 2048), (2, 2048), (2, 0, 2048), (2, 1000)]
    assert seen == [model.grid] == [(7, 7)]


def test_pooled_is_the_mean_of_tokens_and_logits_come_from_it():
    model, variables, images = _made()
    out = _run(model, variables, images)
    assert out.grid == (2, 3)
    np.testing.assert_allclose(out.pooled, out.tokens.mean(axis=1), rtol=1e-6)
    fc = variables["params"]["fc"]
    np.testing.assert_allclose(out.logits, out.pooled @ fc["kernel"] + fc["bias"][None], rtol=1e-5, atol=1e-5)


def test_any_image_size_is_rounded_up_to_whole_positions():
    model, variables, _ = _made()
    out = _run(model, variables, jnp.ones((1, 65, 33, 3)))
    assert out.grid == (3, 2) == build("resnet50", img_size=(65, 33)).grid


@pytest.mark.slow
def test_stopping_after_a_block_gives_the_map_of_its_stage():
    model, variables, images = _made()
    grids = [_run(model, variables, images, block=i).grid for i in range(5)]
    assert grids == [(16, 24), (16, 24), (8, 12), (4, 6), (2, 3)]
    early = _run(model, variables, images, block=-2)
    assert early.tokens.shape == (2, 24, 24) and early.logits is None
    np.testing.assert_array_equal(
        _run(model, variables, images, block=4).tokens, _run(model, variables, images).tokens
    )
    with pytest.raises(ValueError, match="5 blocks: give 0 to 4"):
        model.apply(variables, images, block=5)


def test_a_block_starts_as_the_identity_where_shapes_allow():
    x = jnp.abs(jax.random.normal(jax.random.key(1), (1, 8, 8, 16)))
    out, variables = Bottleneck(4).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, x)
    assert "downsample_0" not in variables["params"]


def test_asking_for_attention_says_what_to_choose_instead():
    model, variables, images = _made()
    with pytest.raises(ValueError, match="cross_correlation"):
        model.apply(variables, images, return_attention=True)


def test_training_updates_the_statistics_of_every_norm():
    model, variables, images = _made()
    out, updated = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    assert np.isfinite(out.logits).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"], updated["batch_stats"])
    assert all(jax.tree.leaves(moved))
    with pytest.raises(ValueError, match="mutable"):
        model.apply(variables, images, train=True)


def test_two_devices_train_on_the_statistics_of_the_whole_batch():
    model, variables, images = _made()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[1])
    one, two = step(variables, images), step(variables, jax.device_put(images, split))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_in_torch_names_gives_the_same_variables():
    model, variables, _ = _made()
    state = {"layer1.0.bn1.num_batches_tracked": np.int64(7)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        keys, value = [k.key for k in path[1:]], np.asarray(leaf)
        if keys[-1] == "kernel":
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        state[to_name(tuple(keys))] = value
    assert {"layer1.0.downsample.1.running_var", "bn1.running_mean", "fc.weight"} <= set(state)
    loaded, report = load_with_report(state, model)
    assert report.fits and list(report.ignored) == ["layer1.0.bn1.num_batches_tracked"]
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    _, wrapped = load_with_report(
        {f"module.{k}": v for k, v in state.items()}, build("resnet50", **SMALL | {"num_classes": 0})
    )
    assert wrapped.fits and "module.fc.weight" in wrapped.ignored


def test_bfloat16_is_close_to_float32():
    model, variables, images = _made()
    exact, low = (
        _run(model, variables, images),
        _run(build("resnet50", **SMALL, dtype="bfloat16"), variables, images),
    )
    a, b = np.asarray(exact.pooled), np.asarray(low.pooled)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert low.tokens.dtype == jnp.float32 and (a != b).any() and (cosine > 0.999).all()


@pytest.mark.parametrize("fields", [{"layers": (1, 0, 1, 1)}, {"layers": (1, 1)}, {"img_size": 0}])
def test_fields_that_do_not_go_together_are_an_error(fields):
    with pytest.raises(ValueError, match="model 'resnet50'"):
        build("resnet50", **fields)
