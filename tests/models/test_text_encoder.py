"""Class names to classifiers, against the same by hand."""

import jax
import numpy as np
import pytest

from tests.compiled import compiled
from tests.text.towers import NAME, tokenizer_file
from vitjax import build_zero_shot_classifier, load_tokenizer
from vitjax.errors import UserError
from vitjax.models import build
from vitjax.models.from_config import init_variables
from vitjax.models.text_encoder import text_encoder

__all__ = ["tokenizer_file"]
NAMES, TEMPLATES = ["red cat", "dogs/blue_hat", "and"], ["a {}", "a photo of a {}.", "{} on a red cat"]


@pytest.fixture(scope="module")
def towers(tokenizer_file):
    model = build(NAME)
    return model, init_variables(model, 32, 0), load_tokenizer(tokenizer_file, NAME)


def test_a_class_is_the_mean_of_its_prompts_embeddings_of_length_one(towers):
    model, variables, tokenizer = towers
    found = build_zero_shot_classifier(model, variables, tokenizer, NAMES, TEMPLATES)
    words = ["red cat", "blue hat", "and"]
    for i, word in enumerate(words):
        ids, valid = tokenizer([template.format(word) for template in TEMPLATES])
        each = compiled(model.apply)(variables, ids, valid, method="encode_text").embedding
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(found[:, i], mean / np.linalg.norm(mean), atol=1e-5)
    assert found.shape == (16, 3)


def test_scores_of_its_columns_are_those_of_the_model(towers):
    model, variables, tokenizer = towers
    columns = build_zero_shot_classifier(model, variables, tokenizer, ["red", "cat"], ["{}"])
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    ids, valid = tokenizer(["red", "cat"])
    output = jax.jit(model.apply)(variables, images, ids, valid)
    found = compiled(model.apply)(variables, output.embedding, columns.T, method="score")
    np.testing.assert_allclose(found, output.logits, atol=1e-5)


def test_many_texts_go_through_in_batches_of_one_shape(towers, monkeypatch):
    monkeypatch.setattr("vitjax.models.text_encoder._BATCH", 4)
    model, variables, tokenizer = towers
    texts = ["red", "cat", "red cat", "a cat on a red cat", "and"]
    tokens, embeddings, ids, valid = text_encoder(model)(variables, texts, tokenizer)
    whole = compiled(model.apply)(variables, ids, valid, method="encode_text")
    np.testing.assert_allclose(embeddings, whole.embedding, atol=1e-5)
    assert tokens.shape == (5, 12, 16) and len(ids) == len(valid) == 5
    ends = valid.sum(axis=1) - 1  # the end token is the pooled one, and is projected alike
    np.testing.assert_allclose(tokens[np.arange(5), ends], embeddings, atol=1e-5)


def test_a_model_without_a_text_tower_is_refused(towers):
    with pytest.raises(UserError, match="no text tower"):
        build_zero_shot_classifier(build("vit_tiny_patch16_224"), {}, towers[2], ["cat"])
