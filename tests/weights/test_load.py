import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from tests.weights.tiny import state_of as _state
from tests.weights.tiny import tiny as _tiny
from vitjax.models import build, list_models
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.load import match
from vitjax.weights.rename import to_name, to_path

MANIFESTS = pathlib.Path(__file__).parents[1] / "golden" / "manifests"
TWO_TOWERS = ("openai_ViT-B-32", "hf_siglip-base-patch16-224", "bigvision_siglip2_b16_256")
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
    **{
        f"{whose}{size}": f"convnext_{size}_dinov3"
        for whose in ("facebook_dinov3_convnext_", "hf_dinov3-convnext-")
        for size in ("tiny", "base")
    },
    "facebook_PE-Core-B16-224": "pe_core_b16_224",
    "facebook_PE-Core-L14-336": "pe_core_l14_336",
    **{
        f"tips_v2_{short}_vision": f"vit_{size}_patch14_tipsv2"
        for short, size in (("b14", "base"), ("g14", "giant"))
    },
    **{f"tips_v2_{short}_text": f"tipsv2_{short}" for short in ("b14", "g14")},
    "dynamicvit_deit_small": "dynamicvit_deit_small_patch16_224",
    **{f"facebook_dinov3_vit{s[0]}16": f"vit_{s}_patch16_dinov3_qkvb" for s in ("small", "base", "large")},
    **{f"hf_dinov3-vit{s[0]}16": f"vit_{s}_patch16_dinov3_qkvb" for s in ("small", "base", "large")},
    "facebook_dinov2_vitg14": "vit_giant_patch14_dinov2",
    "hf_dinov2-giant": "vit_giant_patch14_dinov2",
    **{
        f"{who}_dinov3{mark}{short}16plus": f"vit_{size}_plus_patch16_dinov3_qkvb"
        for who, mark in (("facebook", "_vit"), ("hf", "-vit"))
        for short, size in (("s", "small"), ("h", "huge"))
    },
    "openai_ViT-B-16": "clip_vit_base_patch16",
    "openai_ViT-B-32": "clip_vit_base_patch32",
    "openai_ViT-L-14": "clip_vit_large_patch14",
    "bigvision_siglip2_b16_256": "siglip2_base_patch16_256",
    "bigvision_siglip2_l16_256": "siglip2_large_patch16_256",
    "bigvision_siglip2_so400m14_224": "siglip2_so400m_patch14_224",
    "bigvision_siglip_webli_en_b16_224": "siglip_base_patch16_224",
    "bigvision_siglip_webli_en_so400m_384": "siglip_so400m_patch14_384",
}
# Their parameters are counted, no more and no less.
TOWERS = ("hf_clip", "hf_siglip", "openai_", "bigvision_", "facebook_PE")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every manifest of a checkpoint, or those of the folder given by --golden."""
    if "manifest" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden") / "manifests"
        paths = [path for path in sorted(folder.glob("*.json")) if _model_name(path.stem) in list_models()]
        metafunc.parametrize("manifest", paths, ids=[path.stem for path in paths])


def _model_name(stem: str) -> str:
    if stem in MODELS:
        return MODELS[stem]
    if stem.startswith(("hf_clip", "hf_siglip")):
        return stem.removeprefix("hf_").replace("-", "_")
    return stem.removeprefix("timm_").removeprefix("microsoft_")


def _shapes(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays of a published checkpoint's shapes that take no memory."""
    shapes = json.loads(path.read_text())
    return {k: np.broadcast_to(np.float32(0), v) for k, v in shapes.items() if k != "_meta"}


def test_every_published_checkpoint_fits_its_model(manifest):
    model = build(_model_name(manifest.stem))
    if manifest.stem.endswith("_text"):
        model = model.text
    placed, report = match(_shapes(manifest), model)
    assert report.fits, str(report)
    assert report.loaded == len(placed)
    buffers = (
        ".num_batches_tracked",
        ".relative_position_index",
        ".attn_mask",
        ".bias_mask",
        "rope_embed.periods",
    )
    counters = {name for name in report.ignored if name.endswith(buffers)}
    twice = {"norms.3.weight", "norms.3.bias"}  # DINOv3's ConvNeXt
    assert set(report.ignored) - counters - twice <= {"mask_token", "embeddings.mask_token"}
    if manifest.stem.startswith(TOWERS):
        parameters = json.loads(manifest.read_text())["_meta"]["parameters"]
        assert sum(array.size for array in placed.values()) == parameters


@pytest.mark.parametrize("path", [MANIFESTS / f"{stem}.json" for stem in TWO_TOWERS], ids=TWO_TOWERS)
def test_either_tower_takes_its_part_of_a_checkpoint_of_both(path):
    model, state = build(_model_name(path.stem)), _shapes(path)
    reports = [match(state, tower)[1] for tower in (model.image, model.text)]
    joint = {"visual_projection.weight", "visual.proj", "logit_scale", "logit_bias", "params/t", "params/b"}
    for report, other in zip(reports, ("text tower", "image tower"), strict=True):
        assert report.fits, str(report)
        rest = {why for name, why in report.ignored.items() if name not in joint}
        assert rest == {f"of the {other}, which the model lacks"}
    assert set(reports[0].ignored) & set(reports[1].ignored) == joint & set(state)


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*small*.json")), ids=lambda p: p.stem)
def test_a_checkpoint_of_another_model_does_not_fit(path):
    _, report = match(_shapes(path), build("vit_base_patch16_224"))
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
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("f")
    first = compiled(embedded.apply)(load_weights(state, embedded), images)
    variables, report = load_with_report(state, separate)
    second = compiled(separate.apply)(variables, images)
    np.testing.assert_allclose(first.pooled, second.pooled, rtol=1e-4, atol=1e-5)
    assert "positions of cls_token added" in report.notes[0]


def test_a_table_that_fits_no_grid_gets_a_hint():
    with pytest.raises(WeightsError, match="position table fits no grid"):
        load_weights(_with_table(_state(_tiny()), 1 + 14), _tiny())


def test_what_is_missing_is_said_once_by_load_weights_with_its_counts(caplog):
    state = {name: value for name, value in _state(_tiny()).items() if not name.startswith("blocks.1.")}
    state["layers.1.norm1.weight"] = np.zeros(8, "f")
    load_weights(state, _tiny(), strict=False)
    (line,) = caplog.messages
    assert "14 parameters loaded" not in line and "12 missing, 1 unexpected" in line
    assert "12 parameters keep random initial values" in line and "\n" not in line
    caplog.clear()
    load_weights(_state(_tiny()), _tiny(), strict=False)
    assert caplog.messages == []


def test_the_warning_comes_once_for_scanned_layers_too(caplog):
    state = _state(_tiny())
    del state["norm.weight"]
    load_weights(state, _tiny(scan_layers=True), strict=False)
    (line,) = caplog.messages
    assert "1 missing" in line


def test_hints_about_layer_scale_do_not_contradict_each_other():
    model = _tiny(init_values=1e-5)
    state = {n.replace(".ls1.gamma", ".scale_1.gamma"): v for n, v in _state(model).items()}
    with pytest.raises(WeightsError) as error:
        load_weights(state, model)
    text = str(error.value)
    assert "both have LayerScale" in text
    assert "the file has LayerScale" not in text and "has no LayerScale" not in text


def test_loaded_weights_are_no_view_of_what_they_came_from():
    state = _state(_tiny())
    params = load_weights(state, _tiny())["params"]
    before = np.array(params["norm"]["bias"])
    state["norm.bias"][:] = 7
    np.testing.assert_array_equal(params["norm"]["bias"], before)
