"""Text queries: read from a file, described word by word, and shown as cards of their words."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax.config import EvalConfig
from vitjax.errors import UserError
from vitjax.evaluation.described_images import DescribedImages, TextSource
from vitjax.reranker import Reranker
from vitjax.system.files import parse_collection, read_text


def read_text_queries(path: str | os.PathLike[str]) -> dict[str, list[str]] | list[str]:
    """Reads texts to search by, with the images that are relevant to each where the file says so.

    Args:
        path: JSON, `{"red dress": ["a.jpg", "b.jpg"]}` or `["red dress", "blue hat"]`; or lines of a text, or
            of a text, a tab and one relevant image, a text in as many lines as it has relevant images.

    Raises:
        ValueError: not such a file; one line says what to do.
    """
    name = os.fspath(path)
    text = read_text(path)
    data: Any = _json(name, text) if name.lower().endswith(".json") else _lines(text)
    wrong = [entry for entry in data if not isinstance(entry, str) or not entry.strip()]
    if wrong or not data:
        raise UserError(f"text queries {name}: {wrong[0] if wrong else 'nothing'!r} is no text to search by")
    if isinstance(data, dict):
        for entry, images in data.items():
            if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
                raise UserError(
                    f"text queries {name}: {entry!r}: {images!r} is no list of names of gallery images"
                )
    elif len(set(data)) < len(data):
        raise UserError(f"text queries {name}: a text comes twice; give each once")
    return data


def _json(name: str, text: str) -> Any:
    expected = 'JSON like {"red dress": ["a.jpg"]}, text -> relevant images, or a list of texts'
    return parse_collection(text, f"text queries {name}", expected)


def _lines(text: str) -> dict[str, list[str]] | list[str]:
    parts = [line.split("\t", 1) for line in text.split("\n") if line.strip()]
    if not any(len(part) == 2 for part in parts):
        return [part[0].strip() for part in parts]
    found: dict[str, list[str]] = {}
    for query, *image in parts:
        found.setdefault(query.strip(), []).extend(name.strip() for name in image)
    return found


def describe_text_queries(reranker: Reranker, config: EvalConfig) -> DescribedImages:
    """Reads and describes the texts of `config.data.text_queries`."""
    data = read_text_queries(config.data.text_queries)
    texts = list(data)
    descriptors, words = reranker.describe_texts(texts)
    relevant = data if isinstance(data, Mapping) else None
    source = TextSource(texts, words, relevant)
    return DescribedImages(source, descriptors, np.arange(len(texts)), [], len(texts))
