"""What every backbone owes, held for a small model of each family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.models.family import BATCH, FAMILIES, forget, made, run, torch_state
from vitjax.models import build
from vitjax.weights import load_with_report

# Tests of code that these share with "vit", "dinov2" and "pe" word for word.
DYNAMIC = {"dynamicswin", "dynamic_convnext"}
ALIKE = {"distilled", "clip", "siglip", "tips"}
SHARED = {
    "test_an_image_does_not_depend_on_its_batch",
    "test_bfloat16_is_close_to_float32",
    "test_stopping_after_a_block_equals_a_model_that_ends_there",
    "test_two_devices_give_what_one_gives_with_one_trace",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    slow = ALIKE if metafunc.function.__name__ in SHARED else ()
    labels = [pytest.param(label, marks=[pytest.mark.slow] * (label in slow)) for label in FAMILIES]
    metafunc.parametrize("label", labels, indirect=True, scope="module")


@pytest.fixture(scope="module")
def label(request: pytest.FixtureRequest):
    """One family after the other: its tests share what is compiled, which is gone before the next."""
    yield request.param
    forget()


def test_the_result_is_as_documented(label):
    family, (model, variables, images) = FAMILIES[label], made(label)
    out = run(model, variables, images)
    count, width = family.tokens
    assert out.grid == model.grid == family.grid
    assert out.tokens.shape == (BATCH, count, width) and out.prefix.shape == (BATCH, family.prefix, width)
    assert {leaf.dtype for leaf in (out.tokens, out.prefix, out.pooled)} == {np.dtype("float32")}
    assert set(out.heads) == set(family.classes)
    if family.classes:
        assert out.logits.shape == out.heads["cls"].shape == (BATCH, 5)
    else:
        assert out.logits is None
    assert out.attention is None and (out.decisions is None) == (label not in DYNAMIC)
    if not family.pools_tokens:
        return
    of = out.prefix[:, : 2 if "dist" in out.heads else 1] if family.prefix else out.tokens
    np.testing.assert_allclose(out.pooled, of.mean(axis=1), rtol=1e-6, atol=1e-6)


def test_asking_for_attention_changes_nothing_else(label):
    family, (model, variables, images) = FAMILIES[label], made(label)
    if not family.attention:
        with pytest.raises(ValueError, match="cross_correlation"):
            run(model, variables, images, return_attention=True)
        return
    plain = run(model, variables, images)
    asked = run(model, variables, images, return_attention=True)
    np.testing.assert_allclose(asked.tokens, plain.tokens, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(asked.pooled, plain.pooled, rtol=1e-4, atol=1e-4)
    for name, scores in plain.heads.items():
        np.testing.assert_allclose(asked.heads[name], scores, rtol=1e-4, atol=1e-4)
    windowed = hasattr(asked.attention[0], "windows")
    maps = [block.weights if windowed else block for block in asked.attention]
    assert [(x.shape[0] // BATCH, *x.shape[1:])[not windowed :] for x in maps] == family.attention
    on_grid = [block.on_grid() for block in asked.attention] if windowed else []
    for weights in (*maps, *on_grid):
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(axis=-1), np.ones(weights.shape[:3]), rtol=1e-5)


def test_an_image_does_not_depend_on_its_batch(label):
    family, (model, variables, images) = FAMILIES[label], made(label)
    together, alone = run(model, variables, images), run(model, variables, images[2:3])
    np.testing.assert_allclose(together.tokens[2:3], alone.tokens, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together.pooled[2:3], alone.pooled, rtol=1e-4, atol=1e-5)
    if family.attention:
        there, back = (
            run(model, variables, given, return_attention=True).attention for given in (images, images[::-1])
        )
        for maps, turned in zip(jax.tree.leaves(there), jax.tree.leaves(back), strict=True):
            by_image, reverse = (np.asarray(x).reshape(BATCH, -1) for x in (maps, turned))
            np.testing.assert_array_equal(by_image, reverse[::-1])


def test_bfloat16_is_close_to_float32(label):
    model, variables, images = made(label)
    # A rounded score may drop another token, which is no rounding: none is dropped.
    none = {"keep_ratio": (1.0, 1.0)} if label in DYNAMIC else {}
    exact = run(model, variables, images, **none)
    maps = bool(FAMILIES[label].attention)
    low = run(model.clone(dtype="bfloat16"), variables, images, **none, return_attention=maps)
    assert low.tokens.dtype == low.pooled.dtype == low.prefix.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((low.heads, low.attention))} <= {np.dtype("float32")}
    # A whole network of bf16 products (8 bits of mantissa), each rounding 0.4%, on tokens of unit scale.
    gap = np.abs(np.asarray(low.tokens - exact.tokens))
    assert 0 < gap.mean() < 0.02 and gap.max() < 0.15


def test_training_reaches_every_parameter_and_every_statistic(label):
    model, variables, images = made(label)
    rngs = {"gumbel": jax.random.key(3)}

    @jax.jit
    def grad(params):
        def loss(params):
            given = {**variables, "params": params}
            out, changed = model.apply(given, images, train=True, mutable=["batch_stats"], rngs=rngs)
            parts = (out.tokens, out.prefix, out.pooled, *out.heads.values())
            return sum((part**2).sum() for part in parts), (out.tokens, changed)

        return jax.grad(loss, has_aux=True)(params)

    grads, (tokens, changed) = jax.device_get(grad(variables["params"]))
    for path, leaf in flatten_dict(grads, sep=".").items():
        assert np.isfinite(leaf).all(), path
        # What is added to every key alike changes no softmax.
        assert np.abs(leaf).max() > 0 or path.endswith(("proj_k.bias", "conv_proj_k.bn.bias")), path
    assert ("batch_stats" in variables) == ("batch_stats" in changed)
    if "batch_stats" in variables:
        assert np.abs(tokens - run(model, variables, images).tokens).max() > 1e-3
        before = flatten_dict(jax.device_get(variables["batch_stats"]), sep=".")
        for path, leaf in flatten_dict(changed["batch_stats"], sep=".").items():
            assert np.abs(leaf - before[path]).min() > 0, path
        with pytest.raises(ValueError, match="mutable"):
            jax.eval_shape(functools.partial(model.apply, train=True), variables, images)


def test_stopping_after_a_block_equals_a_model_that_ends_there(label):
    family, (model, variables, images) = FAMILIES[label], made(label)
    for block, fields in family.shorter.items():
        early = run(model, variables, images, block=block, return_attention=bool(family.attention))
        shorter = build(family.name, **family.fields | {"num_classes": 0} | fields)
        wanted = flatten_dict(jax.eval_shape(shorter.init, jax.random.key(0), images[:1]))
        given, normed = flatten_dict(variables), True
        for path, leaf in wanted.items():
            if (
                path not in given or given[path].shape != leaf.shape
            ):  # the final norm is the last stage's alone
                assert path[1] == "norm"
                given[path], normed = np.full(leaf.shape, float(path[-1] == "scale"), "f"), False
        whole = run(shorter, unflatten_dict({path: given[path] for path in wanted}), images)
        tokens = np.asarray(early.tokens)
        if not normed:
            tokens = tokens - tokens.mean(axis=-1, keepdims=True)
            tokens = tokens / np.sqrt((tokens**2).mean(axis=-1, keepdims=True) + 1e-5)
        pooled = whole.pooled if normed else early.tokens.mean(axis=1)
        close = 1e-5 if normed else 1e-4
        np.testing.assert_allclose(tokens, whole.tokens, rtol=close, atol=close)
        np.testing.assert_allclose(early.pooled, pooled, rtol=1e-5, atol=1e-5)
        assert early.grid == whole.grid and early.prefix.shape[1] == (family.prefix if normed else 0)
        assert early.logits is None and early.heads == {}
        assert not family.attention or len(early.attention) == block + 1


def test_blocks_count_from_0_or_from_the_end_and_later_ones_are_not_computed(label):
    family, (model, variables, images) = FAMILIES[label], made(label)

    def program(block=None):
        apply = jax.jit(functools.partial(model.apply, block=block))
        return apply.lower(variables, images).as_text()

    def products(program):
        return program.count("stablehlo.dot_general") + program.count("stablehlo.convolution")

    second, last = program(1), program(-1)
    assert second == program(1 - family.depth) and last == program()
    assert products(second) - products(program(0)) == family.products
    assert products(last) - products(second) >= (family.depth - 2) * family.products


def test_another_image_size_gives_what_weights_loaded_for_that_size_give(label):
    family = FAMILIES[label]
    model, variables, _ = made(label, **family.in_file)
    images = np.random.default_rng(7).normal(size=(2, *family.other_size, 3)).astype("f")
    built = build(family.name, **family.fields | {"img_size": family.other_size})
    loaded, report = load_with_report(torch_state(variables), built)
    called, wanted = run(model, variables, images), run(built, loaded, images)
    assert called.grid == wanted.grid == built.grid != model.grid
    np.testing.assert_allclose(called.tokens, wanted.tokens, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(called.pooled, wanted.pooled, rtol=1e-4, atol=1e-4)
    assert report.notes == family.notes


def test_a_file_in_torch_names_gives_the_variables_back(label):
    model, variables, _ = made(label)
    loaded, report = load_with_report(torch_state(variables), model)
    assert report.fits and report.ignored == {}
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_two_devices_give_what_one_gives_with_one_trace(label):
    model, variables, images = made(label)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    traces = []

    @jax.jit
    def forward(variables, images):
        traces.append(images.shape)
        return model.apply(variables, images)

    for _ in range(2):
        out = forward(variables, jax.device_put(images, split))
    assert len(traces) == 1 and out.grid == FAMILIES[label].grid
    np.testing.assert_allclose(out.tokens, run(model, variables, images).tokens, rtol=1e-4, atol=1e-5)


def test_what_a_model_cannot_serve_is_an_error_that_says_what_to_do(label):
    family, (model, variables, images) = FAMILIES[label], made(label)
    depth = family.depth
    blocks = f"{depth} blocks: give 0 to {depth - 1}"
    cases = [({"block": depth}, blocks), ({"block": -depth - 1}, blocks)]
    if label not in DYNAMIC:
        cases += [
            ({"keep_ratio": (0.7,)}, "no predictor"),
            ({"decisions": jnp.ones((BATCH, 1, 4))}, "no predictor"),
        ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(model.apply, **arguments), variables, images)
    for shape, message in [(family.misfit, family.asks), ((3, 32, 32), "colour comes last")]:
        if not shape:
            continue
        given = np.zeros((1, *shape), "f")
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.apply, variables, given)
