import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.family import FAMILIES, made, run
from vitjax.models import build


def test_facets_are_what_a_block_makes_of_its_tokens_and_change_nothing_else():
    model, variables, images = made("dinov2")
    plain = run(model, variables, images, block=1, return_attention=True)
    found = {f: run(model, variables, images, block=1, facet=f) for f in ("query", "key", "value")}
    for out in found.values():
        np.testing.assert_allclose(out.pooled, plain.pooled, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.prefix, plain.prefix, rtol=1e-5, atol=1e-5)
    # Queries and keys of patches give the attention between them, up to what the prefix took.
    query, key = (found[f].tokens.reshape(4, 15, 3, 8) for f in ("query", "key"))
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
    out = run(bare, {"params": variables["params"] | norm}, images, block=0)
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
    model = build(FAMILIES["vit"].name, **FAMILIES["vit"].fields | fields)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x, facet=facet), jnp.zeros((1, 32, 32, 3))
        )


def test_distilled_model_averages_its_two_tokens_and_classifiers():
    model, variables, images = made("distilled")
    out = run(model, variables, images)
    assert set(out.heads) == {"cls", "dist"}
    np.testing.assert_allclose(out.logits, (out.heads["cls"] + out.heads["dist"]) / 2, rtol=1e-6)
    np.testing.assert_allclose(out.pooled, out.prefix.mean(axis=1), rtol=1e-6)
    for token, (head, name) in enumerate([("cls", "head"), ("dist", "head_dist")]):
        weights = variables["params"][name]
        wanted = out.prefix[:, token] @ weights["kernel"] + weights["bias"][None]
        np.testing.assert_allclose(out.heads[head], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_average_pooling_normalises_after_pooling(class_token):
    model, variables, images = made("vit", global_pool="avg", class_token=class_token)
    assert "fc_norm" in variables["params"] and "norm" not in variables["params"]
    out = run(model, variables, images)
    mean = np.asarray(out.tokens.mean(axis=1))
    centred = mean - mean.mean(axis=-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    weights = variables["params"]["fc_norm"]
    wanted = unit * np.asarray(weights["scale"]) + np.asarray(weights["bias"])
    np.testing.assert_allclose(out.pooled, wanted, rtol=1e-4, atol=1e-4)
    assert out.prefix.shape[1] == int(class_token)


@pytest.mark.parametrize(("no_embed_class", "rows"), [(True, 15), (False, 19)])
def test_the_prefix_has_positions_unless_the_model_says_not(no_embed_class, rows):
    model = build(
        "vit_small_patch16_224", img_size=(24, 40), patch_size=8, embed_dim=8, num_heads=2, depth=1,
        reg_tokens=3, no_embed_class=no_embed_class, num_classes=0,
    )  # fmt: skip
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 40, 3)))
    assert shapes["params"]["pos_embed"].shape == (1, rows, 8)
