import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from tests.models.family import filled, made, run
from vitjax.models import build
from vitjax.models.convnext import ConvNeXt
from vitjax.pretrained import input_of, pretrained_source
from vitjax.weights import load_with_report, stack_blocks, unstack_blocks


@pytest.mark.parametrize(("size", "grid"), [(224, (7, 7)), ((255, 511), (7, 15))])
def test_the_published_model_has_one_token_per_32_pixels(size, grid):
    assert build("convnext_tiny_dinov3", img_size=size).grid == grid


def test_a_published_name_is_known_by_the_tag_of_its_weights_too():
    assert pretrained_source("convnext_base_dinov3") == "hf:timm/convnext_base.dinov3_lvd1689m"
    assert input_of("convnext_base.dinov3_lvd1689m") == input_of("convnext_base_dinov3") is not None


def test_pooled_is_the_norm_of_the_mean_and_tokens_the_norm_of_each():
    model, variables, images = made("convnext")
    # An affine map before the norm would be undone by it: the last map is read where a stage follows.
    longer = model.clone(depths=(*model.depths, 1), dims=(*model.dims, 4))
    last = run(longer, variables, images, block=sum(model.depths) - 1)
    assert last.grid == model.grid
    norm = variables["params"]["norm"]

    def normed(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + model.eps)
        return scaled * norm["scale"] + norm["bias"]

    out = run(model, variables, images)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(out.tokens, normed(np.asarray(last.tokens)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            out.pooled, normed(np.asarray(last.tokens).mean(axis=1)), rtol=1e-4, atol=1e-5
        )
    assert np.abs(out.pooled - out.tokens.mean(axis=1)).max() > 0.01


def test_odd_sides_lose_what_fills_no_position():
    model, variables, images = made("convnext")
    few, many = (
        run(model, variables, jnp.pad(jnp.asarray(images), ((0, 0), (0, rows), (0, 3), (0, 0))))
        for rows in (3, 15)
    )
    np.testing.assert_allclose(few.tokens, run(model, variables, images).tokens, rtol=1e-5, atol=1e-5)
    assert many.grid == model.grid and np.abs(many.tokens - few.tokens).max() > 1e-3


def test_the_map_can_take_the_grid_of_a_vision_transformer():
    model, variables, images = made("convnext")
    same = run(model.clone(pseudo_patch_size=16), variables, images)
    plain = run(model, variables, images)
    np.testing.assert_array_equal(same.tokens, plain.tokens)
    fine = model.clone(pseudo_patch_size=8)
    out = run(fine, variables, images)
    assert out.grid == fine.grid == (6, 10) and out.tokens.shape[1] == 60
    np.testing.assert_allclose(out.pooled, plain.pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_and_rematerialised_stages_equal_the_loop(remat):
    model, variables, images = made("convnext")

    def trained(model, variables):
        def loss(params):
            out = model.apply({"params": params}, images, train=True)
            return (out.logits**2).sum() + (out.tokens[:, 0] ** 2).sum(), out.tokens

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    wanted, tokens = trained(model, variables)
    scanned = model.clone(scan_layers=True, remat=remat)
    found, same = trained(scanned, stack_blocks(variables))
    np.testing.assert_allclose(same, tokens, rtol=1e-5, atol=1e-6)
    back = unstack_blocks({"params": found})["params"]
    for name, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        other = back
        for key in name:
            other = other[key.key]
        np.testing.assert_allclose(other, leaf, rtol=0, atol=1e-5 * np.abs(leaf).max(), err_msg=str(name))
    early, stopped = (
        run(model, variables, images, block=0),
        run(scanned, stack_blocks(variables), images, block=0),
    )
    np.testing.assert_allclose(stopped.tokens, early.tokens, rtol=1e-5, atol=1e-6)


def test_stochastic_depth_rises_over_all_stages():
    model, variables, images = made("convnext", drop_path_rate=0.9)
    rngs = {"dropout": jax.random.key(0)}
    apply = compiled(model.apply)
    first = apply(variables, images, block=0, rngs=rngs).tokens
    np.testing.assert_allclose(first, apply(variables, images, block=0).tokens, rtol=1e-5, atol=1e-5)
    last = apply(variables, images, rngs=rngs).tokens
    assert np.abs(last - apply(variables, images).tokens).max() > 0.01


def test_a_model_without_factors_takes_a_file_without_them():
    model = ConvNeXt(img_size=16, depths=(1, 1), dims=(4, 6), init_values=None, num_classes=0, kernel_size=3)
    variables = filled(model, np.zeros((1, 16, 16, 3), "f"))
    assert "gamma" not in variables["params"]["stages_0"]["blocks_0"]
    state = {"downsample_layers.0.0.weight": np.zeros((4, 3, 4, 4))}
    _, report = load_with_report(state, model, strict=False)
    assert report.layout == "original ConvNeXt or DINOv3" and report.loaded == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1, 0), "dims": (4, 4)}, "one of each per stage"),
        ({"depths": (1, 1)}, "one of each per stage"),
        ({"img_size": 31}, "smaller than one token, 32 pixels"),
        ({"kernel_size": 4}, "must be odd"),
        ({"drop_path_rate": 0.1, "scan_layers": True}, "above 0 with scan_layers"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build("convnext_tiny_dinov3", **fields)
