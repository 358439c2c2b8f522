"""Backbones by name."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp

from vitjax.errors import UserError
from vitjax.models import cvt, lvvit, resnet, swin, vit
from vitjax.models.cvt import CVT, CvT
from vitjax.models.lvvit import LVVIT, LVViT
from vitjax.models.outputs import BackboneOutput
from vitjax.models.resnet import RESNET, ResNet
from vitjax.models.swin import SWIN, SwinTransformer
from vitjax.models.vit import VIT, VisionTransformer
from vitjax.sparsify.reducers import make_reducer

__all__ = ["BackboneOutput", "VisionTransformer", "build", "list_models", "pretrained_source"]

# name: (module class, its fields that differ from the defaults, weights, what of its fields does not fit).
# One line per family; its table lies in the family's file. Weights are the tag of timm's repository on the
# hub, a whole source where it holds a colon, or "" where none is known.
_FAMILIES: tuple[tuple[type[nn.Module], dict[str, tuple[dict[str, Any], str]], Callable], ...] = (
    (VisionTransformer, VIT, vit.mistakes),
    (SwinTransformer, SWIN, swin.mistakes),
    (CvT, CVT, cvt.mistakes),
    (LVViT, LVVIT, lvvit.mistakes),
    (ResNet, RESNET, resnet.mistakes),
)
# Fields of a reducer in flat form, which `build` takes; "pruning_loc" is DynamicViT's name of its blocks.
_REDUCTION = ("reduce", "pruning_loc", "keep_ratio", "r", "round_to", "budget")
_MODELS: dict[str, tuple[type[nn.Module], dict[str, Any], str, Callable[[Any], list[str]]]] = {
    name: (module, fields, weights, mistakes)
    for module, table, mistakes in _FAMILIES
    for name, (fields, weights) in table.items()
}


def build(name: str, **overrides: Any) -> nn.Module:
    """Returns the backbone that timm calls `name`, without weights.

    Args:
        name: see `list_models`.
        overrides: fields of the module in timm's names (`img_size`, `num_classes`, `depth`, ...); lists
            serve as tuples, `img_size` is a side or (height, width) in pixels. `reduce` is a name of
            `vitjax.sparsify.REDUCERS`, with `keep_ratio`, `r`, `pruning_loc`, `round_to` and `budget` as far
            as they concern it, or a `Reducer` of your own.

    Returns:
        A linen module: `module.init(key, images)`, `module.apply(variables, images)`.

    Raises:
        ValueError: unknown name, unknown field, or values that do not go together.

    >>> build("vit_small_patch14_dinov2", img_size=224).grid
    (16, 16)
    """
    if not isinstance(name, str):
        raise UserError(f"model is {name!r}; give a name, as list_models() has them.")
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.0)
        raise UserError(
            f"model {name!r} is unknown; nearest: {', '.join(map(repr, near))} (list_models() lists all)."
        )
    module, fields, _, mistakes = _MODELS[name]
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
    fields = fields | {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
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
    wrong = mistakes(model)
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
    return rest | {"reducer": reduce}


def list_models(
    filter: str | Sequence[str] = "",
    *,
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] = (),
) -> list[str]:
    """Names that `build` knows, sorted.

    Args:
        filter: wildcard, or several of which one must match; empty = all.
        pretrained: only names whose weights are known on the Hugging Face hub (`pretrained_source`).
        exclude_filters: wildcard, or several of which none may match.

    >>> list_models("deit_*", exclude_filters="*distilled*")[-1]
    'deit_tiny_patch16_224'
    """
    wanted = [filter] if isinstance(filter, str) else list(filter)
    unwanted = [exclude_filters] if isinstance(exclude_filters, str) else list(exclude_filters)
    wanted = [w for w in wanted if w] or ["*"]
    return sorted(
        name
        for name, (_, _, weights, _) in _MODELS.items()
        if any(fnmatch.fnmatchcase(name, w) for w in wanted)
        and not any(fnmatch.fnmatchcase(name, u) for u in unwanted if u)
        and (weights or not pretrained)
    )


def pretrained_source(name: str) -> str:
    """Where published weights for a model are, as `load_weights` takes it.

    Raises:
        ValueError: unknown name, or no known weights.

    >>> pretrained_source("deit_small_patch16_224")
    'hf:timm/deit_small_patch16_224.fb_in1k'
    """
    weights = _MODELS[name][2] if name in _MODELS else ""
    if not weights:
        raise UserError(f"no weights of model {name!r} are known; list_models(pretrained=True) lists those.")
    return weights if ":" in weights else f"hf:timm/{name}.{weights}"
