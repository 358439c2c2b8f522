import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vitjax.models import build
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.load import match
from vitjax.weights.rename import to_name, to_path

MANIFESTS = pathlib.Path(__file__).parents[1] / "golden" / "manifests"
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
MODELS = {
    "facebook_dinov2_vits14": "vit_small_patch14_dinov2",
    "facebook_dinov2_vitb14": "vit_base_patch14_dinov2",
    "facebook_dinov2_vits14_reg4": "vit_small_patch14_reg4_dinov2",
    "facebook_dinov2_vitb14_reg4": "vit_base_patch14_reg4_dinov2",
    "hf_dinov2-small": "vit_small_patch14_dinov2",
    "hf_cvt-13": "cvt_13",
    "microsoft_CvT-13": "cvt_13",
    "microsoft_CvT-21": "cvt_21",
    **{f"dynamicswin_{s}": f"dynamicswin_{s}_patch4_window7_224" for s in ("tiny", "small", "base")},
    "dynamicvit_deit_small": "dynamicvit_deit_small_patch16_224",
}


def _shapes(stem: str) -> dict[str, np.ndarray]:
    """Arrays of a published checkpoint's shapes that take no memory."""
    manifest = json.loads((MANIFESTS / f"{stem}.json").read_text())
    return {k: np.broadcast_to(np.float32(0), v) for k, v in manifest.items() if k != "_meta"}


def _tiny(name="deit_small_patch16_224", **changes):
    return build(name, **TINY | changes)


def _state(model, seed=0) -> dict[str, np.ndarray]:
    """A checkpoint in timm's layout for a model, by its parameters' paths."""
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))["params"]
    state, chance = {}, np.random.default_rng(seed)
    for path, leaf in flatten_dict(params).items():
        value = chance.normal(size=leaf.shape).astype("f")
        if path[-1] == "kernel":
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        state[to_name(path)] = value
    return state


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.json")), ids=lambda p: p.stem)
def test_every_published_checkpoint_fits_its_model(path):
    model = build(MODELS.get(path.stem, path.stem.removeprefix("timm_").removeprefix("microsoft_")))
    placed, report = match(_shapes(path.stem), model)
    assert report.fits, str(report)
    assert report.loaded == len(placed)
    buffers = (".num_batches_tracked", ".relative_position_index", ".attn_mask")
    counters = {name for name in report.ignored if name.endswith(buffers)}
    assert set(report.ignored) - counters <= {"mask_token", "embeddings.mask_token"}


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*small*.json")), ids=lambda p: p.stem)
def test_a_checkpoint_of_another_model_does_not_fit(path):
    _, report = match(_shapes(path.stem), build("vit_base_patch16_224"))
    assert not report.fits and "choose another model name" in str(report).splitlines()[0]


def test_names_and_paths_are_each_others_inverse():
    model = build("deit_small_distilled_patch16_224", depth=12)
    for name, array in _state(_tiny("deit_small_distilled_patch16_224", depth=11)).items():
        assert to_name(to_path(name, array)[0]) == name
    assert to_name(("blocks_11", "ls1", "gamma")) == "blocks.11.ls1.gamma" and model.depth == 12


def test_a_whole_round_trip_keeps_every_number():
    model = _tiny("deit_small_distilled_patch16_224")
    state = _state(model)
    variables, report = load_with_report(state, model)
    assert report.loaded == len(state) and report.notes == () and report.ignored == {}
    kernel = variables["params"]["blocks_1"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, state["blocks.1.mlp.fc1.weight"].T)
    assert isinstance(kernel, jax.Array) and kernel.dtype == jnp.float32


def test_one_report_names_everything_and_says_what_to_do():
    state = _state(_tiny())
    state["blocks.0.attn.extra.weight"] = state.pop("blocks.1.mlp.fc2.bias")
    state["head.weight"] = np.zeros((7, 8), "f")
    with pytest.raises(WeightsError) as error:
        load_weights(state, _tiny())
    text = str(error.value)
    first = text.splitlines()[0]
    assert "1 missing, 1 unexpected, 1 mis-shaped" in first and "num_classes=7" in first
    assert "missing: blocks.1.mlp.fc2.bias (model (8,))" in text
    assert "unexpected: blocks.0.attn.extra.weight (file (8,))" in text
    assert "mis-shaped: head.weight (file (7, 8), model (3, 8))" in text


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"depth": 3}, "file has 2 blocks, the model 3"),
        ({"embed_dim": 16}, "file is of a model 8 wide"),
        ({"patch_size": 16}, "patches of 8 pixels"),
        ({"init_values": 1e-5}, "no LayerScale"),
        ({"distilled": True}, "only one side is distilled"),
        ({"reg_tokens": 4, "no_embed_class": True}, "register tokens"),
        ({"global_pool": "avg"}, "check global_pool"),
    ],
)
def test_hints_say_which_field_differs(fields, hint):
    with pytest.raises(WeightsError, match=hint):
        load_weights(_state(_tiny()), _tiny(**fields))
    if "init_values" in fields:
        with pytest.raises(WeightsError, match="has LayerScale"):
            load_weights(_state(_tiny(**fields)), _tiny())


def test_not_strict_keeps_initial_values_and_says_so():
    state = _state(_tiny())
    del state["blocks.1.norm2.weight"]
    variables, report = load_with_report(state, _tiny(), strict=False)
    assert [m.name for m in report.missing] == ["blocks.1.norm2.weight"]
    np.testing.assert_array_equal(variables["params"]["blocks_1"]["norm2"]["scale"], np.ones(8))


def test_a_classifier_is_left_out_where_the_model_has_none():
    variables, report = load_with_report(_state(_tiny()), _tiny(num_classes=0))
    assert "head" not in variables["params"]
    assert report.fits and set(report.ignored) == {"head.weight", "head.bias"}


def test_a_classifier_is_replaced_only_when_asked():
    state, model = _state(_tiny()), _tiny(num_classes=9)
    with pytest.raises(WeightsError, match="drop_head=True"):
        load_weights(state, model)
    variables, report = load_with_report(state, model, drop_head=True)
    assert variables["params"]["head"]["kernel"].shape == (8, 9)
    assert report.fits and "classifier starts from initial values" in str(report)


def test_nan_and_infinity_are_refused_by_name():
    for bad in (np.nan, np.inf):
        state = _state(_tiny())
        state["blocks.0.mlp.fc1.weight"][3, 2] = bad
        with pytest.raises(WeightsError, match=r"'blocks\.0\.mlp\.fc1\.weight' holds NaN or infinity"):
            load_weights(state, _tiny())


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_number_types_become_float32(dtype):
    state = {name: value.astype(jnp.dtype(dtype)) for name, value in _state(_tiny()).items()}
    params = load_weights(state, _tiny())["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["norm"]["scale"], state["norm.weight"].astype("float32"))


@pytest.mark.parametrize("source", [{}, {"a": np.zeros(3)}, {"patch_embed.proj.weight": "text"}])
def test_arrays_that_are_no_transformer_are_an_error(source):
    with pytest.raises(WeightsError):
        load_weights(source, _tiny())


def _with_table(state, rows, seed=3):
    return state | {"pos_embed": np.random.default_rng(seed).normal(size=(1, rows, 8)).astype("f")}


@pytest.mark.parametrize(
    ("extra", "antialias", "offset", "words"),
    [
        ({}, True, 0.0, "size, antialiased"),
        (
            {"mask_token": np.zeros((1, 8), "f")},
            False,
            0.1,
            "scale factor with offset 0.1, not antialiased",
        ),
    ],
)
def test_positions_are_resized_the_way_the_checkpoint_does(extra, antialias, offset, words):
    state = _with_table(_state(_tiny()), 1 + 36) | extra
    model = _tiny()
    variables, report = load_with_report(state, model)
    table = variables["params"]["pos_embed"]
    patches = jnp.asarray(state["pos_embed"][0, 1:])
    wanted = model.resize_positions(patches, (6, 6), antialias=antialias, offset=offset)
    np.testing.assert_allclose(table[0, 1:], wanted, atol=1e-6)
    np.testing.assert_array_equal(table[0, 0], state["pos_embed"][0, 0])
    assert f"resized from 6x6 to 4x4, bicubic by {words}" in report.notes[0]


def test_a_table_of_the_models_own_grid_is_kept_where_it_is_not_square():
    model = _tiny(img_size=(16, 64))
    state = _with_table(_state(_tiny()), 17)
    kept, report = load_with_report(state, model)
    np.testing.assert_array_equal(kept["params"]["pos_embed"], state["pos_embed"])
    assert report.notes == ()
    # The original DINOv2 always takes its table to be square.
    _, report = load_with_report(state | {"mask_token": np.zeros((1, 8), "f")}, model)
    assert "resized from 4x4 to 2x8" in report.notes[0]


def test_a_position_of_cls_moves_into_the_token_where_the_model_has_no_row_for_it():
    state = _with_table(_state(_tiny(num_classes=0)), 17) | {"mask_token": np.zeros((1, 8), "f")}
    embedded, separate = _tiny(num_classes=0), _tiny(num_classes=0, no_embed_class=True)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    first = embedded.apply(load_weights(state, embedded), images)
    variables, report = load_with_report(state, separate)
    second = separate.apply(variables, images)
    np.testing.assert_allclose(first.pooled, second.pooled, rtol=1e-4, atol=1e-5)
    assert "positions of cls_token added" in report.notes[0]


def test_a_table_that_fits_no_grid_gets_a_hint():
    with pytest.raises(WeightsError, match="position table fits no grid"):
        load_weights(_with_table(_state(_tiny()), 1 + 14), _tiny())
