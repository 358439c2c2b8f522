"""ViT, DeiT and DINOv2 fixtures (a1 to a4): forward passes and resized position tables."""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.layers.pos_embed import resize_positions
from vitjax.models import build
from vitjax.weights import load_weights

# Fields of a fixture's config that are documentary, or other names of ours.
_DROPPED = {"other_img_size", "grid", "distill", "act", "hf_layer_norm_eps"}
_RENAMED = {"num_register_tokens": "reg_tokens"}
# Where the reference resizes its table in another way than timm, as the file's kind and config tell.
_BASES = {"a1": "deit_small_patch16_224", "a2": "deit_small_distilled_patch16_224"}
_HUGGING_FACE = {"interpolate_antialias": False, "interpolate_offset": 0.0}


def _overrides(fixture: Fixture) -> dict:
    config = {_RENAMED.get(k, k): v for k, v in fixture.meta["config"].items() if k not in _DROPPED}
    if fixture.stem.startswith("a4"):
        config = _HUGGING_FACE | config
    return config


def _base(fixture: Fixture, overrides: dict) -> str:
    kind = fixture.stem.split("_")[0]
    if kind in _BASES:
        return _BASES[kind]
    return "vit_small_patch14_reg4_dinov2" if overrides.get("reg_tokens") else "vit_small_patch14_dinov2"


def _make(fixture: Fixture, **changes):
    overrides = _overrides(fixture) | changes
    model = build(_base(fixture, overrides), **overrides)
    return model, load_weights(fixture.weights, model)


def _forward(model, variables, image: np.ndarray) -> dict[str, np.ndarray]:
    """The model's output under the fixtures' names."""
    images = jnp.asarray(image.transpose(0, 2, 3, 1), jnp.float32)
    out = jax.jit(lambda v, x: model.apply(v, x, return_attention=True))(variables, images)
    plain = jax.jit(model.apply)(variables, images)
    named = {
        "tokens": jnp.concatenate([plain.prefix, plain.tokens], axis=1),
        "pooled": out.pooled,
        "patch_tokens": out.tokens,
        **{f"attn.{i}": weights for i, weights in enumerate(out.attention)},
        **{f"logits_{name}": scores for name, scores in out.heads.items()},
    }
    if model.class_token:
        named["cls"] = out.prefix[:, 0]
    if model.reg_tokens:
        named["register_tokens"] = out.prefix[:, model.prefix_count - model.reg_tokens :]
    if out.logits is not None:
        named["logits"] = out.logits
    return named


def _positions(fixture: Fixture, size: tuple[int, int], rows: int) -> np.ndarray:
    """The table that loading into a model of another size gives, with as many rows as the fixture's."""
    if _is_ambiguous(fixture, size):
        model, variables = _make(fixture)
        table, prefix = variables["params"]["pos_embed"], 0 if model.no_embed_class else model.prefix_count
        target = size[0] // model.patch_size, size[1] // model.patch_size
        patches = resize_positions(table[0, prefix:], model.grid, target)
        return np.concatenate([table[:, :prefix], patches[None]], axis=1)
    model, variables = _make(fixture, img_size=size)
    params = variables["params"]
    table = np.asarray(params["pos_embed"])
    if rows == table.shape[1]:
        return table
    # The file's CLS row, which a model without one has added to its CLS token.
    (name,) = (n for n in fixture.weights if n.split(".")[-1] == "cls_token")
    row = np.asarray(params["cls_token"]) - fixture.weights[name]
    return np.concatenate([row, table], axis=1)


def _other_size(fixture: Fixture) -> tuple[int, int]:
    size = fixture.meta["config"]["other_img_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def _is_ambiguous(fixture: Fixture, size: tuple[int, int]) -> bool:
    """Whether a timm table is read as it is by a model of that size: as many rows, in another shape."""
    model, _ = _make(fixture)
    grid = size[0] // model.patch_size, size[1] // model.patch_size
    timm = "pos_embed" in fixture.weights and "mask_token" not in fixture.weights
    return timm and grid != model.grid and math.prod(grid) == math.prod(model.grid)


def check_vit(fixture: Fixture) -> None:
    """Compares every output; images of another size both through a model of that size and at call time."""
    model, variables = _make(fixture)
    ours = {
        k: v for k, v in _forward(model, variables, fixture.inputs["image"]).items() if k in fixture.outputs
    }
    for name, reference in fixture.outputs.items():
        down = re.search(r"_(\d+)x(\d+)$", name)
        if down and "pos_embed" in name:
            size = int(down[1]) * model.patch_size, int(down[2]) * model.patch_size
            ours[name] = _positions(fixture, size, reference.shape[1])
        elif "pos_embed" in name:
            ours[name] = _positions(fixture, _other_size(fixture), reference.shape[1])
    if "image_other" in fixture.inputs:
        size = _other_size(fixture)
        built_for_it = [] if _is_ambiguous(fixture, size) else [_make(fixture, img_size=size)]
        for built, values in [*built_for_it, (model, variables)]:
            other = _forward(built, values, fixture.inputs["image_other"])
            ours |= {f"other/{k}": v for k, v in other.items() if f"other/{k}" in fixture.outputs}
            assert_all_compared(fixture, ours)
    assert_all_compared(fixture, ours)


CHECKS: dict[str, Callable[[Fixture], None]] = dict.fromkeys(("a1", "a2", "a3", "a4"), check_vit)
