import numpy as np
import pytest

from vitjax.weights import WeightsError
from vitjax.weights.rename import Positions, rename, to_path, torch_shape

# Names as transformers 5 writes them to a file ("file") and holds them in memory ("memory").
_FILE = {
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
_MEMORY = {
    "attn.q": "attention.q_proj",
    "attn.k": "attention.k_proj",
    "attn.v": "attention.v_proj",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def _hugging_face(block: str, names: dict, prefix: str = "", heads: tuple = ("classifier",)) -> dict:
    width = 4
    state = {
        f"{prefix}embeddings.cls_token": np.zeros((1, 1, width)),
        f"{prefix}embeddings.position_embeddings": np.zeros((1, 5, width)),
        f"{prefix}embeddings.patch_embeddings.projection.weight": np.zeros((width, 3, 2, 2)),
        f"{prefix}embeddings.patch_embeddings.projection.bias": np.zeros(width),
        f"{prefix}layernorm.weight": np.ones(width),
        f"{prefix}pooler.dense.weight": np.zeros((width, width)),
    }
    for number, (ours, theirs) in enumerate(names.items()):
        shape = (width,) if ours.startswith("norm") else (width, width)
        state[f"{prefix}{block}.0.{theirs}.weight"] = np.full(shape, number)
    return state | {f"{head}.weight": np.zeros((3, width)) for head in heads}


@pytest.mark.parametrize("prefix", ["", "vit.", "deit.", "module.vit.", "model.backbone."])
@pytest.mark.parametrize(("block", "names"), [("encoder.layer", _FILE), ("layers", _MEMORY)])
def test_hugging_face_names_become_timm_names(prefix, block, names):
    renamed = rename(_hugging_face(block, names, prefix))
    assert set(renamed.state) == {
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight",
        "head.weight", "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight", "blocks.0.norm1.weight", "blocks.0.norm2.weight",
    }  # fmt: skip
    assert renamed.layout == "Hugging Face" and list(renamed.ignored) == [f"{prefix}pooler.dense.weight"]
    # Query, key, value stacked in timm's order.
    np.testing.assert_array_equal(renamed.state["blocks.0.attn.qkv.weight"][::4, 0], [0, 1, 2])
    assert renamed.positions == Positions(antialias=False, prefix_rows=1, square=True)
    for ours, number in (("mlp.fc1", 4), ("mlp.fc2", 5), ("norm1", 6), ("norm2", 7), ("attn.proj", 3)):
        assert renamed.state[f"blocks.0.{ours}.weight"].flat[0] == number


def test_distilled_hugging_face_names():
    state = _hugging_face("encoder.layer", _FILE, "deit.", ("cls_classifier", "distillation_classifier"))
    renamed = rename(state | {"deit.embeddings.distillation_token": np.zeros((1, 1, 4))})
    assert {"dist_token", "head.weight", "head_dist.weight"} <= set(renamed.state)
    assert renamed.positions.prefix_rows == 2


def test_registers_of_hugging_face_resize_with_antialias():
    state = _hugging_face("encoder.layer", _FILE, heads=())
    renamed = rename(state | {"embeddings.register_tokens": np.zeros((1, 4, 4))})
    assert "reg_token" in renamed.state and renamed.positions.antialias


def test_original_dinov2_is_told_from_timm_by_its_mask_token():
    state = {"patch_embed.proj.weight": np.zeros((4, 3, 2, 2)), "cls_token": np.zeros((1, 1, 4))}
    assert rename(state).layout == "timm"
    masked = rename(state | {"mask_token": np.zeros((1, 4))})
    assert masked.layout == "original DINOv2" and "mask_token" in masked.ignored
    assert masked.positions == Positions(False, 0.1, 1, True)
    registers = rename(state | {"register_tokens": np.zeros((1, 4, 4))})
    assert "reg_token" in registers.state and registers.positions == Positions(True, 0.0, 1, True)


def test_a_query_without_its_key_stays_and_is_reported():
    state = _hugging_face("layers", _MEMORY)
    del state["layers.0.attention.k_proj.weight"]
    renamed = rename(state)
    assert "blocks.0.attn.qkv.weight" not in renamed.state
    assert renamed.origin["blocks.0.attn.q.weight"] == "layers.0.attention.q_proj.weight"


def test_two_weights_for_one_place_are_both_reported():
    state = _hugging_face("layers", _MEMORY, heads=("classifier", "cls_classifier"))
    assert "cls_classifier.weight" in rename(state).origin.values()
    assert len(rename(state).state) == len(rename(_hugging_face("layers", _MEMORY)).state) + 1


def test_unknown_names_are_an_error_that_quotes_them():
    with pytest.raises(WeightsError, match=r"'conv1\.weight'"):
        rename({"conv1.weight": np.zeros((1, 3, 7, 7))})


def test_rows_and_columns_of_a_convolution_stay_apart():
    weight = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    path, kernel = to_path("patch_embed.proj.weight", weight)
    assert path == ("patch_embed", "proj", "kernel") and kernel.shape == (4, 5, 3, 2)
    assert kernel[3, 1, 2, 0] == weight[0, 2, 3, 1]
    assert torch_shape(path, kernel.shape) == weight.shape


def test_blocks_in_chunks_keep_their_numbers_where_some_are_missing():
    state = {"patch_embed.proj.weight": np.zeros((4, 3, 2, 2)), "mask_token": np.zeros((1, 4))}
    state |= {f"blocks.1.{i}.norm1.weight": np.full(4, i) for i in (2, 3)}
    found = rename(state).state
    assert {name: array[0] for name, array in found.items() if "norm1" in name} == {
        "blocks.2.norm1.weight": 2,
        "blocks.3.norm1.weight": 3,
    }
