import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import on_host
from tests.models.family import filled, run, torch_state
from vitjax.models import build
from vitjax.training.optim import is_new, part_of
from vitjax.weights import load_with_report

TINY = {
    "img_size": (64, 96), "depths": (1, 1, 4, 1), "dims": (4, 6, 12, 8), "kernel_size": 3, "num_classes": 5,
    "pruning_loc": (1, 2, 3),
}  # fmt: skip
CELLS = 24
IMAGES = np.random.default_rng(1).normal(size=(3, 64, 96, 3)).astype("f")


@pytest.fixture(scope="module")
def made():
    model = build("dynamic_convnext_tiny", **TINY)
    variables = filled(model, IMAGES)
    return model, variables, run(model, variables, IMAGES)


def _grad(model, variables, raw):
    def total(raw):
        out = model.apply(variables, IMAGES, train=True, decisions=raw)
        return jnp.square(out.logits).sum(), out

    return on_host(jax.jit(jax.grad(total, has_aux=True))(raw))


def test_training_and_evaluation_are_the_same_function_of_the_decisions(made):
    model, variables, out = made
    assert [i.shape[1] for i in out.keep_index] == [16, 12, 7]
    assert model.grids == [(16, 24), (8, 12), (4, 6), (2, 3)] and model.grid == out.grid == (2, 3)
    grad, masked = _grad(model, variables, out.decisions)
    np.testing.assert_allclose(out.logits, masked.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.tokens, masked.tokens, rtol=1e-5, atol=1e-5)
    for stage in range(3):
        np.testing.assert_allclose(out.scores[stage], masked.scores[stage], rtol=1e-5, atol=1e-5)
        given = np.abs(grad[:, stage])[np.asarray(out.decisions[:, stage]) == 0]
        assert (given > 0).mean() > 0.9, "positions on the fast path tell what the slow one would change"
    assert (np.diff(out.decisions, axis=1) > 0).any(), "a position may come back"
    _, ones = _grad(model, variables, np.ones((3, 3, CELLS), "f"))
    plain = run(model.clone(pruning_loc=()), variables, IMAGES)
    np.testing.assert_allclose(ones.logits, plain.logits, rtol=1e-5, atol=1e-5)
    assert np.abs(ones.logits - out.logits).max() > 1e-3


def test_all_positions_on_the_slow_path_are_the_plain_model_and_need_no_fast_one(made):
    model, variables, _ = made
    dynamic = run(model, variables, IMAGES, keep_ratio=(1.0, 1.0, 1.0))
    plain = run(model.clone(pruning_loc=()), variables, IMAGES)
    np.testing.assert_allclose(dynamic.logits, plain.logits, rtol=1e-6, atol=1e-6)
    whole = model.clone(keep_ratio=(1.0, 1.0, 1.0))
    shapes = jax.eval_shape(whole.init, jax.random.key(0), IMAGES[:1])
    assert jax.tree.structure(shapes) == jax.tree.structure(dict(variables))


def test_of_a_plain_models_weights_only_predictors_and_fast_paths_are_missing(made):
    model, _, _ = made
    plain = model.clone(pruning_loc=())
    state = torch_state(filled(plain, IMAGES))
    loaded, report = load_with_report(state, model, strict=False)
    assert not report.unexpected and report.missing and all(is_new(m.name) for m in report.missing)
    parts = jax.tree_util.tree_map_with_path(lambda path, _: part_of(path), loaded["params"])
    assert jax.tree.leaves(parts).count("new") == len(report.missing) == 3 * 10 + 3 * 5


@pytest.mark.parametrize("compat", [None, "released"])
def test_all_positions_on_the_fast_path_are_finite_forward_and_backward(made, compat):
    model, variables, _ = made
    grad, out = _grad(model.clone(compat=compat), variables, np.zeros((3, 3, CELLS), "f"))
    assert np.isfinite(grad).all() and np.isfinite(out.logits).all()


def test_what_cannot_be_done_is_said_in_one_line(made):
    model, variables, _ = made

    def call(**arguments):
        jax.eval_shape(functools.partial(model.apply, **arguments), variables, IMAGES)

    with pytest.raises(ValueError, match=r"rngs=\{'gumbel'"):
        call(train=True)
    with pytest.raises(ValueError, match=r"decisions have shape \(3, 3, 5\)"):
        call(decisions=jnp.ones((3, 3, 5)))
    with pytest.raises(ValueError, match="keep_ratio is"):
        call(keep_ratio=0.4)  # 0.4, 0.2 and nothing
    for fields, words in [
        ({"pruning_loc": (1, 4)}, "third stage of 4"),
        ({"compat": "paper"}, "compat 'paper'"),
        ({"keep_ratio": 0.3}, "keep_ratio is"),
        ({"scan_layers": True}, "pruning_loc makes them differ"),
    ]:
        with pytest.raises(ValueError, match=words):
            build("dynamic_convnext_tiny", **TINY | fields)
