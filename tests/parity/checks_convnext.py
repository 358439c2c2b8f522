"""ConvNeXt fixtures (f7): both layouts of names, two shapes of image, the map of every stage; DynamicCNN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models import build
from vitjax.models.convnext import Stage
from vitjax.models.convnext_dynamic import DynamicStage
from vitjax.weights import load_weights


def _forward(model: Any, variables: dict, image: np.ndarray, pseudo: int | None) -> dict[str, Any]:
    images = jnp.asarray(image.transpose(0, 2, 3, 1), jnp.float32)

    @jax.jit
    def both(variables, images):
        plain, seen = model.apply(
            variables, images, mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, Stage),
        )  # fmt: skip
        resized = model.clone(pseudo_patch_size=pseudo).apply(variables, images)
        return plain, resized, seen["intermediates"]

    plain, resized, seen = both(variables, images)
    named = {"tokens": plain.tokens, "pooled": plain.pooled}
    for i, dim in enumerate(model.dims):
        named[f"stage{i}"] = seen[f"stages_{i}"]["__call__"][0].reshape(len(images), -1, dim)
    return named | {"intermediate/tokens": resized.tokens, "intermediate/pooled": resized.pooled}


def _check_dynamic(fixture: Fixture) -> None:
    """DynamicCNN: evaluated, or trained with given decisions in the form of the official code."""
    config = fixture.meta["config"]
    names = ("img_size", "dims", "depths", "num_classes", "pruning_loc", "eps")
    scaled = any(name.endswith("gamma") for name in fixture.weights)
    fields = {k: config[k] for k in names} | ({} if scaled else {"init_values": None})
    model = build("dynamic_convnext_tiny", **fields, keep_ratio=config["sparse_ratio"], compat="released")
    variables = load_weights(fixture.weights, model)
    images = jnp.asarray(fixture.inputs["image"].transpose(0, 2, 3, 1), jnp.float32)
    stages = range(len(model.pruning_loc))
    if fixture.stem.endswith("train"):
        raw = jnp.stack([jnp.asarray(fixture.inputs[f"raw_decisions.{s}"], jnp.float32) for s in stages], 1)
        by_logits, by_tokens = (fixture.inputs[f"grad_weight_{x}"] for x in ("logits", "tokens"))

        @jax.jit
        def run(raw):
            def weighed(raw):
                out: Any = model.apply(variables, images, train=True, decisions=raw)
                return (out.logits * by_logits).sum() + (out.tokens * by_tokens).sum(), out

            return jax.grad(weighed, has_aux=True)(raw)

        grad, out = run(raw)
        ours = {"logits": out.logits, "tokens": out.tokens}
        ours |= {f"decisions.{s}": out.decisions[:, s] for s in stages}
        ours |= {f"grad_raw.{s}": grad[:, s] for s in stages}
        ours |= {f"log_probs.{s}": out.scores[s] for s in stages}
        assert_all_compared(fixture, ours)
        return

    @jax.jit
    def evaluate(images):
        return model.apply(
            variables, images, mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, Stage | DynamicStage),
        )  # fmt: skip

    out, seen = evaluate(images)
    sparse, last = (seen["intermediates"][f"stages_{i}"]["__call__"][0] for i in (2, 3))
    maps = {"stage2_out": sparse[0], "stage3_out": last}
    ours = {name: x.reshape(len(x), -1, x.shape[-1]) for name, x in maps.items()}
    ours |= {"logits": out.logits, "pooled": out.pooled}
    ours |= {f"keep_sorted.{s}": out.keep_index[s] for s in stages}
    ours |= {f"log_probs.{s}": out.scores[s] for s in stages}
    assert_all_compared(
        fixture, ours, {f"keep.{s}": "in order of score; ours are in raster order" for s in stages}
    )


def check(fixture: Fixture) -> None:
    """Compares every output, those of an image of another shape with the same weights too."""
    if "dynamic" in fixture.stem:
        _check_dynamic(fixture)
        return
    config = fixture.meta["config"]
    names = ("img_size", "dims", "depths", "kernel_size", "mlp_ratio", "act", "eps", "num_classes")
    scaled = any(name.endswith("gamma") for name in fixture.weights)
    fields = {k: config[k] for k in names} | ({} if scaled else {"init_values": None})
    model = build("convnext_tiny_dinov3", **fields)
    variables = load_weights(fixture.weights, model)
    pseudo = config.get("pseudo_patch_size")
    ours = _forward(model, variables, fixture.inputs["image"], pseudo)
    if "image_other" in fixture.inputs:
        other = _forward(model, variables, fixture.inputs["image_other"], pseudo)
        ours |= {f"other/{name}": value for name, value in other.items()}
    assert_all_compared(fixture, {name: value for name, value in ours.items() if name in fixture.outputs})


CHECKS: dict[str, Callable[[Fixture], None]] = {"f7": check}
