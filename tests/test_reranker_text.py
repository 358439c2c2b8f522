"""Texts as queries of a Reranker."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

import vitjax
from tests.photos import image
from tests.text import towers
from tests.text.towers import tokenizer_file
from vitjax.errors import ImageError, UserError

__all__ = ["tokenizer_file"]


@pytest.fixture(scope="module")
def reranker(tokenizer_file) -> vitjax.Reranker:
    return vitjax.Reranker.from_config(towers.config(tokenizer_file))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [image(kind, 0) for kind in range(4)]


def test_a_text_ranks_images_by_the_models_own_cosines(reranker, images):
    hits = reranker.rank(vitjax.Text("a red cat"), images, return_matches=True)
    model, tokenizer = reranker.model, reranker.tokenizer
    pixels = np.stack([reranker.preprocess(Image.fromarray(each)) for each in images])
    output = jax.jit(model.apply)(reranker.variables, pixels, *tokenizer(["a red cat"]))
    cosines = np.asarray(output.logits)[:, 0] * np.exp(
        -np.asarray(reranker.variables["params"]["logit_scale"])
    )
    for hit in hits:
        assert hit.pooled == pytest.approx(cosines[hit.corpus_id], abs=1e-5)
        assert hit.matches and all(match.query_patch < 3 for match in hit.matches)
        assert all(0 <= match.candidate_patch < 16 for match in hit.matches)


def test_words_are_compared_with_projected_patches(reranker, images):
    described, *_ = reranker.describe(images)
    words, names = reranker.describe_texts(["a red cat", vitjax.Text("cat")])
    assert names == [["a", "red", "cat"], ["cat"]]
    assert described.sizes[1:] == (16, 16, 16) and words.sizes.length == 16
    model = reranker.model
    pixels = np.stack([reranker.preprocess(Image.fromarray(each)) for each in images])

    def project(module, images):
        return module.project_tokens(module.encode_image(images).tokens)

    apply = jax.jit(functools.partial(model.apply, method=project))
    tokens = np.asarray(apply(reranker.variables, pixels))
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    np.testing.assert_allclose(described.tokens, unit, atol=1e-5)


def test_a_plain_string_is_a_path_and_never_a_question(reranker, images):
    with pytest.raises(ImageError, match="a red cat"):
        reranker.rank("a red cat", images)


def test_texts_need_the_joint_space_and_a_text_tower(tokenizer_file, images):
    own = vitjax.Reranker.from_config(towers.config(tokenizer_file, "model"))
    with pytest.raises(UserError, match="use space 'joint'"):
        own.rank(vitjax.Text("a red cat"), images)
    plain = towers.config("", "model")
    plain.model.name, plain.model.img_size, plain.model.depth = "vit_tiny_patch16_224", 32, 1
    with pytest.raises(UserError, match="has no text tower"):
        vitjax.Reranker.from_config(plain).rank(vitjax.Text("a red cat"), images)
    plain.model.space = "joint"
    with pytest.raises(UserError, match="has no text tower; use 'model'"):
        vitjax.Reranker.from_config(plain)
