import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vitjax.models import build, list_models
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.rename import to_name

TINY = "swin_tiny_patch4_window7_224"
SMALL = {
    "img_size": (40, 56), "embed_dim": 12, "depths": (2, 3), "num_heads": (2, 3), "window_size": 4,
    "num_classes": 5,
}  # fmt: skip


@functools.cache
def _made(batch=2, seed=0, **changes):
    """A small model with parameters that are all non-trivial, and images for it: grids 10x14 and 5x7."""
    model = build(TINY, **SMALL | changes)
    size = (model.img_size,) * 2 if isinstance(model.img_size, int) else model.img_size
    chance = np.random.default_rng(seed)
    images = jnp.asarray(chance.normal(size=(batch, *size, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def value(path, leaf):
        return jnp.asarray(0.2 * chance.normal(size=leaf.shape) + (path[-1].key == "scale"), jnp.float32)

    return model, jax.tree.map_with_path(value, shapes), images


def _run(model, variables, images, **static):
    return jax.jit(lambda v, x: model.apply(v, x, **static))(variables, images)


def _state(variables) -> dict[str, np.ndarray]:
    """The weights as timm's file has them."""
    state = {}
    for path, leaf in flatten_dict(variables["params"]).items():
        value = np.asarray(leaf)
        if path[-1] == "kernel":
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        state[to_name(path)] = value
    return state


def test_shapes_are_as_documented():
    model, variables, images = _made()
    out = _run(model, variables, images, return_attention=True)
    assert out.grid == model.grid == (5, 7) and model.grids == [(10, 14), (5, 7)]
    assert out.tokens.shape == (2, 35, 24) and out.prefix.shape == (2, 0, 24)
    assert out.logits.shape == (2, 5) and list(out.heads) == ["cls"]
    # 3x4 windows of 16 tokens on the first grid, padded on both axes; 2x2 on the second.
    assert [a.weights.shape for a in out.attention] == [(24, 2, 16, 16)] * 2 + [(8, 3, 16, 16)] * 3
    assert [a.windows.shift for a in out.attention] == [(0, 0), (2, 2), (0, 0), (2, 2), (0, 0)]
    np.testing.assert_allclose(out.pooled, out.tokens.mean(axis=1), rtol=1e-6, atol=1e-6)


def test_the_published_model_ends_in_one_window_of_49_tokens():
    model = build(TINY)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    seen = []

    def attend(v, x):
        seen.extend(model.apply(v, x, return_attention=True).attention)

    jax.eval_shape(attend, variables, image)
    assert model.grid == (7, 7) and len(seen) == 12
    assert seen[-1].weights.shape == (1, 24, 49, 49) and seen[-1].windows.shift == (0, 0)


@pytest.mark.slow
def test_asking_for_attention_changes_nothing_else():
    model, variables, images = _made()
    with jax.default_matmul_precision("highest"):
        plain = _run(model, variables, images)
        asked = _run(model, variables, images, return_attention=True)
    assert plain.attention is None
    np.testing.assert_allclose(asked.tokens, plain.tokens, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(asked.logits, plain.logits, rtol=1e-4, atol=1e-4)
    for block in asked.attention:
        np.testing.assert_allclose(block.weights.sum(axis=-1), np.ones(block.weights.shape[:3]), rtol=1e-5)
        on_grid = block.on_grid()
        np.testing.assert_allclose(on_grid.sum(axis=-1), np.ones(on_grid.shape[:3]), rtol=1e-5)


def test_an_image_in_one_window_gets_plain_attention_over_all_its_tokens():
    model, variables, images = _made(img_size=16, depths=(2,), num_heads=(2,))
    out = _run(model, variables, images, return_attention=True)
    for block in out.attention:
        np.testing.assert_allclose(block.on_grid(), block.weights, rtol=1e-6)


@pytest.mark.parametrize("block", [0, 2, -1])
def test_stopping_after_a_block_equals_a_model_that_ends_there(block):
    model, variables, images = _made()
    early = _run(model, variables, images, block=block, return_attention=True)
    count = block % 5 + 1
    depths = (count,) if count <= 2 else (2, count - 2)
    shorter = build(TINY, **SMALL | {"depths": depths, "num_heads": (2, 3)[: len(depths)], "num_classes": 0})
    wanted = jax.eval_shape(shorter.init, jax.random.key(0), images)["params"]
    flat = flatten_dict(variables["params"])
    whole = {"params": jax.tree.map_with_path(lambda at, _: flat.get(tuple(k.key for k in at)), wanted)}
    whole["params"]["norm"] = {"scale": jnp.ones(12 * len(depths)), "bias": jnp.zeros(12 * len(depths))}
    if len(depths) == 2:
        whole["params"]["norm"] = variables["params"]["norm"]
    full = _run(shorter, whole, images)
    tokens = np.asarray(early.tokens)
    if len(depths) == 1:  # an earlier stage: tokens come without a norm, the shorter model norms them
        tokens = tokens - tokens.mean(axis=-1, keepdims=True)
        tokens = tokens / np.sqrt((tokens**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(tokens, full.tokens, rtol=1e-4, atol=1e-4)
    assert early.grid == full.grid and len(early.attention) == count
    np.testing.assert_allclose(early.pooled, early.tokens.mean(axis=1), rtol=1e-5, atol=1e-5)
    assert (early.logits is None) == (count < 5)


def test_later_blocks_are_not_computed():
    model, variables, images = _made()

    def products(block):
        lowered = jax.jit(lambda v, x: model.apply(v, x, block=block).tokens).lower(variables, images)
        return lowered.as_text().count("stablehlo.dot_general")

    per_block = 6  # qkv, two of attention, proj, fc1, fc2
    assert products(1) - products(0) == products(3) - products(2) == per_block
    assert products(2) - products(1) == per_block + 1  # and merging patches


@pytest.mark.parametrize("size", [(44, 72), (12, 52)])
def test_any_image_size_gives_what_a_model_built_for_it_gives(size):
    model, variables, _ = _made(num_classes=0)
    images = jax.random.normal(jax.random.key(7), (1, *size, 3))
    out = _run(model, variables, images)
    built = build(TINY, **SMALL | {"img_size": size, "num_classes": 0})
    loaded, report = load_with_report(_state(variables), built)
    np.testing.assert_allclose(out.tokens, _run(built, loaded, images).tokens, rtol=1e-4, atol=1e-4)
    assert out.grid == built.grid == (-(-size[0] // 8), -(-size[1] // 8))
    smaller = [f"{h}x{w}" for h, w in built.windows if (h, w) != (4, 4)]
    assert report.notes == tuple(f"tables of offsets cut to windows of {s}" for s in dict.fromkeys(smaller))


def test_larger_windows_than_the_file_has_are_an_error_that_names_the_field():
    _, variables, _ = _made()
    with pytest.raises(WeightsError, match=r"windows are 4x4 or so: set window_size"):
        load_weights(_state(variables), build(TINY, **SMALL | {"window_size": 5}))
    with pytest.raises(WeightsError, match=r"the file has 5 blocks, the model 4"):
        load_weights(_state(variables), build(TINY, **SMALL | {"depths": (2, 2)}))


def test_original_names_give_the_same_model():
    model, variables, images = _made()
    renamed = {}
    for name, array in _state(variables).items():
        original = name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")
        renamed[f"module.{original}"] = array
    buffers = {
        "module.layers.0.blocks.1.attn_mask": 0,
        "module.layers.0.blocks.0.attn.relative_position_index": 1,
    }
    again, report = load_with_report(renamed | {k: np.zeros((1, 16, 16)) for k in buffers}, model)
    assert report.layout == "original Swin" and set(report.ignored) == set(buffers)
    np.testing.assert_array_equal(_run(model, again, images).tokens, _run(model, variables, images).tokens)


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
    model, variables, images = _made()
    renamed = {}
    for name, array in _state(variables).items():
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
    np.testing.assert_array_equal(_run(model, again, images).tokens, _run(model, variables, images).tokens)


def test_an_image_does_not_depend_on_its_batch():
    model, variables, images = _made(batch=4)
    together = _run(model, variables, images, return_attention=True)
    alone = _run(model, variables, images[2:3], return_attention=True)
    np.testing.assert_allclose(together.tokens[2:3], alone.tokens, rtol=1e-4, atol=1e-5)
    for many, one in zip(together.attention, alone.attention, strict=True):
        count = one.weights.shape[0]
        np.testing.assert_allclose(many.weights[2 * count : 3 * count], one.weights, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close_to_float32():
    model, variables, images = _made()
    exact = _run(model, variables, images)
    low = _run(build(TINY, **SMALL, dtype="bfloat16"), variables, images, return_attention=True)
    assert low.tokens.dtype == low.logits.dtype == jnp.float32
    assert {a.weights.dtype for a in low.attention} == {jnp.dtype(jnp.float32)}
    # A whole network of bf16 products (8 bits of mantissa), each rounding 0.4%, on tokens of unit scale.
    gap = np.abs(np.asarray(low.tokens - exact.tokens))
    assert 0 < gap.mean() < 0.02 and gap.max() < 0.15


def test_rematerialised_blocks_have_the_same_weights_result_and_gradients():
    model, variables, images = _made(depths=(2,), num_heads=(2,))
    other = build(TINY, **SMALL | {"depths": (2,), "num_heads": (2,), "remat": True})

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


@pytest.mark.parametrize("argument", [{"keep_ratio": (0.7,)}, {"decisions": jnp.ones((2, 1, 16))}])
def test_pruning_arguments_are_refused(argument):
    model, variables, images = _made()
    with pytest.raises(ValueError, match="no predictor"):
        model.apply(variables, images, **argument)


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


def test_every_swin_name_has_its_recipe_for_pictures():
    from vitjax.data.transforms import preprocess

    for name in list_models("swin_*"):
        recipe, model = preprocess(name), build(name)
        assert recipe.image_size == model.img_size
        assert recipe.crop_pct == (1.0 if model.img_size == 384 else 0.9)
