import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.family import FAMILIES, made, run, torch_state
from vitjax.models import build, list_models
from vitjax.weights import WeightsError, load_weights, load_with_report

TINY = "swin_tiny_patch4_window7_224"
SMALL = FAMILIES["swin"].fields


def _attention(model):
    """Attention of every block: shapes alone."""
    seen, side = [], model.img_size
    size = (side, side) if isinstance(side, int) else side
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)

    def attend(image):
        out, _ = model.init_with_output(jax.random.key(0), image, return_attention=True)
        seen.extend(out.attention)

    jax.eval_shape(attend, image)
    return seen


def test_the_published_model_ends_in_one_window_of_49_tokens():
    model = build(TINY)
    seen = _attention(model)
    assert model.grid == (7, 7) and len(seen) == 12
    assert seen[-1].weights.shape == (1, 24, 49, 49) and seen[-1].windows.shift == (0, 0)


def test_every_second_block_of_a_stage_is_shifted():
    model, *_ = made("swin")
    assert model.grids == [(10, 14), (5, 7)]
    shifts = [block.windows.shift for block in _attention(model)]
    assert shifts == [(0, 0), (2, 2), (0, 0), (2, 2), (0, 0)]


def test_an_image_in_one_window_gets_plain_attention_over_all_its_tokens():
    model, variables, images = made("swin", img_size=16, depths=(2,), num_heads=(2,))
    out = run(model, variables, images, return_attention=True)
    for block in out.attention:
        np.testing.assert_allclose(block.on_grid(), block.weights, rtol=1e-6)


def test_larger_windows_than_the_file_has_are_an_error_that_names_the_field():
    _, variables, _ = made("swin")
    with pytest.raises(WeightsError, match=r"windows are 4x4 or so: set window_size"):
        load_weights(torch_state(variables), build(TINY, **SMALL | {"window_size": 5}))
    with pytest.raises(WeightsError, match=r"the file has 5 blocks, the model 4"):
        load_weights(torch_state(variables), build(TINY, **SMALL | {"depths": (2, 2)}))


def test_original_names_give_the_same_model():
    model, variables, _ = made("swin")
    renamed = {}
    for name, array in torch_state(variables).items():
        original = name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")
        renamed[f"module.{original}"] = array
    buffers = {
        "module.layers.0.blocks.1.attn_mask": 0,
        "module.layers.0.blocks.0.attn.relative_position_index": 1,
    }
    again, report = load_with_report(renamed | {k: np.zeros((1, 16, 16)) for k in buffers}, model)
    assert report.layout == "original Swin" and set(report.ignored) == set(buffers)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


_IN_FILE = {
    "norm1.": "layernorm_before.", "norm2.": "layernorm_after.", "attn.proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense.",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "attn.qkv.": "attention.self.{}.",
}  # fmt: skip
_IN_MEMORY = _IN_FILE | {
    "attn.proj.": "attention.o_proj.", "mlp.fc1.": "mlp.fc1.", "mlp.fc2.": "mlp.fc2.",
    "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
    "attn.qkv.": "attention.{0[0]}_proj.",
}  # fmt: skip


@pytest.mark.parametrize("names", [_IN_FILE, _IN_MEMORY], ids=["file", "memory"])
def test_hugging_face_names_give_the_same_model(names):
    model, variables, _ = made("swin")
    renamed = {}
    for name, array in torch_state(variables).items():
        inside = name.replace("layers.1.downsample", "layers.0.downsample")
        inside = inside.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        inside = inside.replace("patch_embed.norm", "embeddings.norm").replace("layers.", "encoder.layers.")
        for ours, theirs in names.items():
            inside = inside.replace(f".{ours}", f".{theirs}")
        if name.startswith("norm."):
            inside = f"layernorm{name[4:]}"
        if "{" in inside:
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                renamed[f"swin.{inside.format(part)}"] = piece
        elif name.startswith("head."):
            renamed[f"classifier{name[7:]}"] = array
        else:
            renamed[f"swin.{inside}"] = array
    again, report = load_with_report(renamed, model)
    assert report.layout == "Hugging Face" and report.ignored == {}
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_rematerialised_blocks_have_the_same_weights_result_and_gradients():
    model, variables, images = made("swin", depths=(2,), num_heads=(2,))
    other = model.clone(remat=True)

    def loss(module):
        return jax.jit(jax.value_and_grad(lambda v: (module.apply(v, images).logits ** 2).sum()))(variables)

    (plain, grads), (again, same) = loss(model), loss(other)
    np.testing.assert_allclose(again, plain, rtol=1e-5)
    for (path, wanted), leaf in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(same), strict=True
    ):
        np.testing.assert_allclose(
            leaf, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max(), err_msg=str(path)
        )
        assert np.abs(wanted).max() > 0, path
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda v: other.apply(v, images).pooled.sum()))(variables))
    assert "remat" in jaxpr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img_size": 226}, "not a multiple of patch_size"),
        ({"depths": (2, 0)}, "1 or more, per stage"),
        ({"depths": (2, 2, 2)}, "num_heads .* differ in length"),
        ({"num_heads": (5, 3)}, "stage 0 is 12 wide, not a multiple of num_heads 5"),
        ({"window_size": (7, 7, 14)}, "window_size .* differ in length"),
        ({"window_size": 0}, "window_size 0 is below 1"),
        ({"dtype": "float16"}, "neither 'float32' nor 'bfloat16'"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build(TINY, **SMALL | fields)


def test_windows_are_a_side_rows_and_columns_or_one_of_these_per_stage():
    def windows(size, **changes):
        return build(TINY, **SMALL | {"img_size": 224, "window_size": size} | changes).windows

    assert windows(7) == [(7, 7), (7, 7)] and windows((3, 5)) == [(3, 5), (3, 5)]
    stages = {"depths": (1, 1, 1), "num_heads": (1, 1, 1)}
    assert windows((4, (2, 6), 14), **stages) == [(4, 4), (2, 6), (14, 14)]


def test_every_swin_name_has_its_recipe_for_images():
    from vitjax.data.transforms import preprocess

    for name in list_models("swin_*"):
        recipe, model = preprocess(name), build(name)
        assert recipe.image_size == model.img_size
        assert recipe.crop_pct == (1.0 if model.img_size == 384 else 0.9)
