import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import fixture
from vitjax.models import build
from vitjax.weights import load_with_report

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
BOTH = fixture.load(GOLDEN / "f6_pe_core.npz").weights
IMAGE = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3, "pool_heads": 4}
TEXT = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "context_length": 9,
    "vocab_size": 64,
    "projection_dim": 32,
}


def _towers(**changes):
    return build("pe_core_b16_224", **IMAGE | changes, projection_dim=32, text=TEXT)


def _same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_file_of_both_towers_serves_both_and_each_alone():
    model = _towers()
    variables, report = load_with_report({f"module.{k}": v for k, v in BOTH.items()}, model)
    assert report.layout == "Perception Encoder" and report.ignored == {} and report.loaded > 60
    alone, report = load_with_report(BOTH, model.image)
    _same(alone["params"], variables["params"]["image"])
    assert {"visual.proj", "logit_scale", "token_embedding.weight"} <= set(report.ignored)
    _same(load_with_report(BOTH, model.text)[0]["params"], variables["params"]["text"])


def test_an_image_tower_may_come_without_its_prefix_and_with_factors_of_its_branches():
    vision = {k.removeprefix("visual."): v for k, v in BOTH.items() if k.startswith("visual.")}
    factors = {
        f"transformer.resblocks.{i}.ls_{j}.gamma": np.full(48, 10 * i + j, "f")
        for i in range(3)
        for j in (1, 2)
    }
    tower = build("vit_pe_core_base_patch16_224", **IMAGE, init_values=0.1)
    variables, report = load_with_report(vision | factors, tower)
    assert report.layout == "Perception Encoder" and list(report.ignored) == ["proj"]
    np.testing.assert_array_equal(variables["params"]["blocks_2"]["ls1"]["gamma"], np.full(48, 21, "f"))
    del variables["params"]["blocks_0"]["ls1"], variables["params"]["blocks_0"]["ls2"]
    _same(variables["params"]["blocks_0"], load_with_report(BOTH, _towers().image)[0]["params"]["blocks_0"])


def test_without_a_cls_token_patches_are_counted_from_0():
    state = {k: v for k, v in BOTH.items() if k != "visual.class_embedding"}
    state["visual.positional_embedding"] = BOTH["visual.positional_embedding"][1:]
    model = _towers(class_token=False).image
    variables, report = load_with_report(state, model)
    assert report.fits and model.prefix_count == 0
    with_cls, images = _towers().image, jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    other, _ = load_with_report(BOTH, with_cls)
    out = jax.jit(model.apply)(variables, images)
    # Coordinates are one less, which relative positions do not see; tokens differ for want of CLS.
    assert out.prefix.shape == (1, 0, 48) and out.tokens.shape == (1, 16, 48)
    assert jnp.abs(out.tokens - jax.jit(with_cls.apply)(other, images).tokens).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool_heads": 5}, "not a multiple of pool_heads 5"),
        ({"interpolation": "nearest"}, "neither 'bicubic' nor 'bilinear'"),
        ({"global_pool": "second"}, "needs class_token and reg_tokens"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build("vit_pe_core_base_patch16_224", **fields)
