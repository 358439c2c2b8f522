import jax
import numpy as np
import pytest

from tests.compiled import compiled
from tests.models.family import made, run
from vitjax.models import build
from vitjax.models.cvt import ConvAttention, ConvProjection


def test_the_published_grids_at_224_and_384():
    assert build("cvt_13").grid == (14, 14)
    assert build("cvt_21", img_size=384).grid == (24, 24)


def test_attention_is_scaled_by_the_whole_width_and_lets_cls_pass_the_convolutions():
    tokens = np.random.default_rng(0).normal(size=(1, 5, 4)).astype("f")
    model = ConvAttention(num_heads=2)
    variables = jax.device_get(jax.jit(lambda key, x: model.init(key, x, (2, 2)))(jax.random.key(1), tokens))
    params = jax.tree.map(lambda x: x + np.float32(0.3), variables["params"])
    variables = {**variables, "params": params}
    attend = compiled(lambda v, x: model.apply(v, x, (2, 2), return_attention=True))
    _, weights = attend(variables, tokens)

    def project(name, stride):
        conv = ConvProjection(stride)
        own = {kind: variables[kind][f"conv_proj_{name}"] for kind in ("params", "batch_stats")}
        local = compiled(conv.apply)(own, tokens[:, 1:].reshape(1, 2, 2, 4)).reshape(1, -1, 4)
        rows = np.concatenate([tokens[:, :1], local], axis=1)[0]
        linear = params[f"proj_{name}"]
        return rows @ linear["kernel"] + linear["bias"][None]

    query, key = project("q", 1), project("k", 2)
    assert query.shape == (5, 4) and key.shape == (2, 4)
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        logits = query[:, part] @ key[:, part].T * 4**-0.5
        wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(weights[0, head], wanted, rtol=1e-4, atol=1e-5)


def test_the_two_activations_differ_as_their_formulae_do():
    model, variables, images = made("cvt")
    quick = run(model, variables, images).tokens
    exact = run(model.clone(act="gelu"), variables, images).tokens
    gap = np.abs(np.asarray(quick - exact)).max()
    assert 1e-3 < gap < 1.0


def test_without_cls_the_mean_of_the_tokens_is_classified():
    model, variables, images = made("cvt", cls_token=(False, False, False))
    out = run(model, variables, images)
    head = variables["params"]["head"]
    assert out.prefix.shape == (4, 0, 24) and "cls_token" not in variables["params"]["stage2"]
    np.testing.assert_allclose(out.pooled, out.tokens.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        out.logits, out.pooled @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-5
    )


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


def test_tokens_of_a_block_before_the_last_one_of_its_stage_are_normalised_too():
    model, variables, images = made("cvt")
    tokens, norm = np.asarray(run(model, variables, images, block=2).tokens), variables["params"]["norm"]
    plain = (tokens - np.asarray(norm["bias"])) / np.asarray(norm["scale"])
    np.testing.assert_allclose(plain.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(plain.var(axis=-1), 1, rtol=1e-2)
