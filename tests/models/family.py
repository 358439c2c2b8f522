"""A small model of every family with variables that are all non-trivial, and calls that compile once."""

import functools
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from tests.compiled import on_host
from vitjax.models import build
from vitjax.weights.rename import to_name

BATCH = 4


@dataclass(frozen=True)
class Family:
    """A model's name and fields, and what its documentation says comes out of it."""

    name: str
    fields: dict[str, Any]
    grid: tuple[int, int]
    tokens: tuple[int, int]  # number, width
    prefix: int
    attention: list[tuple[int, ...]]  # heads, queries, keys of every block; with windows in front
    shorter: dict[int, dict[str, Any]]  # block: fields of a model that ends there
    misfit: tuple[int, ...]  # shape of an image it cannot take, () where there is none
    asks: str  # what it says of that image
    depth: int
    products: int  # matrix products and convolutions of the second block
    classes: tuple[str, ...] = ("cls",)
    in_file: dict[str, Any] = field(default_factory=dict)  # where a file has weights that loading resizes
    other_size: tuple[int, int] = (24, 48)
    notes: tuple[str, ...] = ()  # what loading into a model of that size reports
    pools_tokens: bool = True  # False: what is pooled is not what comes out


_VIT = {"img_size": (24, 40), "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
_ASKS = "multiples of patch_size 8: resize them, for example to 24x32"
_SWIN = {
    "img_size": (40, 56), "embed_dim": 12, "depths": (2, 3), "num_heads": (2, 3), "window_size": 4,
    "num_classes": 5,
}  # fmt: skip
_DYNAMIC = {
    "img_size": (32, 48), "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 3),
    "num_heads": (1, 2, 2), "num_classes": 5,
}  # fmt: skip
_CVT = {
    "img_size": (64, 48), "embed_dim": (8, 12, 24), "depths": (1, 1, 2), "num_heads": (1, 2, 3),
    "num_classes": 5,
}  # fmt: skip
_RESNET = {"img_size": (64, 96), "layers": (2, 1, 1, 1), "channels": (4, 4, 6, 8), "num_classes": 5}
_CONVNEXT = {
    "img_size": (48, 80), "depths": (2, 1, 1), "dims": (8, 12, 16), "kernel_size": 3, "num_classes": 5,
}  # fmt: skip
_DYNAMIC_CONVNEXT = _CONVNEXT | {"depths": (1, 1, 3), "pruning_loc": (1, 2)}
_STAGE = {
    "patch_size": (7,), "patch_stride": (4,), "patch_padding": (2,), "embed_dim": (8,), "depths": (1,),
    "num_heads": (1,), "mlp_ratio": (4.0,), "cls_token": (False,),
}  # fmt: skip


_RESIZED = "position table resized from 4x4 to 3x6, bicubic by size, {}antialiased"


def _plain(name: str, prefix: int, **more: Any) -> Family:
    fields, notes = _VIT | more.pop("fields", {}), more.pop("notes", (_RESIZED.format(""),))
    return Family(
        name, fields, (3, 5), (15, 24), prefix, [(3, 15 + prefix, 15 + prefix)] * 3,
        shorter={0: {"depth": 1}, 1: {"depth": 2}}, misfit=(30, 32, 3), asks=_ASKS, depth=3, products=6,
        in_file={"img_size": 32}, notes=notes, **more,
    )  # fmt: skip


FAMILIES = {
    "vit": _plain("deit_small_patch16_224", 1),
    "distilled": _plain("deit_small_distilled_patch16_224", 2, classes=("cls", "dist")),
    "dinov2": _plain("vit_small_patch14_reg4_dinov2", 5, fields={"num_classes": 0}, classes=()),
    "clip": _plain("vit_base_patch16_clip_quickgelu_224", 1),
    "siglip": _plain("vit_base_patch16_siglip_224", 0, pools_tokens=False),
    "tips": _plain(
        "vit_base_patch14_tipsv2", 2, fields={"num_classes": 0}, classes=(),
        notes=(_RESIZED.format("").replace("bicubic", "bilinear"),),
    ),
    "pe": _plain(
        "vit_pe_core_base_patch16_224", 1, fields={"pool_heads": 4}, pools_tokens=False,
        notes=(_RESIZED.format("not ").replace("bicubic", "bilinear"),),
    ),
    "lvvit": _plain(
        "lvvit_s", 1, fields={"stem_dim": 8}, classes=("cls", "aux"), notes=(_RESIZED.format("not "),)
    ),
    "swin": Family(
        "swin_tiny_patch4_window7_224", _SWIN, (5, 7), (35, 24), 0,
        # 3x4 windows of 16 tokens on the first grid, padded on both axes; 2x2 on the second.
        [(12, 2, 16, 16)] * 2 + [(4, 3, 16, 16)] * 3,
        shorter={0: {"depths": (1,), "num_heads": (2,)}, 2: {"depths": (2, 1)}},
        misfit=(40, 54, 3), asks="multiples of patch_size 4", depth=5, products=6, other_size=(12, 52),
        notes=("tables of offsets cut to windows of 3x4", "tables of offsets cut to windows of 2x4"),
    ),
    "dynamicswin": Family(
        "dynamicswin_tiny_patch4_window7_224", _DYNAMIC | {"pruning_loc": (1, 2)}, (4, 6), (24, 32), 0,
        [(24, 1, 16, 16), (6, 2, 16, 16)] + [(2, 2, 16, 16)] * 3,
        shorter={
            0: {"depths": (1,), "num_heads": (1,), "pruning_loc": ()},
            3: {"depths": (1, 1, 2), "pruning_loc": (1,)},
        },
        misfit=(32, 33, 3), asks="multiples of patch_size 2", other_size=(48, 32),
        depth=5, products=7,
    ),
    "cvt": Family(
        "cvt_13", _CVT, (4, 3), (12, 24), 1,
        [(1, 192, 48), (2, 48, 12), (3, 13, 5), (3, 13, 5)],
        shorter={0: _STAGE, 2: {"depths": (1, 1, 1)}}, misfit=(2, 32, 3), asks="too small",
        other_size=(3, 50), depth=4, products=36,  # 27 depthwise, and one that makes the grid coarser
    ),
    "resnet": Family(
        "resnet50", _RESNET, (2, 3), (6, 32), 0, [],
        shorter={1: {"layers": (2,), "channels": (4,)}, 2: {"layers": (2, 1), "channels": (4, 4)}},
        misfit=(), asks="", other_size=(65, 33), depth=5, products=3,
    ),
    "convnext": Family(
        "convnext_tiny_dinov3", _CONVNEXT, (3, 5), (15, 16), 0, [],
        shorter={1: {"depths": (2,), "dims": (8,)}, 2: {"depths": (2, 1), "dims": (8, 12)}},
        misfit=(12, 64, 3), asks="too small for a single token of 16 pixels", other_size=(40, 97), depth=4,
        products=11, pools_tokens=False,  # 9 of the depthwise convolution
    ),
    "dynamic_convnext": Family(
        "dynamic_convnext_tiny", _DYNAMIC_CONVNEXT, (3, 5), (15, 16), 0, [],
        shorter={
            0: {"depths": (1,), "dims": (8,), "pruning_loc": ()},
            3: {"depths": (1, 1, 2), "pruning_loc": (1,)},
        },
        misfit=(12, 64, 3), asks="too small for a single token of 16 pixels", other_size=(40, 97), depth=5,
        products=12, pools_tokens=False,  # the second block opens a stage
    ),
}  # fmt: skip


@functools.cache
def made(label: str, **changes: Any) -> tuple[nn.Module, dict, np.ndarray]:
    """A family's small model, its variables, and images for it."""
    family = FAMILIES[label]
    model = build(family.name, **family.fields | changes)
    side = model.img_size
    size = (side, side) if isinstance(side, int) else side
    images = np.random.default_rng(1).normal(size=(BATCH, *size, 3)).astype("f")
    return model, filled(model, images), images


def filled(model: nn.Module, images: np.ndarray, seed: int = 0) -> dict:
    """Variables of a model: kernels that keep the scale of what they get, all else away from its start."""
    chance = np.random.default_rng(seed)

    def value(path, leaf):
        noise = chance.normal(size=leaf.shape).astype("f")
        kind = path[-1].key
        if kind == "kernel":
            return noise * np.float32((leaf.size / leaf.shape[-1]) ** -0.5)
        return 1 + 0.2 * np.abs(noise) if kind in ("var", "scale") else 0.2 * noise

    shapes = jax.eval_shape(model.init, jax.random.key(0), images[:1])
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(value, shapes))


@functools.cache
def compiled(model: nn.Module, **static: Any):
    """The compiled call of a model; equal models and arguments share it."""
    return jax.jit(functools.partial(model.apply, **static))


def run(model: nn.Module, variables: dict, images, *, decisions=None, **static: Any):
    """What the compiled model gives for the images, in NumPy; only arrays are traced."""
    traced = {} if decisions is None else {"decisions": decisions}
    return on_host(compiled(model, **static)(variables, images, **traced))


def forget() -> None:
    """Frees what was compiled."""
    compiled.cache_clear()
    made.cache_clear()
    jax.clear_caches()


def torch_state(variables: dict) -> dict[str, np.ndarray]:
    """The variables as timm's file has them."""
    state = {}
    for collection in variables.values():
        for path, leaf in flatten_dict(collection).items():
            array = np.asarray(leaf)
            if path[-1] == "kernel":
                array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
            state[to_name(path)] = array
    return state
