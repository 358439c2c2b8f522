"""Multiply-accumulates and parameters of a model, counted on its traced program."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.errors import UserError


class Count(NamedTuple):
    """What a model costs for one image.

    Attributes:
        macs: multiply-accumulates of matrix products and convolutions.
        params: numbers in the collection `params`; running statistics are not among them.
    """

    macs: int
    params: int


def count(model: nn.Module, image_size: int | tuple[int, int]) -> Count:
    """Cost of evaluating one image, without computing or allocating anything.

    Source: the convention of the papers and of fvcore, 1 multiply-accumulate = 1, with linear layers,
    convolutions and attention's two products counted, and element-wise work, softmax and norms not. The
    forward pass is traced as `model.apply(variables, images)` runs it, so tokens that a model drops cost
    nothing. XLA's own analysis counts twice as many per product, and element-wise work too.

    Args:
        model: any linen module that takes images (b, h, w, 3).
        image_size: pixels, side or (height, width).

    >>> count(nn.Conv(8, (3, 3)), 4)
    Count(macs=3456, params=224)
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return Count(count_macs(model.apply, variables, image), params)


def count_macs(function: Callable, *arguments: Any) -> int:
    """Multiply-accumulates of the matrix products and convolutions of one call.

    A scan counts as often as it runs, a conditional as its dearest branch. Products with zeros, such as those
    of a convolution's padding, count like others, as they do in fvcore.

    Args:
        function: anything `jax.make_jaxpr` can trace.
        arguments: arrays, or `jax.ShapeDtypeStruct` in their place.

    Raises:
        ValueError: a loop with products whose number of rounds depends on values.

    >>> count_macs(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5)))
    30
    """
    return _macs_of_program(jax.make_jaxpr(function)(*arguments))


def _macs_of_program(program: Any) -> int:
    return sum(_macs_of_step(step) for step in program.eqns)


def _macs_of_step(step: Any) -> int:
    kind = step.primitive.name
    if kind == "dot_general":
        (contracted, _), _ = step.params["dimension_numbers"]
        left = step.invars[0].aval.shape
        return _size(step.outvars[0]) * math.prod(left[i] for i in contracted)
    if kind == "conv_general_dilated":
        # A kernel holds, per output channel, the weights that one output value is the sum over: its own
        # group's channels times the window.
        channels = step.invars[1].aval.shape[step.params["dimension_numbers"].rhs_spec[0]]
        return _size(step.outvars[0]) * _size(step.invars[1]) // channels
    inner = [_macs_of_program(program) for program in _programs(step.params)]
    if kind == "scan":
        return step.params["length"] * sum(inner)
    if kind == "cond":
        return max(inner, default=0)
    if kind == "while" and sum(inner):
        raise UserError(
            "count: a while loop computes products, and how often it runs is known only when it does; "
            "give its bounds as Python numbers, or use jax.lax.scan."
        )
    return sum(inner)


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """Every program inside the parameters of a step: of a jit, a branch, a loop's body, a custom rule."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "eqns"):
                yield part


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)
