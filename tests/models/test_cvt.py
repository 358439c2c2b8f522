import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import build
from vitjax.models.cvt import ConvAttention, ConvProjection

SMALL = {
    "img_size": 32,
    "embed_dim": (8, 12, 24),
    "depths": (1, 1, 2),
    "num_heads": (1, 2, 3),
    "num_classes": 5,
}


@functools.cache
def _made(batch=2, seed=0, **changes):
    """A small model with parameters and statistics that are all non-trivial, and images for it."""
    model = build("cvt_13", **SMALL | changes)
    size = (model.img_size,) * 2 if isinstance(model.img_size, int) else model.img_size
    images = jax.random.normal(jax.random.key(seed + 1), (batch, *size, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    chance = np.random.default_rng(seed)

    def fill(path, leaf):
        start = 1.0 if path[-1].key in ("scale", "var") else 0.0
        # Clipped, so that variances stay positive.
        return jnp.asarray(start + np.clip(0.2 * chance.normal(size=leaf.shape), -0.6, 0.6), jnp.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return model, variables, images


def _run(model, variables, images, **static):
    return jax.jit(lambda v, x: model.apply(v, x, **static))(variables, images)


def test_shapes_are_as_documented():
    model, variables, images = _made(img_size=(64, 48))
    out = _run(model, variables, images, return_attention=True)
    assert out.grid == model.grid == (4, 3)
    assert out.tokens.shape == (2, 12, 24) and out.prefix.shape == (2, 1, 24)
    assert out.pooled.shape == (2, 24) and out.logits.shape == (2, 5)
    np.testing.assert_array_equal(out.pooled, out.prefix[:, 0])
    assert [a.shape for a in out.attention] == [
        (2, 1, 192, 48), (2, 2, 48, 12), (2, 3, 13, 5), (2, 3, 13, 5),
    ]  # fmt: skip
    for weights in out.attention:
        np.testing.assert_allclose(weights.sum(axis=-1), np.ones(weights.shape[:3]), rtol=1e-5)


@pytest.mark.parametrize("size", [(33, 50), (3, 3)])
def test_images_of_any_size_are_accepted(size):
    model, variables, _ = _made()
    images = jax.random.normal(jax.random.key(7), (1, *size, 3))
    out = _run(model, variables, images, return_attention=True)
    assert out.grid == build("cvt_13", **SMALL | {"img_size": size}).grid
    assert out.tokens.shape[1] == out.grid[0] * out.grid[1]
    assert np.isfinite(out.tokens).all()


def test_the_published_grids_at_224_and_384():
    assert build("cvt_13").grid == (14, 14)
    assert build("cvt_21", img_size=384).grid == (24, 24)


def test_asking_for_attention_changes_nothing_else():
    model, variables, images = _made()
    plain = _run(model, variables, images)
    asked = _run(model, variables, images, return_attention=True)
    assert plain.attention is None
    np.testing.assert_allclose(asked.tokens, plain.tokens, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(asked.logits, plain.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_depthwise_projection_is_a_grouped_convolution_and_has_its_gradients(stride):
    image = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    model = ConvProjection(stride, bn_eps=0.0)
    variables = jax.jit(model.init)(jax.random.key(1), image)

    def convolution(kernel, image):
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4, precision="highest",
        )  # fmt: skip

    def projection(kernel, image):
        params = variables["params"] | {"conv": {"kernel": kernel}}
        return model.apply(variables | {"params": params}, image)

    arguments = variables["params"]["conv"]["kernel"], image
    found, pull = jax.vjp(projection, *arguments)
    wanted, pull_wanted = jax.vjp(convolution, *arguments)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    slope = jax.random.normal(jax.random.key(2), wanted.shape)
    for gradient, exact in zip(pull(slope), pull_wanted(slope), strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-5)


def test_attention_is_scaled_by_the_whole_width_and_lets_cls_pass_the_convolutions():
    tokens = jax.random.normal(jax.random.key(0), (1, 5, 4))
    model = ConvAttention(num_heads=2)
    variables = model.init(jax.random.key(1), tokens, (2, 2))
    params = jax.tree.map(lambda x: x + 0.3, variables["params"])
    variables = {**variables, "params": params}
    _, weights = model.apply(variables, tokens, (2, 2), return_attention=True)

    def project(name, stride):
        conv = ConvProjection(stride)
        own = {kind: variables[kind][f"conv_proj_{name}"] for kind in ("params", "batch_stats")}
        local = conv.apply(own, tokens[:, 1:].reshape(1, 2, 2, 4)).reshape(1, -1, 4)
        rows = jnp.concatenate([tokens[:, :1], local], axis=1)[0]
        linear = params[f"proj_{name}"]
        return np.asarray(rows @ linear["kernel"] + linear["bias"][None])

    query, key = project("q", 1), project("k", 2)
    assert query.shape == (5, 4) and key.shape == (2, 4)
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        logits = query[:, part] @ key[:, part].T * 4**-0.5
        wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(weights[0, head], wanted, rtol=1e-4, atol=1e-5)


def test_the_two_activations_differ_as_their_formulae_do():
    model, variables, images = _made()
    quick = _run(model, variables, images).tokens
    exact = _run(build("cvt_13", **SMALL, act="gelu"), variables, images).tokens
    gap = np.abs(np.asarray(quick - exact)).max()
    assert 1e-3 < gap < 1.0


@pytest.mark.parametrize("block", [0, 1, -2])
def test_stopping_after_a_block_equals_a_model_that_ends_there(block):
    model, variables, images = _made()
    early = _run(model, variables, images, block=block, return_attention=True)
    ran = block % 4 + 1
    assert len(early.attention) == ran
    assert (early.logits is None) == (ran < 4)
    if ran > 2:
        shorter = build("cvt_13", **SMALL | {"depths": (1, 1, ran - 2)})
        whole = _run(shorter, variables, images)
        np.testing.assert_allclose(early.tokens, whole.tokens, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(early.pooled, whole.pooled, rtol=1e-5, atol=1e-5)
    else:
        stage, side = (0, 8) if ran == 1 else (1, 4)
        assert early.grid == (side, side)
        assert early.tokens.shape == (2, side * side, SMALL["embed_dim"][stage])
        assert early.prefix.shape[1] == 0
        np.testing.assert_allclose(early.pooled, early.tokens.mean(axis=1), rtol=1e-5, atol=1e-5)


def test_without_cls_the_mean_of_the_tokens_is_classified():
    model, variables, images = _made(cls_token=(False, False, False))
    out = _run(model, variables, images)
    head = variables["params"]["head"]
    assert out.prefix.shape == (2, 0, 24) and "cls_token" not in variables["params"]["stage2"]
    np.testing.assert_allclose(out.pooled, out.tokens.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        out.logits, out.pooled @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_training_uses_the_batch_and_updates_every_running_statistic():
    model, variables, images = _made()
    evaluated = _run(model, variables, images)
    trained, changed = _run(model, variables, images, train=True, mutable=["batch_stats"])
    assert np.abs(np.asarray(trained.tokens - evaluated.tokens)).max() > 1e-3
    before, after = (jax.tree_util.tree_leaves_with_path(x["batch_stats"]) for x in (variables, changed))
    for (path, old), (_, new) in zip(before, after, strict=True):
        assert np.abs(np.asarray(new - old)).min() > 0, path
    with pytest.raises(ValueError, match="mutable"):
        model.apply(variables, images, train=True)


@pytest.mark.slow
def test_gradients_reach_every_parameter():
    model, variables, images = _made()

    def loss(params):
        out, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return (out.logits**2).sum() + (out.tokens**2).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        assert np.isfinite(leaf).all(), name
        # What is added to every key alike changes no softmax.
        assert np.abs(leaf).max() > 0 or name.endswith(("proj_k.bias", "conv_proj_k.bn.bias")), name


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch():
    model, variables, images = _made(batch=4)
    together = _run(model, variables, images).tokens
    np.testing.assert_allclose(
        together[2:3], _run(model, variables, images[2:3]).tokens, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    model, variables, images = _made()
    exact = _run(model, variables, images)
    low = _run(build("cvt_13", **SMALL, dtype="bfloat16"), variables, images, return_attention=True)
    assert low.tokens.dtype == low.logits.dtype == low.attention[0].dtype == jnp.float32
    # Four blocks of bf16 products (8 bits of mantissa), each rounding 0.4%, on tokens of unit scale.
    gap = np.abs(np.asarray(low.tokens - exact.tokens))
    assert 0 < gap.mean() < 0.02 and gap.max() < 0.15


def test_two_devices_give_what_one_gives():
    model, variables, images = _made()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    sharded = _run(model, variables, jax.device_put(images, split))
    np.testing.assert_allclose(sharded.tokens, _run(model, variables, images).tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 4}, "4 blocks: give 0 to 3"),
        ({"keep_ratio": (0.7,)}, "no predictor"),
        ({"decisions": jnp.ones((2, 1, 4))}, "no predictor"),
    ],
)
def test_arguments_it_cannot_serve_are_an_error(settings, message):
    model, variables, images = _made()
    with pytest.raises(ValueError, match=message):
        model.apply(variables, images, **settings)


@pytest.mark.parametrize(("shape", "message"), [((2, 3, 32, 32), "colour"), ((2, 2, 32, 3), "too small")])
def test_images_that_do_not_fit_are_an_error(shape, message):
    model, variables, _ = _made()
    with pytest.raises(ValueError, match=message):
        model.apply(variables, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1, 2)}, "patch_size has 3 entries but depths has 2"),
        ({"depths": (1, 0, 2)}, "every stage needs a block"),
        ({"num_heads": (1, 3, 5)}, "embed_dim 384 is not a multiple of num_heads 5"),
        ({"cls_token": (True, False, True)}, "only the last stage"),
        ({"act": "relu"}, "neither 'quick_gelu' nor 'gelu'"),
        ({"img_size": 2}, "img_size 2 is smaller than the first convolution"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build("cvt_13", **fields)
