import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.kept_tokens import KeptTokens, whose_rollout_is
from benchmarks.searched import searched
from tests.photos import write_folder
from vitjax.config import EvalConfig, ModelConfig
from vitjax.data.sources.base import FolderSource
from vitjax.ot import attention_rollout
from vitjax.reranker import Reranker

MODEL = ModelConfig(name="vit_tiny_patch16_224", img_size=64, depth=2, block=1, center="position")


def test_the_rollout_of_a_made_attention_is_the_weights_it_was_made_of():
    weights = jax.random.dirichlet(jax.random.key(0), np.ones(9), (2,))
    np.testing.assert_allclose(
        attention_rollout([whose_rollout_is(weights)], grid=(3, 3)), weights, atol=1e-6
    )


@pytest.mark.parametrize("fields", [{"grid": 2}, {"tokens": 5, "aggregate": "attention"}])
def test_kept_tokens_give_the_descriptors_of_the_model(tmp_path, fields):
    folder = write_folder(tmp_path / "images", kinds=2, variants=2)
    model = dataclasses.replace(MODEL, **fields)
    config = EvalConfig(model=model, batch_size=4)
    kept = KeptTokens(config, tmp_path / "kept")
    want, rows, _ = Reranker.from_config(config, keep_measured=False).describe(FolderSource(folder))
    for _ in range(2):  # passed through the model, then read
        found, seen = kept.describe(FolderSource(folder), model)
        np.testing.assert_array_equal(seen, rows)
        np.testing.assert_allclose(found.pooled, want.pooled, atol=1e-5)
        np.testing.assert_allclose(found.tokens, want.tokens, atol=5e-3)  # kept in float16
        np.testing.assert_allclose(found.weights, want.weights, atol=1e-5)
    ours = searched(Reranker.from_config(config), folder, kept=kept)
    np.testing.assert_array_equal(ours.gallery.tokens, found.tokens)


def test_a_config_whose_tokens_are_not_averaged_after_the_model_is_refused(tmp_path):
    config = EvalConfig(model=dataclasses.replace(MODEL, center="subspace"))
    with pytest.raises(SystemExit, match="--cache needs"):
        KeptTokens(config, tmp_path)
