"""Google's ViT files against a ViT of flax's own modules, whose parameters such files are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax.traverse_util import flatten_dict

from tests.compiled import compiled
from tests.weights.tiny import tiny
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.read import read_state

WIDTH, DEPTH, HEADS, PATCH = 12, 3, 3, 8
MODEL = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 5}


class _Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="Dense_1")(
            nn.gelu(nn.Dense(4 * WIDTH, name="Dense_0")(x), approximate=False)
        )


class _Block(nn.Module):
    big: bool

    @nn.compact
    def __call__(self, x):
        attention, second, mlp = ("0", "1", "0") if self.big else ("1", "2", "3")
        heads = nn.MultiHeadDotProductAttention(HEADS, name=f"MultiHeadDotProductAttention_{attention}")
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x + heads(y, y)
        return x + _Mlp(name=f"MlpBlock_{mlp}")(nn.LayerNorm(name=f"LayerNorm_{second}")(x))


class _Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(1), (1, *x.shape[1:]))


class _Encoder(nn.Module):
    big: bool

    @nn.compact
    def __call__(self, x):
        x = x if self.big else _Positions(name="posembed_input")(x)
        for i in range(DEPTH):
            x = _Block(self.big, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class _Google(nn.Module):
    """`big`: big_vision, which adds positions before the CLS token."""

    big: bool = False

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(WIDTH, (PATCH, PATCH), (PATCH, PATCH), "VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, WIDTH)
        if self.big:
            x = x + self.param("pos_embedding", nn.initializers.normal(1), (1, *x.shape[1:]))
        cls = self.param("cls", nn.initializers.normal(1), (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = _Encoder(self.big, name="Transformer")(x)
        return x, nn.Dense(5, name="head")(x[:, 0])


def _file(tmp_path, big=False, prefix="", size=32, **more):
    """A file as Google saves it, its network, and pixels."""
    network = _Google(big)
    chance = np.random.default_rng(0)
    images = chance.normal(size=(2, size, size, 3)).astype("f")
    params = jax.device_get(jax.jit(network.init)(jax.random.key(0), images))
    params = jax.tree.map(lambda x: (x + chance.normal(0, 0.1, x.shape)).astype("f"), params)
    flat = {prefix + "/".join(path): leaf for path, leaf in flatten_dict(params["params"]).items()}
    np.savez(tmp_path / "B_16.npz", **flat | more)
    return tmp_path / "B_16.npz", compiled(network.apply)(params, images), images


@pytest.mark.parametrize(
    ("big", "prefix"),
    [(False, ""), (False, "opt/target/"), (True, ""), (True, "params/"), (True, "params/img/")],
)
def test_google_weights_give_the_numbers_of_flaxs_own_modules(tmp_path, big, prefix):
    path, (tokens, logits), images = _file(tmp_path, big, prefix)
    model = tiny(**MODEL)
    variables, report = load_with_report(path, model)
    output = compiled(model.apply)(variables, images)
    np.testing.assert_allclose(output.tokens, tokens[:, 1:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-4)
    assert report.layout == ("Google big_vision" if big else "Google ViT") and not report.ignored


def test_positions_are_resized_as_google_does(tmp_path):
    path, _, _ = _file(tmp_path)
    model = tiny(**MODEL | {"img_size": (56, 40)})
    variables, report = load_with_report(path, model)
    theirs = read_state(path)["Transformer/posembed_input/pos_embedding"]
    zoomed = scipy.ndimage.zoom(theirs[0, 1:].reshape(4, 4, WIDTH), (7 / 4, 5 / 4, 1), order=1)
    np.testing.assert_allclose(variables["params"]["pos_embed"][0, 1:], zoomed.reshape(35, WIDTH), atol=1e-5)
    np.testing.assert_array_equal(variables["params"]["pos_embed"][0, 0], theirs[0, 0])
    assert "resized from 4x4 to 7x5, linear between aligned corners" in report.notes[0]


def test_a_layer_before_the_classifier_is_left_out_with_it_and_refused_without(tmp_path):
    more = {"pre_logits/kernel": np.zeros((WIDTH, WIDTH), "f"), "pre_logits/bias": np.zeros(WIDTH, "f")}
    path, (tokens, _), images = _file(tmp_path, **more)
    model = tiny(**MODEL | {"num_classes": 0})
    variables, report = load_with_report(path, model)
    np.testing.assert_allclose(
        compiled(model.apply)(variables, images).tokens, tokens[:, 1:], rtol=1e-4, atol=1e-4
    )
    assert {"pre_logits/kernel", "pre_logits/bias", "head/kernel", "head/bias"} == set(report.ignored)
    with pytest.raises(WeightsError, match=r"pre_logits\) that the models here lack.*drop_head"):
        load_weights(path, tiny(**MODEL))
    assert load_with_report(path, tiny(**MODEL), drop_head=True)[1].fits


def test_an_optimizer_beside_the_weights_is_never_taken(tmp_path, caplog):
    path, _, _ = _file(tmp_path, True, "params/")
    state = read_state(path)
    moments = {n.replace("params/", "opt/0/mu/"): np.full_like(v, 7) for n, v in state.items()}
    model = tiny(**MODEL)
    both = load_weights(moments | state, model)
    jax.tree.map(np.testing.assert_array_equal, both, load_weights(state, model))
    assert "opt" not in caplog.text


def test_blocks_on_one_axis_are_taken_apart(tmp_path):
    path, (tokens, _), images = _file(tmp_path, True, "params/")
    state, stacked = read_state(path), {}
    for name, value in state.items():
        if "encoderblock_0" in name:
            row = [state[name.replace("_0", f"_{i}", 1)] for i in range(DEPTH)]
            stacked[name.replace("encoderblock_0", "encoderblock")] = np.stack(row)
        elif "encoderblock" not in name:
            stacked[name] = value
    model = tiny(**MODEL)
    output = compiled(model.apply)(load_weights(stacked, model), images)
    np.testing.assert_allclose(output.tokens, tokens[:, 1:], rtol=1e-4, atol=1e-4)


def test_bfloat16_of_an_npz_is_read_as_such(tmp_path):
    path, _, _ = _file(tmp_path)
    state = {name: value.astype(jnp.bfloat16) for name, value in read_state(path).items()}
    np.savez(tmp_path / "half.npz", **state)
    read = read_state(tmp_path / "half.npz")
    assert all(value.dtype == jnp.bfloat16 for value in read.values())
    model = tiny(**MODEL)
    jax.tree.map(
        np.testing.assert_array_equal, load_weights(tmp_path / "half.npz", model), load_weights(state, model)
    )


def test_a_hybrid_with_a_resnet_before_it_is_refused(tmp_path):
    path, _, _ = _file(tmp_path, **{"conv_root/kernel": np.zeros((7, 7, 3, 64), "f")})
    with pytest.raises(WeightsError, match="unexpected: conv_root/kernel"):
        load_weights(path, tiny(**MODEL))
