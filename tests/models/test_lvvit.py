import jax
import numpy as np
import pytest

from tests.models.family import made, run
from vitjax.models import build


def test_logits_take_half_of_the_best_patch_of_each_class():
    out = run(*made("lvvit"))
    wanted = np.asarray(out.heads["cls"]) + np.asarray(out.heads["aux"]).max(axis=1) / 2
    np.testing.assert_allclose(out.logits, wanted, rtol=1e-6)


def test_without_classes_there_are_no_classifiers():
    model, variables, images = made("lvvit", num_classes=0)
    assert not {"head", "aux_head"} & set(variables["params"])
    out = run(model, variables, images)
    assert out.logits is None and out.heads == {}


def test_a_large_divisor_leaves_the_embedded_tokens():
    model, variables, images = made("lvvit")
    nothing = model.clone(skip_lam=1e9)
    same_norm = run(nothing, variables, images, block=0)
    np.testing.assert_allclose(same_norm.tokens, run(nothing, variables, images).tokens, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            same_norm.tokens, run(model, variables, images).tokens, rtol=1e-2, atol=1e-2
        )


def test_dividing_equals_scaling_the_branches_last_weights():
    model, variables, images = made("lvvit")
    plain = model.clone(skip_lam=1.0)
    halved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf / 2 if {"proj", "fc2"} & {k.key for k in path} and "blocks" in path[1].key else leaf
        ),
        variables,
    )
    np.testing.assert_allclose(
        run(plain, halved, images).tokens, run(model, variables, images).tokens, rtol=1e-5, atol=1e-5
    )


def test_training_returns_statistics_by_torchs_rule():
    model, variables, images = made("lvvit")
    updated = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[1])(
        variables, images
    )
    before, after = (v["batch_stats"]["patch_embed"]["bn1"] for v in (variables, updated))
    kernel = variables["params"]["patch_embed"]["conv1"]["kernel"]
    first = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(3, 3), (3, 3)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    wanted = 0.9 * before["mean"] + 0.1 * first.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(after["mean"], wanted, rtol=1e-5, atol=1e-6)
    wanted = 0.9 * before["var"] + 0.1 * np.asarray(first).var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(after["var"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img_size": 225}, "not a multiple of patch_size"),
        ({"patch_size": 7, "img_size": 224}, "patch_size 7 is not even"),
        ({"num_heads": 5}, "not a multiple of num_heads"),
        ({"skip_lam": 0}, "skip_lam is 0"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build("lvvit_s", **fields)
