import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import build
from vitjax.weights.load import match

SMALL = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5,
    "stem_dim": 8,
}  # fmt: skip


@functools.cache
def _made(batch=2, seed=0, **changes):
    """A small model with variables that are all non-trivial, and images for it."""
    model = build("lvvit_s", **SMALL | changes)
    height, width = (model.img_size,) * 2 if isinstance(model.img_size, int) else model.img_size
    images = jax.random.normal(jax.random.key(seed + 1), (batch, height, width, 3))
    chance = np.random.default_rng(seed)

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


def test_shapes_are_as_documented():
    model, variables, images = _made(img_size=(24, 40))
    out = _run(model, variables, images, return_attention=True)
    assert out.grid == model.grid == (3, 5)
    assert out.tokens.shape == (2, 15, 24) and out.prefix.shape == (2, 1, 24)
    assert [a.shape for a in out.attention] == [(2, 3, 16, 16)] * 3
    assert out.heads["cls"].shape == (2, 5) and out.heads["aux"].shape == (2, 15, 5)
    np.testing.assert_array_equal(out.pooled, out.prefix[:, 0])


def test_logits_take_half_of_the_best_patch_of_each_class():
    out = _run(*_made())
    wanted = np.asarray(out.heads["cls"]) + np.asarray(out.heads["aux"]).max(axis=1) / 2
    np.testing.assert_allclose(out.logits, wanted, rtol=1e-6)


def test_without_classes_there_are_no_classifiers():
    model, variables, images = _made(num_classes=0)
    assert not {"head", "aux_head"} & set(variables["params"])
    out = _run(model, variables, images)
    assert out.logits is None and out.heads == {}


def test_a_large_divisor_leaves_the_embedded_tokens():
    _, variables, images = _made()
    nothing = build("lvvit_s", **SMALL | {"skip_lam": 1e9})
    same_norm = _run(nothing, variables, images, block=0)
    np.testing.assert_allclose(
        same_norm.tokens, _run(nothing, variables, images).tokens, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(same_norm.tokens, _run(*_made()).tokens, rtol=1e-2, atol=1e-2)


def test_dividing_equals_scaling_the_branches_last_weights():
    model, variables, images = _made()
    plain = build("lvvit_s", **SMALL | {"skip_lam": 1.0})
    halved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf / 2 if {"proj", "fc2"} & {k.key for k in path} and "blocks" in path[1].key else leaf
        ),
        variables,
    )
    np.testing.assert_allclose(
        _run(plain, halved, images).tokens, _run(model, variables, images).tokens, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("block", [0, -2, 2])
def test_stopping_after_a_block_equals_a_model_that_ends_there(block):
    model, variables, images = _made()
    early = _run(model, variables, images, block=block)
    shorter = build("lvvit_s", **SMALL | {"depth": block % 3 + 1})
    drop = {f"blocks_{i}" for i in range(shorter.depth, 3)}
    params = {k: v for k, v in variables["params"].items() if k not in drop}
    whole = _run(shorter, variables | {"params": params}, images)
    np.testing.assert_allclose(early.tokens, whole.tokens, rtol=1e-5, atol=1e-5)
    assert (early.logits is None) == (shorter.depth < model.depth)


def test_training_uses_and_returns_statistics_of_the_batch():
    model, variables, images = _made()
    out, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert np.abs(np.asarray(out.tokens - _run(model, variables, images).tokens)).max() > 1e-2
    before, after = (v["batch_stats"]["patch_embed"]["bn1"] for v in (variables, updated))
    kernel = variables["params"]["patch_embed"]["conv1"]["kernel"]
    first = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(3, 3), (3, 3)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    wanted = 0.9 * before["mean"] + 0.1 * first.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(after["mean"], wanted, rtol=1e-5, atol=1e-6)
    wanted = 0.9 * before["var"] + 0.1 * np.asarray(first).var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(after["var"], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="mutable"):
        model.apply(variables, images, train=True)


def test_positions_are_resized_without_antialiasing_both_ways():
    _, variables, _ = _made()
    images = jax.random.normal(jax.random.key(7), (2, 16, 24, 3))
    state = {"pos_embed": np.asarray(variables["params"]["pos_embed"])}
    state |= {
        "patch_embed.conv1.weight": np.zeros((8, 3, 7, 7)),
        "patch_embed.proj.weight": np.zeros((24, 8, 4, 4)),
    }
    other = build("lvvit_s", **SMALL | {"img_size": (16, 24)})
    placed, report = match(state, other)
    assert report.notes == ("position table resized from 4x4 to 2x3, bicubic by size, not antialiased",)
    loaded = placed[("pos_embed",)]
    called = _run(build("lvvit_s", **SMALL), variables, images)
    params = variables["params"] | {"pos_embed": loaded}
    np.testing.assert_allclose(
        called.tokens, _run(other, variables | {"params": params}, images).tokens, rtol=1e-5, atol=1e-5
    )


def test_gradients_reach_every_parameter():
    model, variables, images = _made()

    def loss(params):
        out = model.apply({"params": params, "batch_stats": variables["batch_stats"]}, images)
        return (out.logits**2).sum() + (out.heads["aux"] ** 2).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"])):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_bfloat16_is_close_to_float32():
    model, variables, images = _made()
    exact = _run(model, variables, images)
    low = _run(build("lvvit_s", **SMALL, dtype="bfloat16"), variables, images)
    assert low.tokens.dtype == low.logits.dtype == jnp.float32
    # A whole network of bf16 products (8 bits of mantissa), each rounding 0.4%, on tokens of unit scale.
    gap = np.abs(np.asarray(low.tokens - exact.tokens))
    assert 0 < gap.mean() < 0.02 and gap.max() < 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img_size": 225}, "not a multiple of patch_size"),
        ({"patch_size": 7, "img_size": 224}, "patch_size 7 is not even"),
        ({"num_heads": 5}, "not a multiple of num_heads"),
        ({"skip_lam": 0}, "skip_lam is 0"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build("lvvit_s", **fields)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 30, 32, 3), {}, "for example to 24x32"),
        ((2, 3, 32, 32), {}, "colour comes last"),
        ((2, 32, 32, 3), {"block": 3}, "3 blocks: give 0 to 2"),
        ((2, 32, 32, 3), {"keep_ratio": (0.7,)}, "no predictor"),
    ],
)
def test_what_the_model_cannot_serve_is_an_error(shape, arguments, message):
    model, variables, _ = _made()
    with pytest.raises(ValueError, match=message):
        model.apply(variables, jnp.zeros(shape), **arguments)
