"""Two towers: the image tower's result with an embedding, texts, their scores, and both under one roof."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.models.family import filled
from vitjax.layers.attention_pool import AttentionPool
from vitjax.models import build
from vitjax.models.text_transformer import TextTransformer, sinusoids
from vitjax.models.two_towers import TwoTowers
from vitjax.sparsify import REDUCERS
from vitjax.weights import load_with_report, stack_blocks, unstack_blocks
from vitjax.weights.rename import to_name

IMAGE = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
TEXT = {"vocab_size": 30, "context_length": 7, "embed_dim": 16, "depth": 1, "num_heads": 2}
IDS = np.random.default_rng(4).integers(1, 29, (5, 7))
IDS[:, 5:] = 29  # the end token, twice


def towers(name: str, **fields):
    joint = {"projection_dim": 12} if name.startswith("clip") else {}
    text = TEXT | ({"projection_dim": 12} if joint else {"projection_dim": 24})
    return build(name, **IMAGE | joint | fields, text=text)


@pytest.fixture(scope="module", params=["clip_vit_base_patch16", "siglip_base_patch16_224"])
def made(request: pytest.FixtureRequest) -> tuple[TwoTowers, dict, np.ndarray]:
    model = towers(request.param)
    images = np.random.default_rng(1).normal(size=(3, 16, 24, 3)).astype("f")
    return model, filled(model, images), images


def run(model, variables, *given, method=None):
    """The compiled call of a model or of one of its methods."""
    return jax.jit(lambda v, *x: model.apply(v, *x, method=method))(variables, *given)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_images_alone_give_the_image_towers_result_and_an_embedding(made):
    model, variables, images = made
    params = variables["params"]
    ours = run(model, variables, images)
    alone = jax.jit(model.image.apply)({"params": params["image"]}, images)
    assert alone.embedding is None and ours.logits is None and ours.grid == model.grid == (2, 3)
    np.testing.assert_allclose(ours.tokens, alone.tokens, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.pooled, alone.pooled, rtol=1e-6, atol=1e-6)
    joint = alone.pooled if model.sigmoid else alone.pooled @ params["image_projection"]["kernel"]
    np.testing.assert_allclose(ours.embedding, joint, rtol=1e-5, atol=1e-5)


def test_texts_among_images_get_scaled_cosines(made):
    model, variables, images = made
    out = run(model, variables, images, IDS)
    text = run(model, variables, IDS, method="encode_text")
    assert text.tokens.shape == (5, 7, 16) and text.attention is None
    scale, bias = (variables["params"].get(name, 0.0) for name in ("logit_scale", "logit_bias"))
    cosines = unit(np.asarray(out.embedding)) @ unit(np.asarray(text.embedding)).T
    np.testing.assert_allclose(out.logits, np.exp(scale) * cosines + bias, rtol=1e-5, atol=1e-5)
    assert (
        ("logit_bias" in variables["params"])
        == model.sigmoid
        == (model.bind(variables).logit_bias is not None)
    )


def test_a_projected_token_is_the_embedding_of_an_image_that_has_no_other(made):
    model, variables, images = made
    out = run(model, variables, images)
    projected = run(model, variables, out.tokens, method="project_tokens")
    assert projected.shape == (3, 6, 24 if model.sigmoid else 12)
    if model.sigmoid:
        pool, params = AttentionPool(3, 96), {"params": variables["params"]["image"]["attn_pool"]}
        alone = run(pool, params, out.tokens[1:2, 4:5])[0]
        np.testing.assert_allclose(projected[1, 4], alone[0], rtol=1e-5, atol=1e-5)
    else:
        kernel = variables["params"]["image_projection"]["kernel"]
        np.testing.assert_allclose(projected, out.tokens @ kernel, rtol=1e-5, atol=1e-5)


def test_a_loss_on_the_scores_reaches_every_parameter(made):
    model, variables, images = made
    grads = jax.jit(jax.grad(lambda v: (model.apply(v, images, IDS).logits ** 2).sum()))(variables)
    for path, leaf in flatten_dict(grads, sep=".").items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_scanned_blocks_and_bfloat16_are_of_both_towers(made):
    model, variables, images = made
    scanned, low = model.clone(scan_layers=True), model.clone(dtype="bfloat16")
    assert scanned.image.scan_layers and scanned.text.scan_layers and low.text.dtype == "bfloat16"
    stacked = stack_blocks(variables)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), variables)
    exact = run(model, variables, images, IDS)
    again = run(scanned, stacked, images, IDS)
    np.testing.assert_allclose(again.logits, exact.logits, rtol=1e-4, atol=1e-4)
    rough = run(low, variables, images, IDS)
    assert rough.logits.dtype == rough.embedding.dtype == jnp.float32
    np.testing.assert_allclose(unit(rough.embedding), unit(exact.embedding), atol=0.03)


@pytest.mark.parametrize("reduce", sorted(REDUCERS))
def test_every_reducer_leaves_fewer_tokens_and_an_embedding(made, reduce):
    model, _, images = made
    name = "siglip_base_patch16_224" if model.sigmoid else "clip_vit_base_patch16"
    share = {"keep_ratio": 0.5} if hasattr(REDUCERS[reduce], "keep_ratio") else {}
    pruned = towers(name, reduce=reduce, depth=4, **share)
    assert pruned.token_reduction.name == reduce

    def run():
        out = pruned.init_with_output(jax.random.key(0), images)[0]
        return out.tokens, out.embedding

    tokens, embedding = jax.eval_shape(run)
    assert tokens.shape[1] < 6 and embedding.shape == (3, 24 if model.sigmoid else 12)


def test_without_a_cls_token_the_patches_rank_each_other():
    model = build("vit_base_patch16_siglip_224", **IMAGE, reduce="topk", keep_ratio=0.5, pruning_loc=(0,))
    images = np.random.default_rng(1).normal(size=(3, 16, 24, 3)).astype("f")
    variables = filled(model, images)
    dense = jax.jit(lambda v, x: model.clone(reducer=None).apply(v, x, return_attention=True))(
        variables, images
    )
    received = np.asarray(dense.attention[0]).mean(axis=(1, 2))
    best = np.sort(np.argsort(-received, axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(run(model, variables, images).keep_index[0], best)


def test_attention_pooling_counts_a_merged_token_as_often_as_it_stands_for_patches():
    pool = AttentionPool(num_heads=3, mlp_hidden=20)
    tokens = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 24)), jnp.float32)
    variables = drawn(pool, tokens)
    merged, weights = run(pool, variables, tokens, jnp.array([[2.0, 1.0, 0.0]] * 2))
    twice, each = run(pool, variables, jnp.asarray(np.asarray(tokens)[:, [0, 0, 1]]))
    np.testing.assert_allclose(merged, twice, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights[..., 0], each[..., :2].sum(axis=-1), rtol=1e-5)
    assert weights.shape == (2, 3, 1, 3) and weights[..., 2].max() == 0


def drawn(model, *given) -> dict:
    """Variables away from their start."""
    chance = np.random.default_rng(3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *given)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * chance.normal(size=x.shape), jnp.float32), shapes)


def text_tower(**fields):
    model = TextTransformer(**TEXT | fields)
    ids = jnp.asarray(IDS)
    return model, drawn(model, ids)


def test_a_causal_tower_does_not_look_ahead_and_pools_the_first_end_token():
    model, variables = text_tower()
    later = IDS.copy()
    later[:, 6] = 3
    ours, changed = (run(model, variables, ids) for ids in (IDS, later))
    np.testing.assert_allclose(ours.tokens[:, :6], changed.tokens[:, :6], rtol=1e-6)
    assert np.abs(ours.tokens[:, 6] - changed.tokens[:, 6]).max() > 0.1
    np.testing.assert_allclose(ours.pooled, ours.tokens[:, 5], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.embedding, ours.pooled, rtol=1e-6, atol=1e-6)
    named = run(model.clone(end_token=int(IDS[2, 1])), variables, IDS)
    np.testing.assert_allclose(named.pooled[2], ours.tokens[2, 1], rtol=1e-6)


def test_padding_counts_unless_it_is_masked():
    both, variables = text_tower(causal=False, pool="last")
    valid = np.arange(7) < np.array([[4], [6], [7], [3], [5]])
    other = np.where(valid, IDS, 1)
    assert (
        np.abs(run(both, variables, IDS).tokens[:, 0] - run(both, variables, other).tokens[:, 0]).max() > 0.01
    )
    np.testing.assert_array_equal(
        run(both, variables, IDS, valid).pooled, run(both, variables, IDS).tokens[:, -1]
    )
    masked = both.clone(masks_padding=True, pool="mean")
    ours, changed = (run(masked, variables, ids, valid) for ids in (IDS, other))
    np.testing.assert_allclose(ours.tokens, changed.tokens, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(ours.tokens)[~valid]).max() == 0
    mean = np.stack(
        [row[there].mean(axis=0) for row, there in zip(np.asarray(ours.tokens), valid, strict=True)]
    )
    np.testing.assert_allclose(ours.pooled, mean, rtol=1e-5, atol=1e-6)
    empty = run(masked, variables, IDS, np.zeros((5, 7), bool))
    assert np.isfinite(empty.tokens).all() and not np.any(empty.pooled)


def test_fixed_positions_are_sines_then_cosines():
    found = sinusoids(5, 8)
    np.testing.assert_allclose(found[:, 0], np.sin(np.arange(5)), rtol=1e-6)
    np.testing.assert_allclose(found[:, 7], np.cos(np.arange(5) * 1e-4), rtol=1e-6)


def test_texts_that_are_too_long_are_an_error():
    model, variables = text_tower()
    with pytest.raises(ValueError, match="texts have 8 tokens; this tower takes 1 to 7"):
        run(model, variables, np.ones((1, 8), int))


def test_fields_go_to_their_tower():
    model = towers("clip_vit_base_patch16", dtype="bfloat16", reduce="topk")
    assert model.text.depth == 1 and model.image.depth == 2 and model.projection_dim == 12
    assert model.text.dtype == model.dtype == "bfloat16" and model.reducer.name == "topk"
    assert model.image.mlp == model.text.mlp == "quick_gelu" and model.text.causal
    with pytest.raises(ValueError, match="has no field 'dept'; did you mean 'depth'"):
        towers("clip_vit_base_patch16", dept=3)
    with pytest.raises(ValueError, match=r"text tower.*has no field 'dept'"):
        build("clip_vit_base_patch16", text={"dept": 3})


def test_a_file_of_ours_gives_the_variables_back_to_both_towers_or_either(made):
    model, variables, _ = made
    state = {}
    for path, leaf in flatten_dict(variables["params"]).items():
        array = np.asarray(leaf)
        if path[-1] == "kernel":
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        state[to_name(path)] = array
    loaded, report = load_with_report(state, model)
    assert report.fits and report.ignored == {} and report.notes == ()
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    for tower in ("image", "text"):
        part, report = load_with_report(state, getattr(model, tower))
        jax.tree.map(np.testing.assert_array_equal, part["params"], variables["params"][tower])
        assert len(report.ignored) == len(state) - report.loaded
