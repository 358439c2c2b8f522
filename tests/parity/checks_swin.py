"""Swin fixtures (a5): tokens, stages, logits and attention in windows, at any size, window and depth."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models import build
from vitjax.weights import load_weights


def _final_norm(fixture: Fixture, stage: np.ndarray) -> np.ndarray:
    """The reference's own final norm on a map of its last stage, in float64."""
    stage = stage.astype(np.float64)
    centred = stage - stage.mean(axis=-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + fixture.meta["config"]["eps"])
    return unit * fixture.weights["norm.weight"] + fixture.weights["norm.bias"]


def check_swin(fixture: Fixture) -> None:
    """Compares every output, with and without attention maps."""
    model = build("swin_tiny_patch4_window7_224", **fixture.meta["config"])
    variables = load_weights(fixture.weights, model)
    images = jnp.asarray(fixture.inputs["image"].transpose(0, 2, 3, 1), jnp.float32)

    def run(**static):
        out = jax.jit(lambda v, x: model.apply(v, x, **static))(variables, images)
        return out, np.asarray(out.tokens).reshape(len(images), *out.grid, -1)

    plain, tokens = run()
    with_maps, _ = run(return_attention=True)
    named = [(i, j) for i, depth in enumerate(model.depths) for j in range(depth)]
    assert len(with_maps.attention) == len(named)
    ours = {f"attn.{i}.{j}": maps for (i, j), maps in zip(named, with_maps.attention, strict=True)}
    for i in range(len(model.depths) - 1):
        ours[f"stage{i}"] = run(block=sum(model.depths[: i + 1]) - 1)[1]
    # The last stage's tokens come with the final norm, so its map is compared behind that norm.
    last = f"stage{len(model.depths) - 1}"
    if last in fixture.outputs:
        fixture.outputs[last] = _final_norm(fixture, fixture.outputs[last])
        ours[last] = tokens
    ours |= {"logits": with_maps.logits, "tokens": tokens, "pooled": with_maps.pooled}
    assert_all_compared(fixture, {k: v for k, v in ours.items() if k in fixture.outputs})
    np.testing.assert_allclose(with_maps.tokens, plain.tokens, rtol=1e-4, atol=1e-4)


CHECKS: dict[str, Callable[[Fixture], None]] = {"a5": check_swin}
