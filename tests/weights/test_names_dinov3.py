import pathlib

import numpy as np
import pytest

from tests.parity import fixture
from vitjax.models import build
from vitjax.weights import load_with_report

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
STATE = fixture.load(GOLDEN / "f1_dinov3_facebook.npz").weights
GATED = fixture.load(GOLDEN / "f1_dinov3_gated_hf.npz").weights
FIELDS = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3}


def _loaded(state, **fields):
    return load_with_report(state, build("vit_small_patch16_dinov3_qkvb", **FIELDS, **fields))


def test_a_bias_under_no_mask_is_one_of_keys_too():
    state = {name: array for name, array in STATE.items() if not name.endswith("bias_mask")}
    variables, report = _loaded(state, key_bias=True)
    assert report.layout == "original DINOv3"
    np.testing.assert_array_equal(
        variables["params"]["blocks_1"]["attn"]["qkv"]["bias"], STATE["blocks.1.attn.qkv.bias"]
    )


@pytest.mark.parametrize("masked", [False, True])
def test_the_original_may_have_no_registers(masked):
    state = {name: array for name, array in STATE.items() if name != "storage_tokens"}
    if not masked:
        state = {name: array for name, array in state.items() if "qkv.bias" not in name}
    _, report = _loaded(state, reg_tokens=0, qkv_bias=masked)
    assert report.layout == "original DINOv3" and "rope_embed.periods" in report.ignored


def test_a_norm_that_only_training_uses_is_left_out():
    more = {f"local_cls_norm.{leaf}": np.zeros(48, "f") for leaf in ("weight", "bias")}
    _, report = _loaded(STATE | more)
    assert report.ignored["local_cls_norm.weight"] == "only local crops of training use it"


def test_transformers_writes_registers_that_are_none_as_an_empty_array():
    state = {name: x[:, :0] if name.endswith("register_tokens") else x for name, x in GATED.items()}
    model = build("vit_small_plus_patch16_dinov3_qkvb", **FIELDS, mlp_hidden=136, reg_tokens=0)
    _, report = load_with_report(state, model)
    assert report.fits and report.ignored["embeddings.register_tokens"] == "it is empty"
