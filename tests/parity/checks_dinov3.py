"""DINOv3 and gated DINOv2 fixtures (f1, f2): every layout of names, two shapes of image, blocks, RoPE."""

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
    if fixture.stem.startswith("f2"):
        fields |= {k: config[k] for k in ("interpolate_antialias", "interpolate_offset")}
        name = "vit_small_patch14_dinov2"
    else:
        biased = config.get("qkv_bias", config.get("query_bias"))
        name = "vit_small_patch16_dinov3_qkvb" if biased else "vit_small_patch16_dinov3"
        fields["key_bias"] = config.get("key_bias", not config.get("mask_k_bias", True))
        fields |= {"eps": config["eps"], "rope_base": config["rope_theta"]}
    model = build(name, **fields)
    return model, load_weights(fixture.weights, model)


def _forward(model, variables, image: np.ndarray) -> dict[str, np.ndarray]:
    images = jnp.asarray(image.transpose(0, 2, 3, 1), jnp.float32)
    plain = jax.jit(model.apply)(variables, images)
    first = jax.jit(lambda v, x: model.apply(v, x, block=1))(variables, images)
    seen = jax.jit(lambda v, x: model.apply(v, x, return_attention=True))(variables, images)
    named = {
        "tokens": plain.tokens,
        "prefix": plain.prefix,
        "pooled": plain.pooled,
        "pooled_avg": plain.tokens.mean(axis=1),
        "block1/tokens": first.tokens,
        "block1/prefix": first.prefix,
        **{f"attn.{i}": weights for i, weights in enumerate(seen.attention)},
    }
    if model.rope_base is not None:
        sines, cosines = axial_rope(plain.grid, model.embed_dim // model.num_heads, base=model.rope_base)
        named |= {"rope_sin": sines, "rope_cos": cosines}
    return named


def check(fixture: Fixture) -> None:
    """Compares every output, those of an image of another shape with the same weights too."""
    model, variables = _make(fixture)
    ours = _forward(model, variables, fixture.inputs["image"])
    other = _forward(model, variables, fixture.inputs["image_other"])
    ours |= {f"other/{name}": value for name, value in other.items()}
    assert_all_compared(fixture, {name: value for name, value in ours.items() if name in fixture.outputs})


CHECKS: dict[str, Callable[[Fixture], None]] = dict.fromkeys(("f1", "f2"), check)
