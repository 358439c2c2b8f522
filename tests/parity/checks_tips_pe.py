"""TIPS and Perception Encoder fixtures (f5, f6): both towers, two shapes of image, blocks, positions."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.layers.rope import Rope
from vitjax.models import build
from vitjax.models.text_transformer import sinusoids
from vitjax.weights import load_weights

_IMAGE = (
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "mlp_hidden", "eps",
    "reg_tokens", "class_token", "pre_norm", "pool_heads", "interpolation", "interpolate_antialias",
    "interpolate_offset",
)  # fmt: skip
_TEXT = ("embed_dim", "depth", "num_heads", "mlp_hidden", "eps", "causal", "context_length", "vocab_size")


def _model(fixture: Fixture) -> Any:
    config, tips = fixture.meta["config"], fixture.stem.startswith("f5")
    image = {k: config[k] for k in _IMAGE if k in config}
    text = {k: config["text"][k] for k in _TEXT if k in config.get("text", {})}
    if "text" in config:
        text["mlp"] = config["text"]["act"]
        if "mlp_ratio" in config["text"]:
            text["mlp_hidden"] = int(text["embed_dim"] * config["text"]["mlp_ratio"])
    if tips:
        image["mlp"] = "swiglu" if config.get("gated_mlp") else "gelu"
        if config.get("text", {}).get("scale_sqrt_depth") is False:
            text["scales_embedding"] = False
        if not any(name.endswith("ls1.gamma") for name in fixture.weights):
            image["init_values"] = None
        both = build("tipsv2_b14", **image, text=text)
        return both.image if "cls_token" in fixture.weights else both.text
    image |= {"mlp": config["act"], "rope_base": config["rope_theta"]}
    image["global_pool"] = {"attention": "map", "tok": "token"}[config["global_pool"]]
    if not any(name.endswith("ls_1.gamma") for name in fixture.weights):
        image["init_values"] = None
    joint = config["projection_dim"]
    text["projection_dim"] = joint
    return build("pe_core_b16_224", **image, projection_dim=joint, text=text)


def _unit(vectors, least: float = 0.0):
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), least)


def _images(fixture: Fixture, model: Any, variables: dict, key: str) -> dict[str, Any]:
    """What the image tower gives for one input, under the fixtures' names."""
    images = jnp.asarray(fixture.inputs[key].transpose(0, 2, 3, 1), jnp.float32)
    out = jax.jit(model.apply)(variables, images)
    named = {"tokens": out.tokens, "prefix": out.prefix, "pooled": out.pooled}
    if model.prefix_count > 1:
        named["pooled_second"] = jax.jit(model.clone(global_pool="second").apply)(variables, images).pooled
    if out.embedding is not None:
        named |= {"image_features": out.embedding, "image_embeds": _unit(out.embedding)}
        tower = model.image
        width = tower.embed_dim // tower.num_heads
        rope = Rope(out.grid, width, tower.prefix_count, tower.rope_base, int(tower.class_token)).all()[0]
        named |= {"rope_sin": rope[:, 0], "rope_cos": rope[:, 1]}
        resized = load_weights(fixture.weights, model.clone(img_size=images.shape[1:3]))
        named["pos_embed"] = resized["params"]["image"]["pos_embed"]
    for block in {int(found[1]) for name in fixture.outputs if (found := re.search(r"block(\d+)/", name))}:
        early = jax.jit(lambda v, x, b=block: model.apply(v, x, block=b))(variables, images)
        named |= {f"block{block}/tokens": early.tokens, f"block{block}/prefix": early.prefix}
    return named


def _texts(fixture: Fixture, model: Any, variables: dict) -> dict[str, Any]:
    """What the text tower gives, under the fixtures' names."""
    ids = fixture.inputs["input_ids"]
    if "paddings" not in fixture.inputs:
        out = jax.jit(lambda v, x: model.apply(v, x, method="encode_text"))(variables, ids)
        scale = jnp.exp(variables["params"]["logit_scale"])
        return {
            "text/features": out.embedding, "text_embeds": _unit(out.embedding), "logit_scale": scale,
            "text/pooled": out.pooled, "text/tokens": out.tokens,
        }  # fmt: skip
    valid = fixture.inputs["paddings"] == 0
    out = jax.jit(model.apply)(variables, ids, valid)
    return {
        "text/tokens": out.tokens, "text/pooled": out.pooled, "text_embeds": _unit(out.embedding, 1e-3),
        "text/positions": sinusoids(ids.shape[1], model.embed_dim),
    }  # fmt: skip


def check(fixture: Fixture) -> None:
    """Compares every output, those of an image of another shape with the same weights too."""
    model = _model(fixture)
    variables = load_weights(fixture.weights, model)
    ours = _texts(fixture, model, variables) if "input_ids" in fixture.inputs else {}
    if "image" in fixture.inputs:
        ours |= _images(fixture, model, variables, "image")
    if "image_other" in fixture.inputs:
        other = _images(fixture, model, variables, "image_other")
        ours |= {f"other/{name}": value for name, value in other.items()}
    assert_all_compared(fixture, {name: value for name, value in ours.items() if name in fixture.outputs})


CHECKS: dict[str, Callable[[Fixture], None]] = dict.fromkeys(("f5", "f6"), check)
