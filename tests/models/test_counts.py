"""What every model costs: parameters and multiply-accumulates, exact, without making a single parameter."""

import functools
import json
import math
import pathlib

import pytest

from vitjax.models import build, list_models
from vitjax.sparsify import Count, count

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
REFERENCE = json.loads((GOLDEN / "flops_params.json").read_text())  # counted on the reference code
# That file says of its CvT rows that one part is known to three digits.
ROUGH = {"cvt_13": 0.005, "cvt_21": 0.005}


def _reference(name: str) -> Count:
    return Count(REFERENCE[name]["matmul_conv_macs"], REFERENCE[name]["params"])


def _transformer(width: int, depth: int, tokens: int, ratio: int = 4) -> int:
    """Products of all blocks: qkv 3 and proj 1, MLP 2 x ratio, in width^2 per token; two of attention."""
    return depth * ((4 + 2 * ratio) * width**2 * tokens + 2 * tokens**2 * width)


def _vit(width: int, depth: int, side: int, patch: int = 16, prefix: int = 1, scores: int = 1000) -> int:
    patches = (side // patch) ** 2
    return patches * 3 * patch**2 * width + _transformer(width, depth, patches + prefix) + width * scores


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
    "cvt_13": _reference("CvT-13"),
    "cvt_21": _reference("CvT-21"),
    # Stem 83,136 + 6 x 64, projection 4096 d + d; a block has 10 d^2 + 9 d (qkv without bias, MLP of 3 d).
    "lvvit_t": Count(
        _lvvit(240, 12),
        83_136 + 3 * 128 + 4097 * 240 + 198 * 240 + 12 * (10 * 240**2 + 9 * 240) + 2 * 240 + 2 * 241_000,
    ),
    "lvvit_s": _reference("LV-ViT-S(with aux head)"),
    "lvvit_m": _reference("LV-ViT-M(with aux head)"),
    "resnet50": Count(_resnet50(), 25_557_032),
}


@functools.cache
def _counted(name: str) -> Count:
    model = build(name)
    return count(model, model.img_size)


def test_the_table_of_costs_has_every_model():
    assert sorted(COSTS) == list_models()


@pytest.mark.parametrize("name", list_models())
def test_parameter_count_is_exact(name):
    assert _counted(name).params == COSTS[name].params


@pytest.mark.parametrize("name", list_models())
def test_multiply_accumulates_are_exact(name):
    found, wanted = _counted(name).macs, COSTS[name].macs
    assert math.isclose(found, wanted, rel_tol=ROUGH[name]) if name in ROUGH else found == wanted


@pytest.mark.parametrize("path", sorted((GOLDEN / "manifests").glob("timm_*.json")), ids=lambda p: p.stem)
def test_the_table_agrees_with_published_checkpoints(path):
    name = path.stem.removeprefix("timm_")
    assert COSTS[name].params == json.loads(path.read_text())["_meta"]["parameters"]


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
