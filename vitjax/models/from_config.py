"""The model a config names, how it reduces its tokens, and its random variables."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vitjax import models
from vitjax.config import EvalConfig, ModelConfig
from vitjax.config.train_config import StudentConfig
from vitjax.errors import UserError
from vitjax.models.outputs import reduction_of
from vitjax.sparsify.reducers import REDUCERS


def create_model(
    spec: ModelConfig | StudentConfig, image_size: int, *, num_classes: int | None = None, **fields: Any
) -> Any:
    """Builds the model of a config.

    Args:
        spec: its name, type, and sizes, of which 0 is as the name says.
        image_size: side of its input, in pixels.
        num_classes: of its classifier; 0 = none; None = the model's own number.
        fields: others of the model; see `vitjax.build`.

    Raises:
        UserError: values that the model cannot have.
    """
    names = ("patch_size", "embed_dim", "depth", "num_heads")
    sizes = {name: value for name in names if (value := getattr(spec, name))}
    if num_classes is not None:
        sizes["num_classes"] = num_classes
    return models.build(spec.name, img_size=image_size, dtype=spec.dtype, **sizes, **fields)


def init_variables(model: Any, image_size: int, seed: int) -> Any:
    """Random variables of a model, decided by the seed."""
    blank = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return jax.jit(model.init)(jax.random.key(seed), blank)


def backbone(
    config: EvalConfig, image_size: int, *, num_classes: int | None = None, amount: float | int | None = None
) -> Any:
    """Builds the model of a config, reducing its tokens as `reduce` of the config says.

    Args:
        config: its `model` and `reduce` count.
        image_size: side of its input.
        num_classes: of its classifier; 0 = none; None = the model's own number.
        amount: instead of the config's keep ratio or, for a reducer that merges r tokens, of its r.

    Raises:
        ValueError: a model that cannot do it.
    """
    wanted, reduce = config.model, config.reduce
    model = create_model(wanted, image_size, num_classes=num_classes)
    if not (reduce.name or reduction_of(model)):
        return model
    if reduce.name and not hasattr(model, "reducer"):
        raise UserError(f"reduce is {reduce.name!r}, which model {wanted.name!r} has no way to do.")
    fields: dict[str, Any] = {"reduce": reduce.name} if reduce.name else {}
    if takes_r(config, model):
        fields["r"] = int(reduce.r if amount is None else amount)
    else:
        fields["keep_ratio"] = float(reduce.keep_ratio if amount is None else amount)
        fields |= {"budget": reduce.budget} if hasattr(model, "reducer") else {}
    return create_model(wanted, image_size, num_classes=num_classes, **fields)


def takes_r(config: EvalConfig, model: Any) -> bool:
    """Whether tokens are reduced by a number r, as ToMe does, instead of by a keep ratio."""
    kind = REDUCERS.get(config.reduce.name) or type(getattr(model, "reducer", None))
    return dataclasses.is_dataclass(kind) and "r" in (field.name for field in dataclasses.fields(kind))
