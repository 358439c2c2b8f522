"""Models small enough for every test, and checkpoints of them in timm's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from vitjax.models import build
from vitjax.weights.rename import to_name

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}


def tiny(name="deit_small_patch16_224", **changes):
    return build(name, **TINY | changes)


@functools.cache
def _shapes(model) -> dict[tuple[str, ...], tuple[int, ...]]:
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(params).items()}


def state_of(model, seed=0) -> dict[str, np.ndarray]:
    """A checkpoint in timm's layout for a model, by its parameters' paths; other numbers for another seed."""
    state, chance = {}, np.random.default_rng(seed)
    for path, shape in _shapes(model).items():
        value = chance.normal(size=shape).astype("f")
        if path[-1] == "kernel":
            value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
        state[to_name(path)] = np.ascontiguousarray(value)
    return state
