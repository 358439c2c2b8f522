import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.family import made, run, torch_state
from vitjax.models import build
from vitjax.models.resnet import Bottleneck
from vitjax.weights import load_with_report


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


def test_logits_come_from_the_mean_of_the_tokens():
    model, variables, images = made("resnet")
    out = run(model, variables, images)
    fc = variables["params"]["fc"]
    np.testing.assert_allclose(
        out.logits, out.tokens.mean(axis=1) @ fc["kernel"] + fc["bias"][None], rtol=1e-5, atol=1e-5
    )


def test_a_block_starts_as_the_identity_where_shapes_allow():
    x = jnp.abs(jax.random.normal(jax.random.key(1), (1, 8, 8, 16)))
    out, variables = Bottleneck(4).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, x)
    assert "downsample_0" not in variables["params"]


def test_asking_for_attention_says_what_to_choose_instead():
    model, variables, images = made("resnet")
    with pytest.raises(ValueError, match="cross_correlation"):
        jax.eval_shape(lambda x: model.apply(variables, x, return_attention=True).tokens, images)


def test_two_devices_train_on_the_statistics_of_the_whole_batch():
    model, variables, images = made("resnet")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[1])
    one, two = step(variables, images), step(variables, jax.device_put(images, split))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_file_may_have_counters_a_wrappers_prefix_and_a_classifier_too_many():
    model, variables, _ = made("resnet")
    state = torch_state(variables) | {"layer1.0.bn1.num_batches_tracked": np.int64(7)}
    assert {"layer1.0.downsample.1.running_var", "bn1.running_mean", "fc.weight"} <= set(state)
    loaded, report = load_with_report(state, model)
    assert report.fits and list(report.ignored) == ["layer1.0.bn1.num_batches_tracked"]
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    _, wrapped = load_with_report({f"module.{k}": v for k, v in state.items()}, model.clone(num_classes=0))
    assert wrapped.fits and "module.fc.weight" in wrapped.ignored


@pytest.mark.parametrize("fields", [{"layers": (1, 0, 1, 1)}, {"layers": (1, 1)}, {"img_size": 0}])
def test_fields_that_do_not_go_together_are_an_error(fields):
    with pytest.raises(ValueError, match="model 'resnet50'"):
        build("resnet50", **fields)
