"""ConvNeXt fixtures (f7): both layouts of names, two shapes of image, the map of every stage."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models import build
from vitjax.models.convnext import Stage
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


def check(fixture: Fixture) -> None:
    """Compares every output, those of an image of another shape with the same weights too."""
    if "dynamic" in fixture.stem:
        pytest.skip("a ConvNeXt that drops tokens is not part of the library")
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
