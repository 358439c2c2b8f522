import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import on_host
from vitjax.models import build
from vitjax.sparsify import count
from vitjax.weights import WeightsError, load_weights, stack_blocks, unstack_blocks
from vitjax.weights.rename import to_name, torch_shape

SMALL = {
    "deit3_small_patch16_224": {"embed_dim": 24, "depth": 2, "num_heads": 3, "init_values": 0.5},
    "lvvit_s": {"embed_dim": 24, "depth": 2, "num_heads": 3, "stem_dim": 4},
    "cvt_13": {
        "patch_size": (7,),
        "patch_stride": (4,),
        "patch_padding": (2,),
        "embed_dim": (8,),
        "depths": (1,),
        "num_heads": (2,),
        "mlp_ratio": (2.0,),
        "cls_token": (True,),
    },
}
PLAIN = ["deit3_small_patch16_224", "lvvit_s"]


@functools.cache
def _made(name):
    """A small model with parameters that are all non-trivial, and images for it."""
    model = _built(name)
    chance = np.random.default_rng(1)
    images = chance.normal(size=(2, 32, 32, 3)).astype("f")
    variables = on_host(jax.jit(model.init)(jax.random.key(0), images))
    noisy = jax.tree.map(lambda x: x + 0.2 * chance.normal(size=x.shape).astype("f"), variables["params"])
    return model, variables | {"params": noisy}, images


def _built(name, **changes):
    return build(name, **{"img_size": 32, "num_classes": 5} | SMALL[name] | changes)


def _trained(model, variables, images):
    """Output with maps, updated statistics, and the gradient to all parameters, in training."""

    def loss(params):
        out, updates = model.apply(
            variables | {"params": params}, images, train=True, return_attention=True, mutable=["batch_stats"]
        )
        return (out.logits**2).sum() + (out.tokens[:, 0] ** 2).sum(), (out, updates)

    return on_host(jax.jit(jax.grad(loss, has_aux=True))(variables["params"]))


@functools.cache
def _wanted(name):
    return _trained(*_made(name))


def _assert_equal(found, wanted, *, rtol):
    """Leaf by leaf, within `rtol` of the leaf's largest value."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        # What is added to every key alike changes no softmax: its gradient is nothing but rounding.
        nothing = name.endswith(("proj_k.bias", "conv_proj_k.bn.bias"))
        scale = largest if nothing else np.abs(leaf).max()
        np.testing.assert_allclose(other, leaf, rtol=0, atol=rtol * scale, err_msg=name)


def _assert_trained_equal(found, wanted):
    (grads, other), (wanted_grads, wanted_other) = found, wanted
    _assert_equal(other, wanted_other, rtol=1e-6)
    # Gradients sum many terms of both signs, in another order.
    _assert_equal(grads, wanted_grads, rtol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(wanted_grads))


@pytest.mark.parametrize(("name", "remat"), [(PLAIN[0], False), (PLAIN[0], True), (PLAIN[1], True)])
def test_a_scan_over_blocks_equals_the_loop(name, remat):
    _, variables, images = _made(name)
    scanned = _built(name, scan_layers=True, remat=remat)
    grads, other = _trained(scanned, stack_blocks(variables), images)
    _assert_trained_equal((unstack_blocks({"params": grads})["params"], other), _wanted(name))


@pytest.mark.parametrize("return_attention", [False, True])
def test_a_scan_stops_after_a_block_as_the_loop_does(return_attention):
    model, variables, images = _made("deit3_small_patch16_224")
    scanned = _built("deit3_small_patch16_224", scan_layers=True)
    for block in (0, -1):
        run = {"block": block, "return_attention": return_attention}
        wanted = on_host(jax.jit(functools.partial(model.apply, **run))(variables, images))
        found = on_host(jax.jit(functools.partial(scanned.apply, **run))(stack_blocks(variables), images))
        _assert_equal(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_rematerialised_blocks_have_the_same_weights_result_and_gradients(name):
    _, variables, images = _made(name)
    _assert_trained_equal(_trained(_built(name, remat=True), variables, images), _wanted(name))


@pytest.mark.parametrize(
    ("name", "scan"), [(PLAIN[0], False), (PLAIN[0], True), (PLAIN[1], True), ("cvt_13", False)]
)
def test_rematerialised_blocks_keep_less_for_the_backward_pass(name, scan):

    changes = {"depths": (4,)} if name == "cvt_13" else {"depth": 6, "scan_layers": scan}

    def kept(remat):
        model = _built(name, img_size=128, remat=remat, **changes)
        images = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        pullback = jax.eval_shape(lambda v, x: jax.vjp(model.apply, v, x)[1], variables, images)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept(True) < 0.6 * kept(False)  # what stays is the stem's, parameters, and each block's input


def test_a_scan_of_rematerialised_blocks_needs_less_memory():
    def temporary(**changes):
        model = _built("deit3_small_patch16_224", img_size=128, depth=8, scan_layers=True, **changes)
        images = jax.ShapeDtypeStruct((4, 128, 128, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        gradient = jax.jit(jax.grad(lambda v, x: (model.apply(v, x).tokens ** 2).sum()))
        return gradient.lower(variables, images).compile().memory_analysis().temp_size_in_bytes

    assert temporary(remat=True) < 0.4 * temporary()


def test_a_scan_compiles_one_block_whatever_the_depth():
    def program(depth, **changes):
        model = _built("deit3_small_patch16_224", depth=depth, **changes)
        images = np.zeros((1, 32, 32, 3), "f")
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        gradient = jax.jit(jax.grad(lambda v: model.apply(v, images).logits.sum()))
        return gradient.lower(variables).as_text().count("stablehlo.dot_general")

    assert program(3, scan_layers=True) == program(5, scan_layers=True) < program(3) < program(5)


def test_initial_values_come_in_the_stacked_layout():
    model, variables, images = _made("lvvit_s")
    scanned = _built("lvvit_s", scan_layers=True)
    initial = on_host(jax.jit(scanned.init)(jax.random.key(0), images))
    wanted = stack_blocks(variables)
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, wanted)
    qkv = initial["params"]["blocks"]["attn"]["qkv"]["kernel"]
    assert np.abs(qkv[0] - qkv[1]).max() > 0.01  # every block draws its own
    assert count(scanned, 32) == count(model, 32)


def test_stacking_and_unstacking_undo_each_other():
    _, variables, _ = _made("lvvit_s")
    back = unstack_blocks(stack_blocks(variables))
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_layouts_that_are_not_there_are_an_error():
    _, variables, _ = _made("lvvit_s")
    with pytest.raises(ValueError, match="scan_layers=True"):
        unstack_blocks(variables)
    with pytest.raises(ValueError, match="scan_layers=False"):
        stack_blocks(stack_blocks(variables))
    gap = {name: leaf for name, leaf in variables["params"].items() if name != "blocks_0"}
    with pytest.raises(ValueError, match="without gaps"):
        stack_blocks({"params": gap})


def _checkpoint(params):
    """Arrays of a torch file, by name."""
    flat = {
        tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    state = {}
    for path, leaf in flat.items():
        array = np.asarray(leaf)
        if path[-1] == "kernel":
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        assert array.shape == torch_shape(path, leaf.shape)
        state[to_name(path)] = array
    return state


def test_weights_load_into_a_model_that_scans():
    model, variables, images = _made("deit3_small_patch16_224")
    scanned = _built("deit3_small_patch16_224", scan_layers=True)
    state = _checkpoint(variables["params"])
    loaded = load_weights(state, scanned)
    _assert_equal(loaded, stack_blocks(variables), rtol=0)
    found, wanted = jax.jit(scanned.apply)(loaded, images), jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    del state["blocks.1.attn.qkv.bias"]
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.qkv\.bias"):
        load_weights(state, scanned)
