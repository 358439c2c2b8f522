"""CvT fixtures (a6) and the released code's rollout of CvT attention (d1)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared, assert_close
from vitjax import ot
from vitjax.models import build
from vitjax.models.cvt import Stage
from vitjax.weights import load_weights

# Fields of a fixture's config that are documentary: the reference has them and does not use them.
_DROPPED = {"hf_layer_norm_eps"}
_ACTS = {"gelu (exact)": "gelu"}


def _check_cvt(fixture: Fixture) -> None:
    config = {k: v for k, v in fixture.meta["config"].items() if k not in _DROPPED}
    act = config.get("act", "quick_gelu")
    model = build("cvt_13", **config | {"act": _ACTS.get(act, act)})
    variables = load_weights(fixture.weights, model)
    images = jnp.asarray(fixture.inputs["image"].transpose(0, 2, 3, 1))
    out = jax.jit(lambda v, x: model.apply(v, x, return_attention=True))(variables, images)
    plain = jax.jit(model.apply)(variables, images)
    stages = _stages(model, variables, images)
    cls, image = stages[-1]
    maps = iter(out.attention)
    ours = {
        **{f"stage{i}": _channels_first(x) for i, (_, x) in enumerate(stages)},
        "last_hidden_state": _channels_first(image),
        "cls": cls,
        "pooled": out.pooled,
        "tokens": plain.tokens,
        "logits": plain.logits,
        **{f"attn.{s}.{b}": next(maps) for s, depth in enumerate(model.depths) for b in range(depth)},
    }
    assert_all_compared(fixture, {k: v for k, v in ours.items() if k in fixture.outputs})
    assert_close(plain.pooled, np.asarray(out.pooled), fixture.tolerance, "pooled with and without maps")
    for i, depth in enumerate(np.cumsum(model.depths)[:-1]):
        early = jax.jit(functools.partial(model.apply, block=int(depth) - 1))(variables, images)
        image = np.asarray(stages[i][1])
        assert_close(early.tokens, image.reshape(early.tokens.shape), fixture.tolerance, f"block {depth - 1}")


def _stages(model, variables: dict, images: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """CLS and patch tokens of every stage before the final norm, which the model's result has applied."""
    parts, image = [], images
    for i in range(len(model.depths)):
        stage = Stage(
            patch_size=model.patch_size[i],
            patch_stride=model.patch_stride[i],
            patch_padding=model.patch_padding[i],
            embed_dim=model.embed_dim[i],
            depth=model.depths[i],
            num_heads=model.num_heads[i],
            mlp_ratio=model.mlp_ratio[i],
            qkv_bias=model.qkv_bias,
            stride_kv=model.stride_kv,
            cls_token=model.cls_token[i],
            act=model.act,
            eps=model.eps,
            bn_eps=model.bn_eps,
        )
        own = {kind: leaves[f"stage{i}"] for kind, leaves in variables.items()}
        cls, image, _ = jax.jit(stage.apply)(own, image)
        parts.append((cls, image))
    return parts


def _channels_first(image: jax.Array) -> jax.Array:
    return image.transpose(0, 3, 1, 2)


def _check_released_rollout(fixture: Fixture) -> None:
    config = fixture.meta["config"]
    keys = sorted(fixture.inputs, key=lambda key: [int(part) for part in key.split(".")[1:]])
    attention = [jnp.asarray(fixture.inputs[key]) for key in keys]
    grid = config["query_grids"][-1]
    settings = {
        "grid": (grid, grid) if isinstance(grid, int) else tuple(grid),
        "pool": config["grid"],
        "heads": config["head_fusion"],
        "discard": config["discard_ratio"],
    }
    ours = ot.released.cvt_rollout(attention, **settings)
    named = {
        "relevancy": ours.relevancy,
        "marginal": ours.marginal,
        **{f"joint.{i}": joint for i, joint in enumerate(ours.joint)},
        **{key.replace("attn", "resized"): x for key, x in zip(keys, ours.resized, strict=True)},
    }
    assert_all_compared(fixture, named)
    front = ot.attention_rollout(attention, compat="released", **settings)
    assert_close(front, fixture.outputs["marginal"], fixture.tolerance, "attention_rollout")


CHECKS: dict[str, Callable[[Fixture], None]] = {"a6": _check_cvt, "d1": _check_released_rollout}
