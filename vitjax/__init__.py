"""Vision transformers whose patch tokens do work: rerank image searches by optimal transport.

Names are loaded when they are first used: importing the package does no work.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vitjax import _moved

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vitjax import ot as ot
    from vitjax import retrieval as retrieval
    from vitjax.config import DEMO_WEIGHTS as DEMO_WEIGHTS
    from vitjax.config import EvalConfig as EvalConfig
    from vitjax.config import RerankConfig as RerankConfig
    from vitjax.config import demo_config as demo_config
    from vitjax.data.transforms import Preprocess as Preprocess
    from vitjax.data.transforms import preprocess as preprocess
    from vitjax.models import build as build
    from vitjax.models.text_encoder import build_zero_shot_classifier as build_zero_shot_classifier
    from vitjax.pretrained import list_models as list_models
    from vitjax.reranker import Reranker as Reranker
    from vitjax.reranker import similarity as similarity
    from vitjax.text import Text as Text
    from vitjax.text import load_tokenizer as load_tokenizer
    from vitjax.weights import load_weights as load_weights

_HOME = {
    "DEMO_WEIGHTS": "vitjax.config",
    "EvalConfig": "vitjax.config",
    "RerankConfig": "vitjax.config",
    "demo_config": "vitjax.config",
    "Preprocess": "vitjax.data.transforms",
    "preprocess": "vitjax.data.transforms",
    "build": "vitjax.models",
    "build_zero_shot_classifier": "vitjax.models.text_encoder",
    "list_models": "vitjax.pretrained",
    "Reranker": "vitjax.reranker",
    "similarity": "vitjax.reranker",
    "Text": "vitjax.text",
    "load_tokenizer": "vitjax.text",
    "load_weights": "vitjax.weights",
}
_PACKAGES = (
    "config", "data", "indexing", "models", "ot", "retrieval", "sparsify", "text", "training", "viz",
    "weights",
)  # fmt: skip

__all__ = [
    "DEMO_WEIGHTS",
    "EvalConfig",
    "Preprocess",
    "RerankConfig",
    "Reranker",
    "Text",
    "__version__",
    "build",
    "build_zero_shot_classifier",
    "demo_config",
    "list_models",
    "load_tokenizer",
    "load_weights",
    "ot",
    "preprocess",
    "retrieval",
    "similarity",
]

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"vitjax.{name}")
    raise AttributeError(f"module 'vitjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
