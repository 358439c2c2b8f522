"""Backbones by name."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.models.outputs import BackboneOutput
from vitjax.models.vit import VisionTransformer

__all__ = ["BackboneOutput", "VisionTransformer", "build", "list_models", "pretrained_source"]

_TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_MEDIUM = {"embed_dim": 512, "depth": 12, "num_heads": 8}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_DEIT3 = {"init_values": 1e-6, "no_embed_class": True}
_DINOV2 = {"patch_size": 14, "img_size": 518, "num_classes": 0, "init_values": 1e-5}
_REGISTERS = {"reg_tokens": 4, "no_embed_class": True}

# name: (fields that differ from the module's defaults, tag of timm's weights on the hub)
VIT = {
    "vit_tiny_patch16_224": (_TINY, "augreg_in21k_ft_in1k"),
    "vit_tiny_patch16_384": (_TINY | {"img_size": 384}, "augreg_in21k_ft_in1k"),
    "vit_small_patch16_224": (_SMALL, "augreg_in21k_ft_in1k"),
    "vit_small_patch16_384": (_SMALL | {"img_size": 384}, "augreg_in21k_ft_in1k"),
    "vit_base_patch16_224": (_BASE, "augreg2_in21k_ft_in1k"),
    "vit_base_patch16_384": (_BASE | {"img_size": 384}, "augreg_in21k_ft_in1k"),
    "vit_large_patch16_224": (_LARGE, "augreg_in21k_ft_in1k"),
    "vit_large_patch16_384": (_LARGE | {"img_size": 384}, "augreg_in21k_ft_in1k"),
    "deit_tiny_patch16_224": (_TINY, "fb_in1k"),
    "deit_small_patch16_224": (_SMALL, "fb_in1k"),
    "deit_base_patch16_224": (_BASE, "fb_in1k"),
    "deit_base_patch16_384": (_BASE | {"img_size": 384}, "fb_in1k"),
    "deit_tiny_distilled_patch16_224": (_TINY | {"distilled": True}, "fb_in1k"),
    "deit_small_distilled_patch16_224": (_SMALL | {"distilled": True}, "fb_in1k"),
    "deit_base_distilled_patch16_224": (_BASE | {"distilled": True}, "fb_in1k"),
    "deit_base_distilled_patch16_384": (_BASE | {"distilled": True, "img_size": 384}, "fb_in1k"),
    "deit3_small_patch16_224": (_SMALL | _DEIT3, "fb_in22k_ft_in1k"),
    "deit3_small_patch16_384": (_SMALL | _DEIT3 | {"img_size": 384}, "fb_in22k_ft_in1k"),
    "deit3_medium_patch16_224": (_MEDIUM | _DEIT3, "fb_in22k_ft_in1k"),
    "deit3_base_patch16_224": (_BASE | _DEIT3, "fb_in22k_ft_in1k"),
    "deit3_base_patch16_384": (_BASE | _DEIT3 | {"img_size": 384}, "fb_in22k_ft_in1k"),
    "deit3_large_patch16_224": (_LARGE | _DEIT3, "fb_in22k_ft_in1k"),
    "deit3_large_patch16_384": (_LARGE | _DEIT3 | {"img_size": 384}, "fb_in22k_ft_in1k"),
    "vit_small_patch14_dinov2": (_SMALL | _DINOV2, "lvd142m"),
    "vit_base_patch14_dinov2": (_BASE | _DINOV2, "lvd142m"),
    "vit_large_patch14_dinov2": (_LARGE | _DINOV2, "lvd142m"),
    "vit_small_patch14_reg4_dinov2": (_SMALL | _DINOV2 | _REGISTERS, "lvd142m"),
    "vit_base_patch14_reg4_dinov2": (_BASE | _DINOV2 | _REGISTERS, "lvd142m"),
    "vit_large_patch14_reg4_dinov2": (_LARGE | _DINOV2 | _REGISTERS, "lvd142m"),
}


def build(name: str, **overrides: Any) -> nn.Module:
    """Returns the backbone that timm calls `name`, without weights.

    Args:
        name: see `list_models`.
        overrides: fields of the module in timm's names (`img_size`, `num_classes`, `depth`, ...); lists
            serve as tuples, `img_size` is a side or (height, width) in pixels.

    Returns:
        A linen module: `module.init(key, images)`, `module.apply(variables, images)`.

    Raises:
        ValueError: unknown name, unknown field, or values that do not go together.

    >>> build("vit_small_patch14_dinov2", img_size=224).grid
    (16, 16)
    """
    if name not in VIT:
        near = difflib.get_close_matches(name, VIT, n=3, cutoff=0.0)
        raise ValueError(
            f"model {name!r} is unknown; nearest: {', '.join(map(repr, near))} (list_models() lists all)."
        )
    known = [f.name for f in dataclasses.fields(VisionTransformer) if f.name not in ("parent", "name")]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(
            f"model {name!r} has no field {', '.join(map(repr, unknown))}; its fields: {', '.join(known)}."
        )
    fields = VIT[name][0] | {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    size = fields.get("img_size", 224)
    if not all(isinstance(x, int) for x in (size if isinstance(size, tuple) and len(size) == 2 else (size,))):
        raise ValueError(
            f"model {name!r}: img_size is {size!r}; give a side or (height, width), in whole pixels."
        )
    try:
        fields["dtype"] = jnp.dtype(fields.get("dtype", "float32")).name
    except TypeError as error:
        raise ValueError(
            f"model {name!r}: dtype {fields['dtype']!r} is neither 'float32' nor 'bfloat16'."
        ) from error
    model = VisionTransformer(**fields)
    _check(name, model)
    return model


def _check(name: str, model: VisionTransformer) -> None:
    """Raises where fields do not go together, which would otherwise surface deep inside the model."""
    height, width = (model.img_size,) * 2 if isinstance(model.img_size, int) else model.img_size
    wrong = []
    if min(height, width) < model.patch_size or height % model.patch_size or width % model.patch_size:
        wrong.append(f"img_size {height}x{width} is not a multiple of patch_size {model.patch_size}")
    if model.embed_dim % model.num_heads:
        wrong.append(f"embed_dim {model.embed_dim} is not a multiple of num_heads {model.num_heads}")
    if model.global_pool not in ("token", "avg"):
        wrong.append(f"global_pool {model.global_pool!r} is neither 'token' nor 'avg'")
    if model.global_pool == "token" and not model.class_token:
        wrong.append("global_pool 'token' needs class_token; use global_pool='avg'")
    if model.distilled and (not model.class_token or model.reg_tokens or model.global_pool != "token"):
        wrong.append("distilled needs class_token, global_pool 'token' and no reg_tokens")
    if model.dtype not in ("float32", "bfloat16"):
        wrong.append(f"dtype {model.dtype!r} is neither 'float32' nor 'bfloat16'")
    if model.depth < 1:
        wrong.append(f"depth is {model.depth}, below 1")
    if wrong:
        raise ValueError(f"model {name!r}: {'; '.join(wrong)}.")


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
        for name, (_, tag) in VIT.items()
        if any(fnmatch.fnmatchcase(name, w) for w in wanted)
        and not any(fnmatch.fnmatchcase(name, u) for u in unwanted if u)
        and (tag or not pretrained)
    )


def pretrained_source(name: str) -> str:
    """The hub repository of timm's weights for a model, as `load_weights` takes it.

    Raises:
        ValueError: unknown name, or no known weights.

    >>> pretrained_source("deit_small_patch16_224")
    'hf:timm/deit_small_patch16_224.fb_in1k'
    """
    if name not in VIT or not VIT[name][1]:
        raise ValueError(f"no weights of model {name!r} are known; list_models(pretrained=True) lists those.")
    return f"hf:timm/{name}.{VIT[name][1]}"
