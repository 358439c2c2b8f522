"""The model a config names, and how it goes on with fewer tokens."""

from typing import Any

from vitjax import models
from vitjax.config import EvalConfig
from vitjax.errors import UserError
from vitjax.models.swin import SwinTransformer


def backbone(
    config: EvalConfig, image_size: int, *, num_classes: int | None = None, amount: float | int | None = None
) -> Any:
    """Builds the model of a config, reducing its tokens as `config.reduce` says.

    Args:
        config: its `model` and `reduce` count.
        image_size: side of its input.
        num_classes: of its classifier; 0 = none; None = the model's own number.
        amount: instead of `config.reduce.keep_ratio` or, for "tome", of `config.reduce.r`.

    Raises:
        ValueError: a model that cannot do it.
    """
    wanted, reduce = config.model, config.reduce
    fields: dict[str, Any] = {"img_size": image_size, "dtype": wanted.dtype}
    sizes = ("patch_size", "embed_dim", "depth", "num_heads")
    fields |= {name: value for name in sizes if (value := getattr(wanted, name))}
    if num_classes is not None:
        fields["num_classes"] = num_classes
    model: Any = models.build(wanted.name, **fields)
    name = reduce.name or reducer_name(model)
    if not name:
        return model
    if not reduce.name and isinstance(model, SwinTransformer):
        return models.build(
            wanted.name, **fields, keep_ratio=float(reduce.keep_ratio if amount is None else amount)
        )
    if not hasattr(model, "reducer"):
        raise UserError(f"config.reduce.name is {name!r}, which model {wanted.name!r} has no way to do.")
    if name == "tome":
        fields["r"] = int(reduce.r if amount is None else amount)
    else:
        fields["keep_ratio"] = float(reduce.keep_ratio if amount is None else amount)
        fields["budget"] = reduce.budget
    return models.build(wanted.name, **fields, reduce=name)


def reducer_name(model: Any) -> str:
    """How a model reduces its tokens: a name of `vitjax.sparsify.reducers`, "dynamicswin", or "" if not."""
    if getattr(model, "reducer", None) is not None:
        return model.reducer.name
    return "dynamicswin" if getattr(model, "pruning_loc", ()) else ""


def dense(model: Any) -> Any:
    """The same model with all its tokens; it finds its weights among those of the other."""
    name = reducer_name(model)
    if not name:
        return model
    return model.clone(pruning_loc=()) if name == "dynamicswin" else model.clone(reducer=None)
