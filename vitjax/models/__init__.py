"""Backbones by name."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp

from vitjax.errors import UserError
from vitjax.models.convnext import ConvNeXt
from vitjax.models.cvt import CvT
from vitjax.models.lvvit import LVViT
from vitjax.models.outputs import BackboneOutput, TextOutput
from vitjax.models.resnet import ResNet
from vitjax.models.swin import SwinTransformer
from vitjax.models.text_transformer import TextTransformer
from vitjax.models.two_towers import SHARED, TwoTowers
from vitjax.models.vit import VisionTransformer
from vitjax.pretrained import MODELS, list_models, pretrained_source
from vitjax.sparsify.reducers import make_reducer

__all__ = [
    "BackboneOutput",
    "TextOutput",
    "TwoTowers",
    "VisionTransformer",
    "build",
    "list_models",
    "pretrained_source",
]

_MODULES: dict[str, type[nn.Module]] = {
    module.__name__: module
    for module in (
        ConvNeXt,
        CvT,
        LVViT,
        ResNet,
        SwinTransformer,
        TextTransformer,
        TwoTowers,
        VisionTransformer,
    )
}
# Fields of a reducer in flat form, which `build` takes; "pruning_loc" is DynamicViT's name of its blocks.
_REDUCTION = ("reduce", "pruning_loc", "keep_ratio", "r", "round_to", "budget")


def build(name: str, **overrides: Any) -> nn.Module:
    """Returns the backbone of that name, timm's or one of your own in `MODELS`, without weights.

    Args:
        name: see `list_models`.
        overrides: fields of the module in timm's names (`img_size`, `num_classes`, `depth`, ...); lists
            serve as tuples, `img_size` is a side or (height, width) in pixels. `reduce` is a name of
            `vitjax.sparsify.REDUCERS`, with `keep_ratio`, `r`, `pruning_loc`, `round_to` and `budget` as far
            as they concern it, or a `Reducer` of your own. Of a model with two towers they are those of the
            image tower; `dtype`, `remat`, `scan_layers` and `attention` are of both, and `text` has those of
            the text tower: `text={"depth": 6}`.

    Returns:
        A linen module: `module.init(key, images)`, `module.apply(variables, images)`.

    Raises:
        ValueError: unknown name, unknown field, or values that do not go together.

    >>> build("vit_small_patch14_dinov2", img_size=224).grid
    (16, 16)
    """
    if not isinstance(name, str):
        raise UserError(f"model is {name!r}; give a name, as list_models() has them.")
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.0)
        raise UserError(
            f"model {name!r} is unknown; nearest: {', '.join(map(repr, near))} (list_models() lists all)."
        )
    card = MODELS[name]
    module = _MODULES[card.module] if isinstance(card.module, str) else card.module
    if issubclass(module, TwoTowers):
        return _build_towers(name, module, card.fields, overrides)
    return _build(name, module, card.fields, overrides)


def _build_towers(
    name: str, module: type[TwoTowers], card: Mapping[str, Any], overrides: Mapping[str, Any]
) -> TwoTowers:
    """The module of two towers, each with its part of the fields."""
    own = {name: value for name, value in card.items() if name not in ("image", "text")}
    own |= {
        key: value for key, value in overrides.items() if key in ("projection_dim", "sigmoid", "temperature")
    }
    image = {key: value for key, value in overrides.items() if key not in (*own, "image", "text")}
    text = {key: value for key, value in image.items() if key in SHARED} | dict(overrides.get("text", {}))
    return module(
        image=cast(Any, _build(name, VisionTransformer, card["image"], image)),
        text=cast(Any, _build(f"{name}'s text tower", TextTransformer, card["text"], text)),
        **own,
    )


def _build(
    name: str, module: type[nn.Module], card: Mapping[str, Any], overrides: Mapping[str, Any]
) -> nn.Module:
    """The module with its fields, checked."""
    known = [f.name for f in dataclasses.fields(cast(Any, module)) if f.name not in ("parent", "name")]
    if "reducer" in known:
        known += _REDUCTION
    unknown = sorted(set(overrides) - set(known))
    if "pretrained" in unknown:
        raise UserError(
            "build makes a model without weights; vitjax.load_weights(source, model) loads them, from a file "
            "or from where vitjax.models.pretrained_source(name) says they are published."
        )
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}? Its" if near else "its"
        raise UserError(
            f"model {name!r} has no field {', '.join(map(repr, unknown))}; {hint} fields: {', '.join(known)}."
        )
    fields = dict(card) | {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    size = fields.get("img_size", 224)
    if not all(isinstance(x, int) for x in (size if isinstance(size, tuple) and len(size) == 2 else (size,))):
        raise UserError(
            f"model {name!r}: img_size is {size!r}; give a side or (height, width), in whole pixels."
        )
    try:
        fields["dtype"] = jnp.dtype(fields.get("dtype", "float32")).name
    except TypeError as error:
        raise UserError(
            f"model {name!r}: dtype {fields['dtype']!r} is neither 'float32' nor 'bfloat16'."
        ) from error
    model = module(**_with_reducer(fields) if "reducer" in known else fields)
    wrong = model.field_errors() if hasattr(model, "field_errors") else []
    if fields["dtype"] not in ("float32", "bfloat16"):
        wrong.append(f"dtype {fields['dtype']!r} is neither 'float32' nor 'bfloat16'")
    if fields.get("attention", "xla") not in ("xla", "cudnn"):
        wrong.append(f"attention {fields['attention']!r} is neither 'xla' nor 'cudnn'")
    classes = fields.get("num_classes", 0)
    if not isinstance(classes, int) or classes < 0:
        wrong.append(f"num_classes is {classes!r}; give 0 for no classifier, or more")
    if wrong:
        raise UserError(f"model {name!r}: {'; '.join(wrong)}.")
    return model


def _with_reducer(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields in which `reduce` and what belongs to it have become the object that reduces tokens."""
    flat = {name: fields[name] for name in _REDUCTION if name in fields}
    rest = {name: value for name, value in fields.items() if name not in flat}
    reduce = flat.pop("reduce", "")
    if "pruning_loc" in flat:
        flat["blocks"] = flat.pop("pruning_loc")
    if isinstance(reduce, str):
        return rest if not reduce else rest | {"reducer": make_reducer(reduce, **flat)}
    own = {name: value for name, value in flat.items() if hasattr(reduce, name)}  # a config's keep ratio
    return rest | {"reducer": dataclasses.replace(reduce, **own) if own else reduce}
