"""Words of texts as tokens of descriptors."""

import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.retrieval.words import describe_words


def test_a_word_is_the_mean_of_its_tokens_and_all_words_weigh_alike():
    rng = np.random.default_rng(0)
    tokens, embeddings = rng.normal(size=(2, 6, 4)).astype(np.float32), rng.normal(size=(2, 3))
    found = describe_words(tokens, embeddings.astype(np.float32), [[(1, 2), (2, 5)], [(0, 1)]])
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    mean = unit[0, 2:5].sum(axis=0)
    np.testing.assert_allclose(found.tokens[0, 0], unit[0, 1], atol=1e-6)
    np.testing.assert_allclose(found.tokens[0, 1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(found.tokens[1, 0], unit[1, 0], atol=1e-6)
    assert found.valid.sum(axis=1).tolist() == [2, 1] and not found.tokens[~found.valid].any()
    np.testing.assert_allclose(found.weights[:, :2], [[0.5, 0.5], [1, 0]])
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(found.pooled, embeddings / lengths, atol=1e-6)


def test_a_text_without_words_is_named():
    with pytest.raises(UserError, match="text 1 has no word"):
        describe_words(np.ones((2, 3, 4), np.float32), np.ones((2, 4), np.float32), [[(0, 1)], []])
