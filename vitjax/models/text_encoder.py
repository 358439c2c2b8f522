"""Texts through a text tower: embeddings, and classifiers made of class names."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.errors import UserError
from vitjax.text import PHOTO, Tokenizer, prompts

_BATCH = 64


class EncodedTexts(NamedTuple):
    """Texts in the joint space of images and texts, on the host.

    Attributes:
        tokens: (n, l, d), each token of the text tower projected as the pooled one is.
        embeddings: (n, d), of the texts.
        ids: (n, l), as the tokenizer gave them.
        valid: (n, l), False for padding.
    """

    tokens: Float[np.ndarray, "n l d"]
    embeddings: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, "n l"]
    valid: Bool[np.ndarray, "n l"]


TextEncoder = Callable[[Any, Sequence[str], Tokenizer], EncodedTexts]


def has_text_tower(model: Any) -> bool:
    """Whether a model encodes texts beside images."""
    return hasattr(model, "encode_text")


def text_encoder(model: Any) -> TextEncoder:
    """Returns the function of variables, texts and tokenizer that encodes texts in batches of one shape.

    Raises:
        ValueError: a model without a text tower.
    """
    if not has_text_tower(model):
        raise UserError(
            f"{type(model).__name__} has no text tower, so it knows images only; use a model with two "
            "towers, such as 'siglip2_base_patch16_256'"
        )

    def towers(module: Any, ids: Any, valid: Any) -> tuple[Any, Any]:
        output = module.encode_text(ids, valid)
        return module.project_words(output.tokens), output.embedding

    @jax.jit
    def encode(variables: Any, ids: Any, valid: Any) -> tuple[Any, Any]:
        return model.apply(variables, ids, valid, method=towers)

    def run(variables: Any, texts: Sequence[str], tokenizer: Tokenizer) -> EncodedTexts:
        ids, valid = tokenizer(texts)
        size = min(_BATCH, 1 << (max(len(ids), 1) - 1).bit_length())
        spare = -len(ids) % size
        rows = [np.concatenate([x, np.repeat(x[:1], spare, axis=0)]) for x in (ids, valid)]
        parts = [
            jax.device_get(encode(variables, *(x[i : i + size] for x in rows)))
            for i in range(0, len(rows[0]), size)
        ]
        tokens, embeddings = (np.concatenate(x)[: len(ids)] for x in zip(*parts, strict=True))
        return EncodedTexts(tokens, embeddings, ids, valid)

    return run


def build_zero_shot_classifier(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str] = PHOTO,
) -> Float[np.ndarray, "d classes"]:
    """Classifier of class names: cosines of an image's embedding with its columns say which name fits.

    Each column is the mean over the templates of the prompts' embeddings of length 1, and has length 1.

    Source: Radford et al. 2021, CLIP (arXiv:2103.00020), section 3.1.4; the name is open_clip's.

    Args:
        model: with two towers.
        variables: its weights.
        tokenizer: the model's, see `vitjax.load_tokenizer`.
        names: of the classes.
        templates: each holds {} where the name goes.

    Returns:
        (d, classes), float32; `embedding / length @ classifier` are cosines, which `model.score` scales.

    Raises:
        ValueError: a model without a text tower, no names, or templates without {}.
    """
    each = prompts(names, templates)
    found = text_encoder(model)(variables, [text for texts in each for text in texts], tokenizer)
    unit = _unit(found.embeddings).reshape(len(each), len(templates), -1)
    return _unit(unit.mean(axis=1)).T


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
