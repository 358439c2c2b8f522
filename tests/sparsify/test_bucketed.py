"""Images in groups of like size."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.models.family import run as run_model
from tests.models.test_token_pruning import IMAGES, undecided
from vitjax.sparsify import bucketed


def keeper(calls: list):
    """A model that wants to keep image[0] of ten tokens, and has room for a share of them."""

    def run(images, ratio):
        calls.append((ratio, len(images)))
        wish = np.arange(10)[None] < images[:, :1]
        scores = np.stack([np.where(wish, 0.0, -1.0), np.full(wish.shape, -0.5)], axis=-1)
        overflow = np.maximum(images[:, 0] - int(10 * ratio), 0)
        return {"overflow": overflow, "scores": scores, "image": images}

    return run


def test_every_image_ends_where_it_has_room_and_none_is_run_in_vain():
    images = np.array([[2], [9], [5], [7], [3]])
    calls = []
    found = bucketed(keeper(calls), images, (0.3, 0.5, 0.7, 1.0), batch_size=2)
    assert [(b.ratio, b.rows.tolist()) for b in found] == [(0.3, [0, 4]), (0.5, [2]), (0.7, [3]), (1.0, [1])]
    for bucket in found:
        np.testing.assert_array_equal(bucket.output["image"], images[bucket.rows])
        assert not bucket.output["overflow"].any()
    assert [ratio for ratio, _ in calls] == [0.3, 0.3, 0.3, 0.5, 0.7, 1.0]
    assert {count for _, count in calls} == {2}


@pytest.mark.parametrize("ratios", [(), (0.5,), (0.7, 0.5, 1.0), (0.5, 0.5, 1.0), (0.0, 1.0)])
def test_ratios_that_leave_images_without_room_are_refused(ratios):
    with pytest.raises(ValueError, match="the last 1"):
        bucketed(keeper([]), np.ones((1, 1)), ratios, batch_size=1)


def test_a_model_s_buckets_are_the_masked_model():
    model, variables = undecided("dynamicvit_deit_small_patch16_224")
    own = model.clone(reducer=replace(model.reducer, budget="own"))

    @functools.partial(jax.jit, static_argnums=1)
    def run(images, ratio):
        out = own.apply(variables, images, keep_ratio=ratio)
        parts = {"overflow": out.overflow, "decisions": out.decisions, "logits": out.logits}
        return parts | {"scores": out.scores[0]}

    found = bucketed(run, IMAGES, (0.7, 0.85, 1.0), batch_size=2)
    assert sorted(np.concatenate([bucket.rows for bucket in found])) == [0, 1, 2]
    free = run(IMAGES, 1.0)
    masked = run_model(model, variables, IMAGES, decisions=free["decisions"])
    for bucket in found:
        np.testing.assert_array_equal(bucket.output["decisions"], free["decisions"][bucket.rows])
        np.testing.assert_allclose(bucket.output["logits"], masked.logits[bucket.rows], rtol=1e-5, atol=1e-5)
