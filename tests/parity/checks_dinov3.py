"""DINOv3 and gated DINOv2 fixtures (f1, f2): every layout of names, two shapes of image, blocks, RoPE."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.layers.rope import axial_rope
from vitjax.models import build
from vitjax.weights import load_weights


def _make(fixture: Fixture):
    config = fixture.meta["config"]
    fields = {
        k: config[k] for k in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "reg_tokens")
    }
    fields |= {"mlp": "swiglu" if config["gated_mlp"] else "gelu", "mlp_hidden": config["mlp_hidden"]}
    fields["eps"] = config["eps"]
    if not any(re.search(r"\bls1\b|\blayer_scale1\b|\bgamma_1$", name) for name in fixture.weights):
        fields["init_values"] = None
    if fixture.stem.startswith("f2"):
        fields |= {k: config[k] for k in ("interpolate_antialias", "interpolate_offset")}
        name = "vit_small_patch14_dinov2"
    else:
        biased = config.get("qkv_bias", config.get("query_bias"))
        name = "vit_small_patch16_dinov3_qkvb" if biased else "vit_small_patch16_dinov3"
        fields["key_bias"] = config.get("key_bias", not config.get("mask_k_bias", True))
        fields["rope_base"] = config["rope_theta"]
    model = build(name, **fields)
    return model, load_weights(fixture.weights, model)


def _forward(fixture: Fixture, model, variables, key: str) -> dict[str, np.ndarray]:
    images = jnp.asarray(fixture.inputs[key].transpose(0, 2, 3, 1), jnp.float32)
    plain = jax.jit(model.apply)(variables, images)
    seen = jax.jit(lambda v, x: model.apply(v, x, return_attention=True))(variables, images)
    named = {
        "tokens": plain.tokens,
        "prefix": plain.prefix,
        "pooled": plain.pooled,
        "pooled_avg": plain.tokens.mean(axis=1),
        **{f"attn.{i}": weights for i, weights in enumerate(seen.attention)},
    }
    for block in {int(found[1]) for name in fixture.outputs if (found := re.search(r"block(\d+)/", name))}:
        early = jax.jit(lambda v, x, b=block: model.apply(v, x, block=b))(variables, images)
        named |= {f"block{block}/tokens": early.tokens, f"block{block}/prefix": early.prefix}
    if model.rope_base is not None:
        sines, cosines = axial_rope(plain.grid, model.embed_dim // model.num_heads, base=model.rope_base)
        named |= {"rope_sin": sines, "rope_cos": cosines}
    return named


def check(fixture: Fixture) -> None:
    """Compares every output, those of an image of another shape with the same weights too."""
    model, variables = _make(fixture)
    ours = _forward(fixture, model, variables, "image")
    if "image_other" in fixture.inputs:
        other = _forward(fixture, model, variables, "image_other")
        ours |= {f"other/{name}": value for name, value in other.items()}
    assert_all_compared(fixture, {name: value for name, value in ours.items() if name in fixture.outputs})


CHECKS: dict[str, Callable[[Fixture], None]] = dict.fromkeys(("f1", "f2"), check)
