import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import on_host
from tests.models.family import run
from vitjax.models import build

TINY = {
    "img_size": 64, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 4, 1),
    "num_heads": (1, 2, 2, 4), "num_classes": 5, "pruning_loc": (1, 2, 3),
}  # fmt: skip
CELLS = 64
IMAGES = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype("f")


@functools.cache
def _made(**fields):
    model = build("dynamicswin_tiny_patch4_window7_224", **TINY | fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])
    chance = np.random.default_rng(0)

    def value(path, leaf):
        return jnp.asarray((path[-1].key == "scale") + 0.2 * chance.normal(size=leaf.shape).astype("f"))

    return model, jax.tree_util.tree_map_with_path(value, shapes)


@functools.cache
def _evaluated(**fields):
    model, variables = _made(**fields)
    return run(model, variables, IMAGES)


def _grad(model, variables, raw):
    def total(raw):
        out = model.apply(variables, IMAGES, train=True, decisions=raw)
        return jnp.square(out.logits).sum(), out

    return on_host(jax.jit(jax.grad(total, has_aux=True))(raw))


@pytest.mark.parametrize("mask_keys", [False, True])
def test_training_and_evaluation_are_the_same_function_of_the_decisions(mask_keys):
    model, variables = _made(mask_keys=mask_keys)
    out = _evaluated(mask_keys=mask_keys)  # at batch 2, which the official code cannot
    assert [i.shape[1] for i in out.keep_index] == [44, 32, 19]
    grad, masked = _grad(model, variables, out.decisions)
    np.testing.assert_allclose(out.logits, masked.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.tokens, masked.tokens, rtol=1e-5, atol=1e-5)
    for stage in range(3):
        np.testing.assert_allclose(out.scores[stage], masked.scores[stage], rtol=1e-5, atol=1e-5)
        given = np.abs(grad[:, stage])[np.asarray(out.decisions[:, stage]) == 0]
        assert (given > 0).mean() > 0.9, "tokens on the fast path tell what the slow one would change"
    assert (np.diff(out.decisions, axis=1) > 0).any(), "a token may come back"


def test_keys_that_are_masked_change_the_result_and_keys_that_are_all_kept_do_not():
    plain, masked = _evaluated(mask_keys=False), _evaluated(mask_keys=True)
    assert np.abs(plain.logits - masked.logits).max() > 1e-3
    model, variables = _made(mask_keys=True)
    _, ones = _grad(model, variables, np.ones((2, 3, CELLS), "f"))
    dense = run(_made()[0], variables, IMAGES, keep_ratio=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(ones.logits, dense.logits, rtol=1e-5, atol=1e-5)


def test_all_tokens_on_the_slow_path_are_the_plain_model():
    model, variables = _made()
    dynamic = run(model, variables, IMAGES, keep_ratio=(1.0, 1.0, 1.0))
    plain = run(model.clone(pruning_loc=()), variables, IMAGES)
    np.testing.assert_allclose(dynamic.logits, plain.logits, rtol=1e-6, atol=1e-6)


def test_all_tokens_on_the_fast_path_are_finite_forward_and_backward():
    grad, out = _grad(*_made(), np.zeros((2, 3, CELLS), "f"))
    assert np.isfinite(grad).all() and np.isfinite(out.logits).all()


def test_sampled_training_has_finite_gradients():
    model, variables = _made()

    def loss(params, rng):
        out = model.apply({"params": params}, IMAGES, train=True, rngs={"gumbel": rng})
        return jnp.square(out.logits).sum()

    grads = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(
        variables["params"], jax.random.split(jax.random.key(0), 8)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_what_cannot_be_done_is_said_in_one_line():
    model, variables = _made()

    def call(**arguments):
        jax.eval_shape(functools.partial(model.apply, **arguments), variables, IMAGES)

    with pytest.raises(ValueError, match=r"rngs=\{'gumbel'"):
        call(train=True)
    with pytest.raises(ValueError, match=r"decisions have shape \(2, 3, 5\)"):
        call(decisions=jnp.ones((2, 3, 5)))
    with pytest.raises(ValueError, match="keep_ratio is"):
        call(keep_ratio=0.4)  # 0.4, 0.2 and nothing
    for fields, words in [
        ({"pruning_loc": (1, 4)}, "third stage of 4"),
        ({"compat": "paper"}, "compat 'paper'"),
        ({"keep_ratio": 0.3}, "keep_ratio is"),
    ]:
        with pytest.raises(ValueError, match=words):
            build("dynamicswin_tiny_patch4_window7_224", **TINY | fields)
