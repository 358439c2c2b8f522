"""Which part of a checkpoint a model has: both towers, the image tower, or the text tower."""

from typing import Any

import numpy as np

from vitjax.weights.rename import Renamed

IMAGE, TEXT = "image.", "text."
_OF_TEXT = "of the text tower, which the model lacks"
_OF_IMAGES = "of the image tower, which the model lacks"
_JOINT = "of the joint space of images and texts, which the model lacks"


def has_both(model: Any) -> bool:
    """Whether a model has an image tower and a text tower."""
    return hasattr(model, "image") and hasattr(model, "text")


def take_part(renamed: Renamed, model: Any) -> None:
    """Leaves of a checkpoint what a model has, under the names it has there; the rest is left out, by name.

    A checkpoint of one tower keeps its names in a model that is one, and gets those of the image tower in a
    model of two.
    """
    towered = any(name.startswith((IMAGE, TEXT)) for name in renamed.state)
    if has_both(model):
        if not towered:
            renamed.state = {IMAGE + name: array for name, array in renamed.state.items()}
            renamed.origin = {IMAGE + name: raw for name, raw in renamed.origin.items()}
        if model.temperature is not None and "logit_scale" not in renamed.state:
            renamed.state["logit_scale"] = np.asarray(-np.log(model.temperature))
            renamed.origin["logit_scale"] = "the model's own temperature"
        return
    if not towered:
        return
    own, other, why = (
        (TEXT, IMAGE, _OF_IMAGES) if hasattr(model, "context_length") else (IMAGE, TEXT, _OF_TEXT)
    )
    kept, origin = {}, {}
    for name, array in renamed.state.items():
        raw = renamed.origin[name]
        if name.startswith(own):
            kept[name.removeprefix(own)], origin[name.removeprefix(own)] = array, raw
        else:
            renamed.ignored[raw] = why if name.startswith(other) else _JOINT
    renamed.state, renamed.origin = kept, origin
