import pathlib

import jax
import numpy as np
import pytest

from tests.parity import fixture
from vitjax.models import build
from vitjax.weights import WeightsError, load_with_report
from vitjax.weights.load import match

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
IMAGE = fixture.load(GOLDEN / "f5_tips_image.npz").weights
TEXT = fixture.load(GOLDEN / "f5_tips_text.npz").weights
SCALE = {"temperature": np.float32(0.004)}


def _towers(**changes):
    sizes = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    text = sizes | {"mlp_hidden": 160, "vocab_size": 60, "context_length": 10}
    return build("tipsv2_b14", img_size=56, **sizes, text=text, **changes)


def _same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_files_of_images_and_of_texts_are_read_as_one(tmp_path):
    for name, arrays in (("image", IMAGE), ("text", TEXT | SCALE)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    files = [tmp_path / "image.npz", tmp_path / "text.npz"]
    model = _towers()
    variables, report = load_with_report(files, model)
    assert report.layout == "TIPS" and list(report.ignored) == ["mask_token"]
    assert variables["params"]["logit_scale"] == pytest.approx(np.log(250))
    for tower, arrays in ((model.image, IMAGE), (model.text, TEXT)):
        alone, _ = load_with_report(arrays, tower)
        _same(variables["params"]["text" if tower is model.text else "image"], alone["params"])
    with pytest.raises(WeightsError, match="an earlier file has the name"):
        load_with_report([files[0], files[0]], model)


def test_hugging_face_has_both_towers_and_no_temperature():
    state = {f"vision_encoder.{k}": v for k, v in IMAGE.items()}
    state |= {f"text_encoder.{k}": v for k, v in TEXT.items()}
    model = _towers()
    variables, report = load_with_report(state, model)
    assert report.layout == "TIPS" and list(report.ignored) == ["vision_encoder.mask_token"]
    assert variables["params"]["logit_scale"] == pytest.approx(-np.log(0.005065968260169029))
    _same(
        variables, load_with_report(IMAGE | TEXT | {"temperature": np.float32(model.temperature)}, model)[0]
    )
    placed, report = match(state, model.image)
    assert report.fits and len(placed) == len(IMAGE) - 1
    assert match(state, model.text)[1].fits


def test_a_text_file_may_hold_the_temperature_of_the_joint_space():
    text = _towers().text
    _same(load_with_report(TEXT | SCALE, text)[0], load_with_report(TEXT, text)[0])
    _, report = load_with_report(TEXT | SCALE, text)
    assert list(report.ignored) == ["temperature"]


def test_positions_are_resized_as_the_model_says_where_names_do_not_tell():
    fields = {"img_size": (42, 70), "patch_size": 14, "embed_dim": 48, "depth": 3, "num_heads": 3}
    for name, way in (("vit_base_patch14_tipsv2", "bilinear"), ("vit_base_patch14_dinov2", "bicubic")):
        more = {} if way == "bilinear" else {"reg_tokens": 1, "no_embed_class": True}
        _, report = load_with_report(IMAGE, build(name, **fields, **more))
        assert f"position table resized from 4x4 to 3x5, {way} by size, antialiased" in report.notes[0]
