"""Checks of call arguments that all backbones share."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from vitjax.config import FACETS
from vitjax.errors import UserError


def last_block(block: int | None, depth: int) -> int:
    """Index from 0 of the last block to run; None = all.

    Raises:
        ValueError: there is no such block.
    """
    if block is None:
        return depth - 1
    if not -depth <= block < depth:
        raise UserError(
            f"block is {block}; this model has {depth} blocks: give 0 to {depth - 1}, or {-depth} to -1 "
            "counted from the end."
        )
    return block % depth


def refuse_same_block(model: Any, blocks: Sequence[int]) -> None:
    """Raises where one block of a model is named twice, from the front and from the end for instance."""
    tower = getattr(model, "image", model)
    depth = getattr(tower, "depth", 0) or sum(getattr(tower, "depths", getattr(tower, "layers", ())))
    if depth and len({block % depth for block in blocks}) < len(blocks):
        raise UserError(
            f"block is {', '.join(map(str, blocks))}; this model has {depth} blocks, so one of them is named "
            "twice: name each once.",
            fields=("model.block",),
        )


def refuse_pruning(keep_ratio: object, decisions: object) -> None:
    """Raises where a model that drops no tokens is told to drop some."""
    if keep_ratio is not None or decisions is not None:
        raise UserError(
            "keep_ratio and decisions are for models that drop tokens; this one has no predictor: leave both "
            "None, or build a dynamicvit_* model."
        )


def refuse_attention(return_attention: bool, kind: str) -> None:
    """Raises where a model without attention, "a ResNet" for instance, is asked for it."""
    if return_attention:
        raise UserError(
            f"return_attention: {kind} has none; choose marginals that need no attention, such as "
            "'cross_correlation', or a transformer."
        )


def refuse_facet(model: Any, facet: str) -> None:
    """Raises where a model is asked for a facet that does not exist, or that its stack cannot hand out."""
    if facet not in FACETS:
        raise UserError(f"facet is {facet!r}; it must be one of {', '.join(map(repr, FACETS))}.")
    if facet != "token" and (model.reducer is not None or model.scan_layers):
        raise UserError(
            f"facet {facet!r} needs a model with all its tokens and separate blocks: build it without reduce "
            "and scan_layers, or use 'token'."
        )


def check_colour_last(images: Array) -> None:
    """Raises where images are not (batch, height, width, 3) numbers that were normalised."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"images are {images.dtype}; models take normalised float images: see vitjax.preprocess."
        )
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"images have shape {images.shape}; expected (batch, height, width, 3): colour comes last."
        )


def patch_grid(images: Array, patch_size: int, *, drop_edge: bool = False) -> tuple[int, int]:
    """Rows and columns of patches of the images.

    Args:
        images: (b, h, w, 3), normalised.
        patch_size: side of a patch, pixels.
        drop_edge: pixels right and below may be left over.

    Raises:
        ValueError: colour is not last, or a side is no multiple of the patch.
    """
    check_colour_last(images)
    height, width = images.shape[1:3]
    uneven = (height % patch_size or width % patch_size) and not drop_edge
    if height < patch_size or width < patch_size or uneven:
        down, across = (max(1, side // patch_size) * patch_size for side in (height, width))
        raise UserError(
            f"images are {height}x{width} pixels; both sides must be multiples of patch_size {patch_size}: "
            f"resize them, for example to {down}x{across}."
        )
    return height // patch_size, width // patch_size
