"""Images: safe reading, the weights' own preprocessing, sources, and batches decoded in threads."""

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
from vitjax.data.transforms import Preprocess, preprocess

__all__ = [
    "Batch",
    "Batches",
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
    "preprocess",
    "read_image",
]
