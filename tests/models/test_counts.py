"""What every model costs: parameters and multiply-accumulates, exact, without making a single parameter."""

import functools
import json
import math
import pathlib
from typing import Any

import jax
import pytest

from vitjax.models import build, list_models
from vitjax.pretrained import cost_of
from vitjax.sparsify import Count, count

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
REFERENCE = json.loads((GOLDEN / "flops_params.json").read_text())  # counted on the reference code


def _reference(name: str) -> Count:
    return Count(REFERENCE[name]["matmul_conv_macs"], REFERENCE[name]["params"])


def _transformer(width: int, depth: int, tokens: int, ratio: int = 4) -> int:
    """Products of all blocks: qkv 3 and proj 1, MLP 2 x ratio, in width^2 per token; two of attention."""
    return depth * ((4 + 2 * ratio) * width**2 * tokens + 2 * tokens**2 * width)


def _vit(width: int, depth: int, side: int, patch: int = 16, prefix: int = 1, scores: int = 1000) -> int:
    patches = (side // patch) ** 2
    return patches * 3 * patch**2 * width + _transformer(width, depth, patches + prefix) + width * scores


def _gated(width: int, depth: int, patches: int, prefix: int, patch: int, hidden: int) -> int:
    """A transformer whose MLPs are gated: three layers of `width` times `hidden` each; no classifier."""
    n = patches + prefix
    block = 4 * n * width**2 + 2 * n**2 * width + 3 * n * width * hidden
    return patches * 3 * patch**2 * width + depth * block


def _lvvit(width: int, depth: int, scores: int = 1000) -> int:
    """Stem on a 112 x 112 grid, patches of 8 x 8 there, MLPs three times as wide, a score of every token."""
    stem = 112**2 * 64 * (7 * 7 * 3 + 2 * 3 * 3 * 64)
    return stem + 196 * 8 * 8 * 64 * width + _transformer(width, depth, 197, ratio=3) + 197 * width * scores


def _swin(width: int, depths: tuple[int, ...], side: int, window: int) -> int:
    """Every token meets the window^2 tokens of its window; merging turns 4 tokens of c into one of 2 c."""
    total = (side // 4) ** 2 * 4 * 4 * 3 * width
    for stage, depth in enumerate(depths):
        c, tokens = width * 2**stage, (side // 4 // 2**stage) ** 2
        total += depth * (12 * c**2 * tokens + 2 * tokens * window**2 * c)
        total += tokens // 4 * 4 * c * 2 * c if stage < len(depths) - 1 else c * 1000
    return total


def _cvt(depths: tuple[int, ...]) -> int:
    """A block has three depthwise 3 x 3, two of them on a quarter of the grid, and what other blocks have."""
    total = 56**2 * 49 * 3 * 64 + 28**2 * 9 * 64 * 192 + 14**2 * 9 * 192 * 384 + 384 * 1000
    for depth, side, d, prefix in zip(depths, (56, 28, 14), (64, 192, 384), (0, 0, 1), strict=True):
        patches, fewer = side**2, (side // 2) ** 2
        n, m = patches + prefix, fewer + prefix
        local = 9 * d * (patches + 2 * fewer)
        total += depth * (local + (2 * n + 2 * m) * d**2 + 2 * n * m * d + 8 * n * d**2)
    return total


def _convnext(dims: tuple[int, ...], depths: tuple[int, ...], side: int) -> Count:
    """Blocks with a depthwise 7 x 7 and an MLP four times as wide; stem and downsampling do not overlap.

    Parameters: 49 + 8 d in weights of d, and biases of d, 4 d, d, a norm of 2 d and a factor of d, a block.
    """
    macs, params, cells, before = 0, 2 * dims[-1], (side // 4) ** 2, dims[0]
    for stage, (d, depth) in enumerate(zip(dims, depths, strict=True)):
        window = 4 * before if stage else 4 * 4 * 3
        cells = cells // 4 if stage else cells
        macs += cells * (window * d + depth * (49 * d + 8 * d**2))
        params += window * d + d + 2 * before + depth * ((49 + 8 * d) * d + 9 * d)
        before = d
    return Count(macs, params)


def _resnet50() -> int:
    total = 112**2 * 7 * 7 * 3 * 64
    wide = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, side = 64 * 2**stage, 56 // 2**stage
        for i in range(blocks):
            before = side * 2 if stage and not i else side  # the stride lies in the 3 x 3 convolution
            total += before**2 * wide * inner + side**2 * (9 * inner**2 + inner * 4 * inner)
            total += 0 if i else side**2 * wide * 4 * inner
            wide = 4 * inner
    return total + 2048 * 1000


# name: cost at the model's own image size. With width d, patches of p pixels, c classes, a ViT's patch
# projection has 3 p^2 d + d parameters, each block 12 d^2 + 13 d (and 2 d with LayerScale), the final norm
# 2 d, a classifier (d + 1) c, every position row and token d.
COSTS = {
    "vit_tiny_patch16_224": _reference("DeiT-T"),
    "vit_tiny_patch16_384": Count(_vit(192, 12, 384), 5_790_376),
    "vit_small_patch16_224": _reference("DeiT-S"),
    "vit_small_patch16_384": Count(_vit(384, 12, 384), 22_196_584),
    "vit_base_patch16_224": _reference("DeiT-B"),
    "vit_base_patch16_384": Count(_vit(768, 12, 384), 86_859_496),
    "vit_large_patch16_224": Count(_vit(1024, 24, 224), 304_326_632),
    "vit_large_patch16_384": Count(_vit(1024, 24, 384), 304_715_752),
    "deit_tiny_patch16_224": _reference("DeiT-T"),
    "deit_small_patch16_224": _reference("DeiT-S"),
    "deit_base_patch16_224": _reference("DeiT-B"),
    "deit_base_patch16_384": Count(_vit(768, 12, 384), 86_859_496),
    "deit_tiny_distilled_patch16_224": Count(_vit(192, 12, 224, prefix=2, scores=2000), 5_910_800),
    "deit_small_distilled_patch16_224": Count(_vit(384, 12, 224, prefix=2, scores=2000), 22_436_432),
    "deit_base_distilled_patch16_224": Count(_vit(768, 12, 224, prefix=2, scores=2000), 87_338_192),
    "deit_base_distilled_patch16_384": Count(_vit(768, 12, 384, prefix=2, scores=2000), 87_630_032),
    "deit3_small_patch16_224": Count(_vit(384, 12, 224), 22_059_496),
    "deit3_small_patch16_384": Count(_vit(384, 12, 384), 22_205_416),
    "deit3_medium_patch16_224": Count(_vit(512, 12, 224), 38_849_512),
    "deit3_base_patch16_224": Count(_vit(768, 12, 224), 86_585_320),
    "deit3_base_patch16_384": Count(_vit(768, 12, 384), 86_877_160),
    "deit3_large_patch16_224": Count(_vit(1024, 24, 224), 304_374_760),
    "deit3_large_patch16_384": Count(_vit(1024, 24, 384), 304_763_880),
    "vit_small_patch14_dinov2": Count(_vit(384, 12, 518, 14, scores=0), 22_056_192),
    "vit_base_patch14_dinov2": Count(_vit(768, 12, 518, 14, scores=0), 86_579_712),
    "vit_large_patch14_dinov2": Count(_vit(1024, 24, 518, 14, scores=0), 304_367_616),
    "vit_small_patch14_reg4_dinov2": Count(_vit(384, 12, 518, 14, prefix=5, scores=0), 22_057_344),
    "vit_base_patch14_reg4_dinov2": Count(_vit(768, 12, 518, 14, prefix=5, scores=0), 86_582_016),
    "vit_large_patch14_reg4_dinov2": Count(_vit(1024, 24, 518, 14, prefix=5, scores=0), 304_370_688),
    "swin_tiny_patch4_window7_224": _reference("Swin-T"),
    "swin_small_patch4_window7_224": _reference("Swin-S"),
    "swin_base_patch4_window7_224": _reference("Swin-B"),
    # A window of 12 has 23^2 - 13^2 = 360 more rows in each of 376 heads' position tables than one of 7.
    "swin_base_patch4_window12_384": Count(_swin(128, (2, 2, 18, 2), 384, 12), 87_768_224 + 360 * 376),
    "cvt_13": Count(_cvt((1, 2, 10)), _reference("CvT-13").params),
    "cvt_21": Count(_cvt((1, 4, 16)), _reference("CvT-21").params),
    # Stem 83,136 + 6 x 64, projection 4096 d + d; a block has 10 d^2 + 9 d (qkv without bias, MLP of 3 d).
    "lvvit_t": Count(
        _lvvit(240, 12),
        83_136 + 3 * 128 + 4097 * 240 + 198 * 240 + 12 * (10 * 240**2 + 9 * 240) + 2 * 240 + 2 * 241_000,
    ),
    "lvvit_s": _reference("LV-ViT-S(with aux head)"),
    "lvvit_m": _reference("LV-ViT-M(with aux head)"),
    "resnet50": Count(_resnet50(), 25_557_032),
    "dynamicvit_deit_tiny_patch16_224": _reference("DyViT-DeiT-T/0.7"),
    "dynamicvit_deit_256_patch16_224": _reference("DyViT-DeiT-256/0.7"),
    "dynamicvit_deit_small_patch16_224": _reference("DyViT-DeiT-S/0.7"),
    "dynamicvit_deit_base_patch16_224": _reference("DyViT-DeiT-B/0.7"),
    "dynamicvit_lvvit_s": _reference("DyViT-LVViT-S/0.7"),
    "dynamicvit_lvvit_m": _reference("DyViT-LVViT-M/0.7"),
    "dynamicswin_tiny_patch4_window7_224": _reference("DySwin-T/0.7"),
    "dynamicswin_small_patch4_window7_224": _reference("DySwin-S/0.7"),
    "dynamicswin_base_patch4_window7_224": _reference("DySwin-B/0.7"),
    "dynamic_convnext_tiny": _reference("DyCNX-T/0.7"),
    "dynamic_convnext_small": _reference("DyCNX-S/0.7"),
    "dynamic_convnext_base": _reference("DyCNX-B/0.7"),
}
DYNAMIC = {
    "DyViT-DeiT-T": "dynamicvit_deit_tiny_patch16_224",
    "DyViT-DeiT-256": "dynamicvit_deit_256_patch16_224",
    "DyViT-DeiT-S": "dynamicvit_deit_small_patch16_224",
    "DyViT-DeiT-B": "dynamicvit_deit_base_patch16_224",
    "DyViT-LVViT-S": "dynamicvit_lvvit_s",
    "DyViT-LVViT-M": "dynamicvit_lvvit_m",
    "DySwin-T": "dynamicswin_tiny_patch4_window7_224",
    "DySwin-S": "dynamicswin_small_patch4_window7_224",
    "DySwin-B": "dynamicswin_base_patch4_window7_224",
    "DyCNX-T": "dynamic_convnext_tiny",
    "DyCNX-S": "dynamic_convnext_small",
    "DyCNX-B": "dynamic_convnext_base",
}


# DINOv3 at 256 pixels, 5 prefix tokens; parameters are those of timm 1.0.31, and of the form "qkvb", with
# biases of queries and values, 2 d more a block. DINOv2's giant has 4 registers of 1,536 in its reg4 form.
_DINOV3 = {
    "small": (_vit(384, 12, 256, prefix=5, scores=0), 21_586_944, 12 * 2 * 384),
    "small_plus": (_gated(384, 12, 256, 5, 16, 1536), 28_683_264, 12 * 2 * 384),
    "base": (_vit(768, 12, 256, prefix=5, scores=0), 85_641_216, 12 * 2 * 768),
    "large": (_vit(1024, 24, 256, prefix=5, scores=0), 303_079_424, 24 * 2 * 1024),
    "huge_plus": (_gated(1280, 32, 256, 5, 16, 5120), 840_509_440, 32 * 2 * 1280),
}
COSTS |= {f"vit_{size}_patch16_dinov3": Count(macs, params) for size, (macs, params, _) in _DINOV3.items()}
COSTS |= {
    f"vit_{size}_patch16_dinov3_qkvb": Count(macs, params + biases)
    for size, (macs, params, biases) in _DINOV3.items()
}
COSTS |= {
    "vit_giant_patch14_dinov2": Count(_gated(1536, 40, 37**2, 1, 14, 4096), 1_136_479_232),
    # Four registers more, and a position less: the CLS token has none.
    "vit_giant_patch14_reg4_dinov2": Count(_gated(1536, 40, 37**2, 5, 14, 4096), 1_136_479_232 + 3 * 1536),
}


def _clip(width: int, depth: int, side: int, patch: int) -> Count:
    """An image tower of CLIP: patches without bias, a CLS token, norms before and after the blocks."""
    patches = (side // patch) ** 2
    params = (
        3 * patch**2 * width + (patches + 2) * width + 2 * 2 * width + depth * (12 * width**2 + 13 * width)
    )
    return Count(_vit(width, depth, side, patch, scores=0), params)


def _siglip(width: int, depth: int, side: int, patch: int, hidden: int) -> Count:
    """An image tower of SigLIP: no CLS token; attention pooling has one query, and keys and values of all."""
    n = (side // patch) ** 2
    macs = n * 3 * patch**2 * width + depth * (4 * n * width**2 + 2 * n**2 * width + 2 * n * width * hidden)
    pool = (2 + 2 * n) * width**2 + 2 * n * width + 2 * width * hidden
    layers = 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width
    params = (3 * patch**2 + 1 + n) * width + depth * (layers + 4 * width) + 2 * width + layers + 3 * width
    return Count(macs + pool, params)


def _text(width: int, depth: int, words: int, length: int, hidden: int, projection: int) -> int:
    """Parameters of a text tower."""
    layers = 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width
    return (words + length) * width + depth * (layers + 4 * width) + 2 * width + projection


_CLIP = {
    "base_patch32": (768, 12, 224, 32), "base_patch16": (768, 12, 224, 16),
    "large_patch14": (1024, 24, 224, 14), "large_patch14_336": (1024, 24, 336, 14),
}  # fmt: skip
for _name, _sizes in _CLIP.items():
    _tower, _side = _clip(*_sizes), _sizes[2]
    _stem = _name.removesuffix("_336")
    COSTS |= {f"vit_{_stem}_{kind}_{_side}": _tower for kind in ("clip", "clip_quickgelu")}
    _joint = 768 if _sizes[0] == 1024 else 512
    _words = _text(_joint, 12, 49_408, 77, 4 * _joint, _joint**2)
    _both = Count(_tower.macs + _sizes[0] * _joint, _tower.params + _words + _sizes[0] * _joint + 1)
    COSTS |= {f"clip_vit_{_name}{tag}": _both for tag in ("", "_laion2b") if not (tag and _side == 336)}
# Of SigLIP So400m, 384 pixels are 27 patches of 14 across; its text has 16 tokens at 224 pixels.
_SIGLIP = {
    "base_patch32": ((768, 12), 32, 3072, (), (256,)),
    "base_patch16": ((768, 12), 16, 3072, (224, 256, 384, 512), (224, 256, 384, 512)),
    "large_patch16": ((1024, 24), 16, 4096, (256, 384), (256, 384, 512)),
    "so400m_patch14": ((1152, 27), 14, 4304, (224, 384), (224, 384)),
    "so400m_patch16": ((1152, 27), 16, 4304, (), (256, 384, 512)),
}
for _stem, ((_width, _depth), _patch, _hidden, *_versions) in _SIGLIP.items():
    for _words, _of, _those in zip((32_000, 256_000), ("siglip", "siglip2"), _versions, strict=True):
        for _side in _those:
            _tower = _siglip(_width, _depth, _side, _patch, _hidden)
            COSTS[f"vit_{_stem}_siglip_{_side}"] = _tower
            _length = 16 if (_of, _stem, _side) == ("siglip", "so400m_patch14", 224) else 64
            _params = _text(_width, _depth, _words, _length, _hidden, _width**2 + _width)
            COSTS[f"{_of}_{_stem}_{_side}"] = Count(_tower.macs, _tower.params + _params + 2)
_CONVNEXT = {
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "small": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "base": ((128, 256, 512, 1024), (3, 3, 27, 3)),
    "large": ((192, 384, 768, 1536), (3, 3, 27, 3)),
}
COSTS |= {f"convnext_{size}_dinov3": _convnext(*sizes, 224) for size, sizes in _CONVNEXT.items()}


def _tips(width: int, depth: int, blocks_macs: int, blocks_params: int) -> Count:
    """An image tower of TIPSv2 at 448 pixels: 1,024 patches, two CLS tokens, neither with a position."""
    return Count(
        1024 * 588 * width + blocks_macs, 589 * width + (1024 + 2) * width + 2 * width + blocks_params
    )


# Image tower: width, blocks, width inside the MLPs; blocks and MLPs of the text tower.
_TIPS = {
    "base": ("b14", 768, 12, 3072, 12, 3072),
    "large": ("l14", 1024, 24, 4096, 12, 4096),
    "so400m": ("so400m14", 1152, 27, 4304, 27, 4304),
    "giant": ("g14", 1536, 40, 4096, 12, 6144),
}
for _size, (_short, _width, _depth, _hidden, _layers, _wide) in _TIPS.items():
    _gates = 3 if _size == "giant" else 2  # layers of the MLP; the first two of a gated one have biases alike
    _block_macs = 4 * 1026 * _width**2 + 2 * 1026**2 * _width + _gates * 1026 * _width * _hidden
    _block = 4 * _width**2 + 4 * _width + _gates * _width * _hidden + (_gates - 1) * _hidden + _width
    _tower = _tips(_width, _depth, _depth * _block_macs, _depth * (_block + 6 * _width))
    COSTS[f"vit_{_size}_patch14_tipsv2"] = _tower
    COSTS[f"tipsv2_{_short}"] = Count(
        _tower.macs, _tower.params + _text(_width, _layers, 32_000, 0, _wide, 0) + 1
    )
_PE = {  # image tower: width, blocks, side, patch, MLP, CLS; text tower: width, blocks, length; joint space
    "tiny": ("t16", 192, 12, 384, 16, 768, 1, 512, 12, 32, 512),
    "small": ("s16", 384, 12, 384, 16, 1536, 1, 512, 12, 32, 512),
    "base": ("b16", 768, 12, 224, 16, 3072, 1, 1024, 24, 32, 1024),
    "large": ("l14", 1024, 24, 336, 14, 4096, 1, 1024, 24, 32, 1024),
    "gigantic": ("g14", 1536, 50, 448, 14, 8960, 0, 1280, 24, 72, 1280),
}
for _size, (
    _short,
    _d,
    _depth,
    _side,
    _patch,
    _hidden,
    _cls,
    _words,
    _layers,
    _length,
    _joint,
) in _PE.items():
    _cells = (_side // _patch) ** 2
    _n = _cells + _cls
    _macs = _cells * 3 * _patch**2 * _d + _depth * (4 * _n * _d**2 + 2 * _n**2 * _d + 2 * _n * _d * _hidden)
    _macs += (2 + 2 * _n) * _d**2 + 2 * _n * _d + 8 * _d**2  # attention pooling, its MLP four times as wide
    _params = (3 * _patch**2 + _n + _cls + 4) * _d + _depth * (
        4 * _d**2 + 9 * _d + 2 * _d * _hidden + _hidden
    )
    _params += 12 * _d**2 + 12 * _d
    COSTS[f"vit_pe_core_{_size}_patch{_patch}_{_side}"] = Count(_macs, _params)
    COSTS[f"pe_core_{_short}_{_side}"] = Count(
        _macs + _d * _joint,
        _params + _d * _joint + _text(_words, _layers, 49_408, _length, 4 * _words, _words * _joint) + 1,
    )
_UNCOUNTED = {"vit_7b_patch16_dinov3", "vit_7b_patch16_dinov3_qkvb"}  # no published table of it was read


_LAYOUTS = {"deit_tiny_patch16_224", "cvt_13", "resnet50", "swin_tiny_patch4_window7_224"}


@functools.cache
def _counted(name: str) -> Count:
    model = build(name)
    return count(model, model.img_size)


def test_the_table_of_costs_has_every_model():
    assert sorted({*COSTS, *_UNCOUNTED}) == list_models()


def _models() -> list:
    """Every model; the smallest of each family by default."""
    quick = {
        "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_384",
        "vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224", "cvt_13", "lvvit_t", "resnet50",
        "dynamicvit_deit_tiny_patch16_224", "dynamicvit_lvvit_s", "dynamicswin_tiny_patch4_window7_224",
        "vit_small_patch16_dinov3", "clip_vit_base_patch32",
        "vit_base_patch16_siglip_224", "convnext_tiny_dinov3", "pe_core_t16_384",
        "dynamic_convnext_tiny",
    }  # fmt: skip
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in sorted(COSTS)]


@pytest.mark.parametrize("name", _models())
def test_parameter_count_is_exact(name):
    assert _counted(name).params == COSTS[name].params


@pytest.mark.parametrize("name", _models())
def test_multiply_accumulates_are_exact(name):
    assert _counted(name).macs == COSTS[name].macs


_DEEP = (
    "vit_small_patch16_dinov3", "vit_base_patch16_dinov3", "vit_large_patch16_dinov3",
    "vit_huge_plus_patch16_dinov3_qkvb", "vit_large_patch14_dinov2", "vit_giant_patch14_reg4_dinov2",
    "vit_base_patch16_clip_quickgelu_224", "clip_vit_large_patch14_336", "siglip2_large_patch16_256",
    "siglip2_so400m_patch14_384", "tipsv2_l14", "tipsv2_g14", "pe_core_l14_336", "pe_core_g14_448",
)  # fmt: skip


@pytest.mark.parametrize("name", _DEEP)
def test_large_models_cost_their_depth_times_what_a_second_block_adds(name):
    model = build(name)
    texts = {"text": {"depth": 1}} if hasattr(model, "text") else {}
    one, two = (build(name, depth=depth, **texts) for depth in (1, 2))
    first, second = (count(each, model.img_size) for each in (one, two))
    found = [a + (model.depth - 1) * (b - a) for a, b in zip(first, second, strict=True)]
    if texts:
        both = count(build(name, depth=1, text={"depth": 2}), model.img_size)
        found[1] += (model.text.depth - 1) * (both.params - first.params)
    assert Count(*found) == COSTS[name]


@pytest.mark.parametrize(("name", "row"), [("cvt_13", "CvT-13"), ("cvt_21", "CvT-21")])
def test_cvt_costs_what_its_reference_says_which_knows_one_part_to_three_digits(name, row):
    assert math.isclose(COSTS[name].macs, _reference(row).macs, rel_tol=1e-5)


def _rows() -> list:
    """Every row of the dynamic models; one model of each family by default, at 0.7 all (see `COSTS`)."""
    quick = ("DyViT-DeiT-T/", "DyViT-LVViT-S/0.5", "DySwin-T/", "DyCNX-T/0.9")
    rows = [row for row in REFERENCE if row.split("/")[0] in DYNAMIC]
    return [pytest.param(row, marks=() if row.startswith(quick) else pytest.mark.slow) for row in rows]


@pytest.mark.parametrize("row", _rows())
def test_dynamic_models_cost_what_the_reference_code_costs_at_every_ratio(row):
    name, rho = row.split("/")
    model = build(DYNAMIC[name], keep_ratio=float(rho))
    assert count(model, 224) == _reference(row)


def _deit_small(trace: list[tuple[int, int]]) -> int:
    """Multiply-accumulates, from the tokens in the attention and in the MLP of every block."""
    d = 384
    return 196 * 768 * d + 1000 * d + sum(4 * a * d * d + 2 * a * a * d + 8 * m * d * d for a, m in trace)


def _falling(reduce: str, rate: float) -> list[tuple[int, int]]:
    trace, tokens = [], 197
    for block in range(12):
        before = tokens
        if reduce == "tome":
            tokens -= min(int(rate), (tokens - 1) // 2)
        elif block in (3, 6, 9):
            tokens = 1 + math.ceil(rate * (tokens - 1)) + (reduce == "evit")
        trace.append((before, tokens))
    return trace


@pytest.mark.parametrize("rate", [0.9, 0.5])
@pytest.mark.parametrize("reduce", ["topk", "evit"])
def test_ranking_by_attention_costs_what_its_token_counts_say(reduce, rate):
    model = build("deit_small_patch16_224", reduce=reduce, keep_ratio=rate)
    fused = 0
    if reduce == "evit":  # the rest, weighed and summed
        trace = [tokens for tokens, _ in _falling(reduce, rate)]
        fused = sum((trace[block] - 1) * 384 for block in (3, 6, 9))
    assert count(model, 224) == (_deit_small(_falling(reduce, rate)) + fused, 22_050_664)


@pytest.mark.parametrize("r", [13])
def test_merging_costs_what_its_token_counts_say_and_the_matching(r):
    model = build("deit_small_patch16_224", reduce="tome", r=r)
    trace = _falling("tome", r)
    matching = sum(((a - 1) // 2) * (a // 2) * 64 for a, _ in trace)
    assert count(model, 224) == (_deit_small(trace) + matching, 22_050_664)


def test_choosing_without_a_predictor_costs_the_published_sum_without_predictors():
    macs = count(build("deit_small_patch16_224", reduce="uniform", keep_ratio=0.7), 224).macs
    assert round(macs / 1e9, 4) == 2.8780


@pytest.mark.parametrize("path", sorted((GOLDEN / "manifests").glob("timm_*.json")), ids=lambda p: p.stem)
def test_the_table_agrees_with_published_checkpoints(path):
    name = path.stem.removeprefix("timm_")
    assert COSTS[name].params == json.loads(path.read_text())["_meta"]["parameters"]


@pytest.mark.parametrize("path", sorted((GOLDEN / "manifests").glob("*convnext*.json")), ids=lambda p: p.stem)
def test_the_table_agrees_with_published_checkpoints_of_convnext(path):
    size = path.stem.replace("-", "_").split("_")[-1]
    name = f"convnext_{size}_dinov3"
    assert COSTS[name].params == json.loads(path.read_text())["_meta"]["parameters"]


@pytest.mark.parametrize("path", sorted((GOLDEN / "manifests").glob("*PE-Core*.json")), ids=lambda p: p.stem)
def test_the_table_agrees_with_published_checkpoints_of_perception_encoder(path):
    name = path.stem.removeprefix("facebook_").lower().replace("-", "_")
    assert COSTS[name].params == json.loads(path.read_text())["_meta"]["parameters"]


@pytest.mark.parametrize(
    "path", sorted((GOLDEN / "manifests").glob("tips_*_vision.json")), ids=lambda p: p.stem
)
def test_the_table_agrees_with_published_checkpoints_of_tips(path):
    short = path.stem.split("_")[2]
    size, width = {"b14": ("base", 768), "g14": ("giant", 1536)}[short]
    published = json.loads(path.read_text())["_meta"]["parameters"]
    # A token for masks, and a position of the CLS token, which is part of that token here.
    assert COSTS[f"vit_{size}_patch14_tipsv2"].params == published - 2 * width
    text = json.loads(path.with_name(f"tips_v2_{short}_text.json").read_text())["_meta"]["parameters"]
    assert COSTS[f"tipsv2_{short}"].params == published - 2 * width + text + 1


@pytest.mark.parametrize(
    ("row", "by_hand"),
    [
        ("DeiT-S", _vit(384, 12, 224)),
        ("DeiT-256", _vit(256, 12, 224)),
        ("LV-ViT-S(with aux head)", _lvvit(384, 16)),
        ("LV-ViT-M(with aux head)", _lvvit(512, 20)),
        ("Swin-T", _swin(96, (2, 2, 6, 2), 224, 7)),
    ],
)
def test_the_counts_by_hand_agree_with_those_of_the_reference_code(row, by_hand):
    assert by_hand == REFERENCE[row]["matmul_conv_macs"]


def test_the_command_that_lists_models_says_what_they_cost():
    hint = "run: python -m tests.models.make_costs"
    for name in list_models():
        cost = cost_of(name)
        assert cost, f"{name} is not in vitjax/model_costs.json; {hint}"
        if name in COSTS:
            assert (cost.macs, cost.params) == COSTS[name], f"{name}: {hint}"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in _LAYOUTS else pytest.mark.slow)
        for name in list_models()
        if not name.startswith("vit_7b")
    ],
)
def test_tokens_and_width_are_those_of_the_output(name):
    model = build(name)
    image = jax.ShapeDtypeStruct((1, model.img_size, model.img_size, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def look(variables: Any, image: Any) -> Any:
        output: Any = model.apply(variables, image)
        return jax.numpy.zeros(output.grid), output.tokens

    grid, tokens = jax.eval_shape(look, variables, image)
    cost = cost_of(name)
    assert cost and (math.prod(grid.shape), tokens.shape[2]) == (cost.tokens, cost.width)
