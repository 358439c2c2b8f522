"""Images: safe reading, the weights' own preprocessing, sources, and batches decoded in threads.

Names are loaded when they are first used: the configs read what datasets there are, and load no reader.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitjax.data.eval_loader import Batch, Batches, Skipped, batches
    from vitjax.data.images import ImageError, read_image
    from vitjax.data.sources.base import (
        FolderSource,
        ImageSource,
        ListSource,
        SourceTail,
        align_labels,
        fingerprint,
    )
    from vitjax.data.sources.folders import list_images
    from vitjax.data.sources.open import SOURCES, open_source
    from vitjax.data.sources.spec import DataSpec
    from vitjax.data.transforms import Preprocess, preprocess

__all__ = [
    "SOURCES",
    "Batch",
    "Batches",
    "DataSpec",
    "FolderSource",
    "ImageError",
    "ImageSource",
    "ListSource",
    "Preprocess",
    "Skipped",
    "SourceTail",
    "align_labels",
    "batches",
    "fingerprint",
    "list_images",
    "open_source",
    "preprocess",
    "read_image",
]
_HOME = {
    "eval_loader": ("Batch", "Batches", "Skipped", "batches"),
    "images": ("ImageError", "read_image"),
    "sources.base": (
        "FolderSource", "ImageSource", "ListSource", "SourceTail", "align_labels", "fingerprint",
    ),
    "sources.folders": ("list_images",),
    "sources.open": ("SOURCES", "open_source"),
    "sources.spec": ("DataSpec",),
    "transforms": ("Preprocess", "preprocess"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"vitjax.data.{module}"), name)
    raise AttributeError(f"module 'vitjax.data' has no attribute {name!r}")
