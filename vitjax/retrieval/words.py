"""Descriptors of texts: one vector per word, and the text's embedding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vitjax.errors import UserError
from vitjax.retrieval.descriptors import Descriptors, unit_vectors

_STEP = 8  # words are padded to a multiple of so many: few shapes, few compilations


def describe_words(
    tokens: Float[np.ndarray, "n l d"],
    embeddings: Float[np.ndarray, "n e"],
    words: Sequence[Sequence[tuple[int, int]]],
) -> Descriptors:
    """Makes one row of descriptors of each text, whose tokens are its words.

    A word of several tokens is their mean, each of length 1; all words of a text weigh alike.

    Args:
        tokens: of the text tower, in the space of the gallery's patch tokens.
        embeddings: of the texts, in the space of its pooled vectors.
        words: for each text, from which token up to which each of its words is.

    Raises:
        ValueError: a text without a word.
    """
    empty = [row for row, spans in enumerate(words) if not spans]
    if empty:
        raise UserError(f"text {empty[0]} has no word that the tokenizer knows; give another")
    most = max(map(len, words))
    padded = -(-most // _STEP) * _STEP
    vectors = np.zeros((len(words), padded, tokens.shape[2]), np.float32)
    valid = np.zeros(vectors.shape[:2], bool)
    unit = unit_vectors(tokens)
    for row, spans in enumerate(words):
        for i, (start, stop) in enumerate(spans):
            vectors[row, i] = unit[row, start:stop].mean(axis=0)
            valid[row, i] = True
    return Descriptors.from_arrays(embeddings, vectors, valid=valid)
