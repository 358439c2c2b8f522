import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import build

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


@functools.cache
def _made(name="deit_small_patch16_224", batch=2, seed=0, **changes):
    """A small model with parameters that are all non-trivial, and images for it."""
    model = build(name, **SMALL | changes)
    size = (model.img_size,) * 2 if isinstance(model.img_size, int) else model.img_size
    images = jax.random.normal(jax.random.key(seed + 1), (batch, *size, 3))
    variables = jax.jit(model.init)(jax.random.key(seed), images)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed + 2), len(leaves))
    noisy = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, noisy), images


def _run(model, variables, images, **static):
    return jax.jit(lambda v, x: model.apply(v, x, **static))(variables, images)


def test_shapes_are_as_documented():
    model, variables, images = _made("vit_small_patch14_reg4_dinov2", img_size=(24, 40), num_classes=0)
    out = _run(model, variables, images, return_attention=True)
    assert out.grid == (3, 5)
    assert out.tokens.shape == (2, 15, 24)
    assert out.prefix.shape == (2, 5, 24)
    assert out.pooled.shape == (2, 24)
    assert [a.shape for a in out.attention] == [(2, 3, 20, 20)] * 3
    assert out.logits is None and out.heads == {} and out.decisions is None
    np.testing.assert_array_equal(out.pooled, out.prefix[:, 0])


@pytest.mark.slow
def test_asking_for_attention_changes_nothing_else():
    model, variables, images = _made()
    plain = _run(model, variables, images)
    asked = _run(model, variables, images, return_attention=True)
    assert plain.attention is None
    np.testing.assert_allclose(asked.tokens, plain.tokens, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(asked.logits, plain.logits, rtol=1e-4, atol=1e-4)
    for weights in asked.attention:
        np.testing.assert_allclose(weights.sum(axis=-1), np.ones(weights.shape[:3]), rtol=1e-5)


@pytest.mark.parametrize("block", [0, 1, -2, -1])
def test_stopping_after_a_block_equals_a_model_that_ends_there(block):
    model, variables, images = _made()
    early = _run(model, variables, images, block=block, return_attention=True)
    shorter = build("deit_small_patch16_224", **SMALL | {"depth": block % 3 + 1})
    params = {k: v for k, v in variables["params"].items() if not k.startswith("blocks_")}
    params |= {f"blocks_{i}": variables["params"][f"blocks_{i}"] for i in range(shorter.depth)}
    whole = _run(shorter, {"params": params}, images)
    np.testing.assert_allclose(early.tokens, whole.tokens, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(early.pooled, whole.pooled, rtol=1e-5, atol=1e-5)
    assert len(early.attention) == shorter.depth
    assert (early.logits is None) == (shorter.depth < model.depth)


def test_facets_are_what_a_block_makes_of_its_tokens_and_change_nothing_else():
    model, variables, images = _made("vit_small_patch14_reg4_dinov2", img_size=32, patch_size=8)
    plain = _run(model, variables, images, block=1, return_attention=True)
    found = {f: _run(model, variables, images, block=1, facet=f) for f in ("query", "key", "value")}
    for out in found.values():
        np.testing.assert_allclose(out.pooled, plain.pooled, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.prefix, plain.prefix, rtol=1e-5, atol=1e-5)
    # Queries and keys of patches give the attention between them, up to what the prefix took.
    query, key = (found[f].tokens.reshape(2, 16, 3, 8) for f in ("query", "key"))
    want = jax.nn.softmax(jnp.einsum("bnhw,bmhw->bhnm", query, key) / np.sqrt(8), axis=-1)
    seen = plain.attention[1][:, :, 5:, 5:]
    np.testing.assert_allclose(want, seen / seen.sum(-1, keepdims=True), rtol=1e-4, atol=1e-5)
    before, block = _before_block_1(model, variables, images), variables["params"]["blocks_1"]
    scale, bias, kernel, shift = (
        np.asarray(block[part][layer] if part == "norm1" else block["attn"]["qkv"][layer])
        for part, layer in (("norm1", "scale"), ("norm1", "bias"), ("qkv", "kernel"), ("qkv", "bias"))
    )
    spread = np.sqrt(before.var(axis=-1, keepdims=True) + 1e-6)
    normal = (before - before.mean(axis=-1, keepdims=True)) / spread * scale + bias
    value = (normal @ kernel + shift)[:, 5:, 48:]
    np.testing.assert_allclose(found["value"].tokens, value, rtol=1e-4, atol=1e-4)


def _before_block_1(model, variables, images):
    """Tokens that block 1 gets: those after block 0, without the final norm."""
    norm = {"fc_norm": variables["params"]["norm"]}
    bare = model.clone(fc_norm=True, global_pool="avg")
    out = _run(bare, {"params": variables["params"] | norm}, images, block=0)
    return np.concatenate([out.prefix, out.tokens], axis=1)


@pytest.mark.parametrize(
    ("fields", "facet", "words"),
    [
        ({}, "keys", "one of"),
        ({"reduce": "topk"}, "key", "all its"),
        ({"scan_layers": True}, "key", "all its"),
    ],
)
def test_facets_that_cannot_be_had_are_refused(fields, facet, words):
    model = build("deit_small_patch16_224", **SMALL | fields)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x, facet=facet), jnp.zeros((1, 32, 32, 3))
        )


def test_later_blocks_are_not_computed():
    model, variables, images = _made()

    def products(block):
        lowered = jax.jit(lambda v, x: model.apply(v, x, block=block).tokens).lower(variables, images)
        return lowered.as_text().count("stablehlo.dot_general")

    per_block = 6  # qkv, two of attention, proj, fc1, fc2
    assert products(1) - products(0) == products(2) - products(1) == per_block
    assert products(-1) == products(2) == products(None)
    assert products(-3) == products(0)


@pytest.mark.parametrize("block", [3, -4])
def test_a_block_that_is_not_there_is_an_error(block):
    model, variables, images = _made()
    with pytest.raises(ValueError, match=r"3 blocks: give 0 to 2"):
        model.apply(variables, images, block=block)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 30, 32, 3), "multiples of patch_size 8"), ((2, 3, 32, 32), "colour comes last")],
)
def test_images_that_do_not_fit_are_an_error(shape, message):
    model, variables, _ = _made()
    with pytest.raises(ValueError, match=message):
        model.apply(variables, jnp.zeros(shape))


@pytest.mark.parametrize("argument", [{"keep_ratio": (0.7,)}, {"decisions": jnp.ones((2, 1, 16))}])
def test_pruning_arguments_are_refused(argument):
    model, variables, images = _made()
    with pytest.raises(ValueError, match="no predictor"):
        model.apply(variables, images, **argument)


@pytest.mark.slow
def test_distilled_model_averages_its_two_tokens_and_classifiers():
    model, variables, images = _made("deit_small_distilled_patch16_224")
    out = _run(model, variables, images)
    assert set(out.heads) == {"cls", "dist"}
    np.testing.assert_allclose(out.logits, (out.heads["cls"] + out.heads["dist"]) / 2, rtol=1e-6)
    np.testing.assert_allclose(out.pooled, out.prefix.mean(axis=1), rtol=1e-6)
    for token, (head, name) in enumerate([("cls", "head"), ("dist", "head_dist")]):
        weights = variables["params"][name]
        wanted = out.prefix[:, token] @ weights["kernel"] + weights["bias"][None]
        np.testing.assert_allclose(out.heads[head], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_average_pooling_normalises_after_pooling(class_token):
    model, variables, images = _made(global_pool="avg", class_token=class_token)
    assert "fc_norm" in variables["params"] and "norm" not in variables["params"]
    out = _run(model, variables, images)
    mean = np.asarray(out.tokens.mean(axis=1))
    centred = mean - mean.mean(axis=-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    weights = variables["params"]["fc_norm"]
    wanted = unit * np.asarray(weights["scale"]) + np.asarray(weights["bias"])
    np.testing.assert_allclose(out.pooled, wanted, rtol=1e-4, atol=1e-4)
    assert out.prefix.shape[1] == int(class_token)


def test_bfloat16_is_close_to_float32():
    model, variables, images = _made()
    exact = _run(model, variables, images)
    low = _run(build("deit_small_patch16_224", **SMALL, dtype="bfloat16"), variables, images)
    assert low.tokens.dtype == low.logits.dtype == jnp.float32
    # A whole network of bf16 products (8 bits of mantissa), each rounding 0.4%, on tokens of unit scale.
    gap = np.abs(np.asarray(low.tokens - exact.tokens))
    assert 0 < gap.mean() < 0.02 and gap.max() < 0.15


def test_another_image_size_resizes_positions_like_loading_does():
    model, variables, _ = _made()
    images = jax.random.normal(jax.random.key(7), (2, 24, 48, 3))
    called = _run(model, variables, images)
    params = dict(variables["params"])
    other = build("deit_small_patch16_224", **SMALL | {"img_size": (24, 48)})
    table = params["pos_embed"]
    patches = other.resize_positions(table[0, 1:], model.grid, antialias=True, offset=0.0)
    params["pos_embed"] = jnp.concatenate([table[:, :1], patches[None]], axis=1)
    np.testing.assert_allclose(
        called.tokens, _run(other, {"params": params}, images).tokens, rtol=1e-5, atol=1e-5
    )
    assert called.grid == (3, 6)


def test_an_image_does_not_depend_on_its_batch():
    model, variables, images = _made(batch=4)
    together = _run(model, variables, images).tokens
    alone = _run(model, variables, images[2:3]).tokens
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter():
    model, variables, images = _made("deit3_small_patch16_224")
    grads = jax.jit(jax.grad(lambda v: (model.apply(v, images).logits ** 2).sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_two_devices_give_what_one_gives_with_one_trace():
    model, variables, images = _made()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    traces = []

    @jax.jit
    def forward(v, x):
        traces.append(x.shape)
        return model.apply(v, x)

    single = _run(model, variables, images)
    for _ in range(2):
        sharded = forward(variables, jax.device_put(images, split))
    assert len(traces) == 1
    assert sharded.grid == (4, 4)
    np.testing.assert_allclose(sharded.tokens, single.tokens, rtol=1e-4, atol=1e-5)
