"""Files of two towers beyond the fixtures': older ones of big_vision, OpenCLIP's with timm's image tower."""

import json
import pathlib

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.parity import checks_clip, fixture
from vitjax.models import build
from vitjax.weights import WeightsError, load_with_report
from vitjax.weights.rename import to_name, torch_shape

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def siglip():
    found = fixture.load(GOLDEN / "f4_siglip_bigvision_scan.npz")
    return checks_clip.make(found)[0], found.weights


@pytest.fixture(scope="module")
def clip():
    found = fixture.load(GOLDEN / "f3_clip_openai.npz")
    return checks_clip.make(found)[0], found.weights


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_positions_of_texts_that_a_file_has_twice_are_added(siglip):
    model, weights = siglip
    plain = load_with_report(weights, model)[0]["params"]
    again = np.random.default_rng(0).normal(size=(1, 8, 32)).astype("f")
    both, report = load_with_report(weights | {"params/txt/Encoder_0/pos_embedding": again}, model)
    table = both["params"]["text"].pop("position_embedding")
    np.testing.assert_array_equal(table, plain["text"].pop("position_embedding") + again[0])
    same(both["params"], plain)
    assert report.fits and not report.ignored

    moved = {name.replace("txt/pos", "txt/Encoder_0/pos"): array for name, array in weights.items()}
    same(load_with_report(moved, model)[0], load_with_report(weights, model)[0])


def test_positions_of_another_length_are_refused_by_name(siglip):
    model, weights = siglip
    odd = {"params/txt/Encoder_0/pos_embedding": np.zeros((1, 9, 32), "f")}
    with pytest.raises(WeightsError, match="txt/Encoder_0/pos_embedding"):
        load_with_report(weights | odd, model)


def test_positions_inside_the_encoder_are_those_of_the_images(siglip):
    model, weights = siglip
    moved = {name.replace("img/pos", "img/Transformer/pos"): array for name, array in weights.items()}
    same(load_with_report(moved, model)[0], load_with_report(weights, model)[0])


def openclip(model, weights, head: str) -> dict[str, np.ndarray]:
    """A file of OpenCLIP whose image tower is timm's, from one of OpenAI's.

    Args:
        model: of both towers.
        weights: in OpenAI's names.
        head: name of the image projection.
    """
    params = load_with_report(weights, model)[0]["params"]
    state = {f"text.{name}": array for name, array in weights.items() if not name.startswith("visual.")}
    state["logit_scale"] = state.pop("text.logit_scale")
    for path, leaf in flatten_dict(params["image"]).items():
        array = np.asarray(leaf)
        turned = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim) if path[-1] == "kernel" else None
        state[f"visual.trunk.{to_name(path)}"] = array.transpose(turned) if turned else array
        assert state[f"visual.trunk.{to_name(path)}"].shape == torch_shape(path, array.shape)
    state[f"{head}.weight"] = weights["visual.proj"].T
    return state


@pytest.mark.parametrize("head", ["visual.head.proj", "visual.trunk.head"])
def test_the_projection_of_an_image_tower_of_timm_is_openclips_or_its_classifier(clip, head):
    model, weights = clip
    wanted = load_with_report(weights, model)[0]
    state = openclip(model, weights, head)
    variables, report = load_with_report(state, model)
    assert report.layout == "OpenCLIP with timm" and report.fits and not report.ignored
    same(variables, wanted)
    zero = {f"{head}.bias": np.zeros(24, "f")}  # timm's, of a projection that has none
    same(load_with_report(state | zero, model)[0], wanted)
    same(load_with_report(state, model.image)[0]["params"], wanted["params"]["image"])
    with pytest.raises(WeightsError, match=rf"{head}\.bias"):
        load_with_report(state | {f"{head}.bias": np.ones(24, "f")}, model)


def test_a_text_tower_behind_a_prefix_belongs_to_the_image_tower_beside_it(clip):
    model, weights = clip
    split = {name if name[:6] in ("visual", "logit_") else f"text.{name}": x for name, x in weights.items()}
    same(load_with_report(split, model)[0], load_with_report(weights, model)[0])
    words = {name: x for name, x in split.items() if name.startswith("text.")}
    same(load_with_report(words, model.text)[0]["params"], load_with_report(weights, model.text)[0]["params"])


@pytest.mark.parametrize("stem", ["f3_clip_hf", "f4_siglip_hf"])
def test_a_tower_of_transformers_alone_lacks_its_prefix(stem):
    found = fixture.load(GOLDEN / f"{stem}.npz")
    model, weights = checks_clip.make(found)[0], found.weights
    wanted = load_with_report(weights, model)[0]["params"]
    for tower, prefix in (("image", "vision_model."), ("text", "text_model.")):
        alone = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
        own = getattr(model, tower)
        if tower == "text" and own.projection_dim and "head.weight" not in alone:  # outside of the tower
            own = own.clone(projection_dim=None)
            wanted["text"].pop("projection")
        variables, report = load_with_report(alone, own)
        assert report.layout == "Hugging Face" and report.fits
        same(variables["params"], wanted[tower])


def test_names_of_timm_are_those_of_its_siglip():
    manifest = GOLDEN / "manifests" / "timm_vit_base_patch16_siglip_224.json"
    shapes = {name: shape for name, shape in json.loads(manifest.read_text()).items() if name != "_meta"}
    state = {f"visual.trunk.{name}": np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    report = load_with_report(state, build("vit_base_patch16_siglip_224"), strict=False)[1]
    assert (report.loaded, report.fits) == (len(shapes), True)
