"""CLIP and SigLIP fixtures (f3, f4): both towers, their scores, every layout of names."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.compiled import compiled
from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models import build
from vitjax.models.vit import Block
from vitjax.weights import load_weights

_IMAGE = (
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "mlp_hidden", "eps",
    "class_token", "global_pool", "interpolate_antialias", "interpolate_offset",
)  # fmt: skip
_TEXT = (
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_hidden",
    "eps",
    "context_length",
    "vocab_size",
    "projection_dim",
    "causal",
)
_BASES = {"f3": "clip_vit_base_patch16", "f4": "siglip_base_patch16_224"}


def make(fixture: Fixture, **changes):
    config, base = fixture.meta["config"], _BASES[fixture.stem[:2]]
    image = {k: config[k] for k in _IMAGE if k in config} | {"mlp": config["act"]}
    text = {k: config["text"][k] for k in _TEXT if k in config["text"]} | {"mlp": config["text"]["act"]}
    if "mlp_ratio" in config["text"]:
        text["mlp_hidden"] = int(text["embed_dim"] * config["text"]["mlp_ratio"])
    # Of transformers, id 2 stands for the highest; the others' end token is the highest.
    end = config["text"].get("config_eos_token_id", 2)
    text |= {"end_token": end} if end != 2 else {}
    joint = config.get("projection_dim")
    if joint:
        text["projection_dim"] = joint
    model = build(base, **image | changes, text=text, projection_dim=joint)
    return model, load_weights(fixture.weights, model)


def _unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _images(model, variables, image: np.ndarray) -> dict:
    """What the image tower gives, under the fixtures' names."""
    images = jnp.asarray(image.transpose(0, 2, 3, 1), jnp.float32)
    out = jax.jit(model.apply)(variables, images)
    seen = jax.jit(lambda v, x: model.apply(v, x, return_attention=True))(variables, images)
    return {
        "tokens": out.tokens,
        "prefix": out.prefix,
        "pooled": out.pooled,
        "image_features": out.embedding,
        "image_embeds": _unit(out.embedding),
        "pool_attn": seen.pool_attention,
        **{f"attn.{i}": weights for i, weights in enumerate(seen.attention)},
    }


def _texts(model, variables, ids: np.ndarray) -> dict:
    """What the text tower gives; what SigLIP's code calls pooled is the embedding."""
    out = jax.jit(lambda v, x: model.apply(v, x, method="encode_text", return_attention=True))(variables, ids)
    plain = jax.jit(lambda v, x: model.apply(v, x, method="encode_text"))(variables, ids)
    return {
        "text/tokens": plain.tokens,
        "text/features": plain.embedding,
        "text/before_head": plain.pooled,
        "text/pooled": plain.embedding if model.sigmoid else plain.pooled,
        "text_embeds": _unit(plain.embedding),
        **{f"text/attn.{i}": weights for i, weights in enumerate(out.attention)},
    }


def _before_norm(model, variables, images) -> dict:
    """Tokens as each block leaves them, before the final norm."""
    _, found = compiled(model.apply)(
        variables, images, capture_intermediates=lambda module, _: isinstance(module, Block)
    )
    blocks = found["intermediates"]["image"]
    raw = [blocks[f"blocks_{i}"]["__call__"][0][0][:, model.prefix_count :] for i in range(model.depth)]
    named = {f"block{i}/tokens_before_norm": tokens for i, tokens in enumerate(raw)}
    return named | {"tokens_before_norm": raw[-1]}


def check(fixture: Fixture) -> None:
    """Compares every output: both towers, their scores, and an image of another shape."""
    model, variables = make(fixture)
    ours = _images(model, variables, fixture.inputs["image"]) | _texts(
        model, variables, fixture.inputs["input_ids"]
    )
    if "image_other" in fixture.inputs:
        other = _images(model, variables, fixture.inputs["image_other"])
        ours |= {f"other/{name}": value for name, value in other.items()}
    images = jnp.asarray(fixture.inputs["image"].transpose(0, 2, 3, 1), jnp.float32)
    ours["logits_per_image"] = jax.jit(model.apply)(variables, images, fixture.inputs["input_ids"]).logits
    ours |= _before_norm(model, variables, images)
    bound = model.bind(variables)
    shape = fixture.outputs["logit_scale"].shape
    ours["logit_scale"] = jnp.exp(bound.logit_scale).reshape(shape)
    if model.sigmoid:
        ours["logit_bias"] = bound.logit_bias.reshape(shape)
    for name in fixture.outputs:
        if sizes := re.fullmatch(r"pos_embedding_(\d+)x(\d+)", name):
            size = tuple(int(side) * model.patch_size for side in sizes.groups())
            ours[name] = make(fixture, img_size=size)[1]["params"]["image"]["pos_embed"]
    assert_all_compared(fixture, {name: value for name, value in ours.items() if name in fixture.outputs})


CHECKS: dict[str, Callable[[Fixture], None]] = dict.fromkeys(("f3", "f4"), check)
