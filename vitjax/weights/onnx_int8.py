"""Weights that dynamic quantisation stored in 8 bits: weight = (quantised - zero point) * scale.

`onnxruntime.quantization.quantize_dynamic` puts DynamicQuantizeLinear -> MatMulInteger (or ConvInteger) ->
Cast -> Mul where a product with a constant was, and Gather -> DequantizeLinear where rows of a table were
looked up; its optimiser fuses the former into one operator of com.microsoft. What it does to activations is
left out: the weights are read as those of the float model that they approximate.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vitjax.errors import WeightsError

_FUSED = {  # position of the weight, its scale and its zero point among the inputs
    "DynamicQuantizeMatMul": (1, 2, 3),
    "MatMulIntegerToFloat": (1, 3, 5),
}
_SUFFIX = "_quantized"
_STEPS = 4  # from an integer product to its floats: Cast, and one or two Mul; a damaged graph may be a circle


class Quantised(NamedTuple):
    """An 8-bit constant of the graph and what makes floats of it; names of initializers.

    Attributes:
        weight: the quantised numbers.
        scale: one number, or one for each index of an axis.
        zero: the number that stands for 0.0, likewise; "" = 0.
        axis: the axis that scale and zero point run along.
        node: the operator that uses it.
        output: the value that is the float result.
    """

    weight: str
    scale: str
    zero: str
    axis: int
    node: Any
    output: str

    @property
    def name(self) -> str:
        """The name before quantisation."""
        return self.weight.removesuffix(_SUFFIX)


def dequantise(state: dict[str, np.ndarray], graph: Any) -> tuple[dict[str, np.ndarray], list[Quantised]]:
    """Replaces 8-bit constants by their floats, under the names they had before quantisation.

    Args:
        state: initializers by name.
        graph: the ONNX graph that uses them.

    Returns:
        The state without 8-bit weights, scales and zero points; and what was replaced.

    Raises:
        WeightsError: a scale is missing, or does not fit its weight.
    """
    found = list(_quantised(state, graph))
    floats = {use.name: _floats(use, state) for use in {use.weight: use for use in found}.values()}
    gone = {name for use in found for name in (use.weight, use.scale, use.zero)}
    # A weight that some operators kept as floats is in the file in both forms.
    return floats | {name: array for name, array in state.items() if name not in gone}, found


def _quantised(state: Mapping[str, np.ndarray], graph: Any) -> Iterator[Quantised]:
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in set(node.input):
            users.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type in _FUSED:
            weight, scale, zero = (_input(node, i) for i in _FUSED[node.op_type])
            output, axis = node.output[0], -1
        elif node.op_type in ("MatMulInteger", "ConvInteger"):
            weight, zero = _input(node, 1), _input(node, 3)
            if weight not in state:
                continue
            scale, output = _scale_and_result(node, state, makers, users)
            axis = -1 if node.op_type == "MatMulInteger" else 0
        elif node.op_type == "DequantizeLinear":
            source = makers.get(node.input[0])
            weight = source.input[0] if source and source.op_type == "Gather" else node.input[0]
            scale, zero, output = _input(node, 1), _input(node, 2), node.output[0]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        else:
            continue
        if weight in state:
            yield Quantised(weight, scale, zero, axis, node, output)


def _input(node: Any, i: int) -> str:
    """Name of an input, "" where an optional one is left out."""
    return node.input[i] if i < len(node.input) else ""


def _scale_and_result(
    node: Any, state: Mapping[str, np.ndarray], makers: Mapping[str, Any], users: Mapping[str, list[Any]]
) -> tuple[str, str]:
    """Follows an integer product through Cast and Mul, until both scales have been multiplied in.

    Returns:
        Name of the weight's scale, or what it is called by custom, and the value that is the float product.
    """
    maker = makers.get(node.input[0])
    of_input = ""  # the scale of what the weight is multiplied with
    if maker is not None and maker.op_type == "DynamicQuantizeLinear":
        of_input = maker.output[1]
    elif maker is not None and maker.op_type == "QuantizeLinear":
        of_input = maker.input[1]
    value, scale, done = node.output[0], "", not of_input
    for _ in range(_STEPS):
        if (scale and done) or len(users.get(value, ())) != 1:
            break
        step = users[value][0]
        if step.op_type not in ("Cast", "Mul"):
            break
        factors = [name for name in step.input if name != value]
        for name in tuple(factors):
            if name in makers and makers[name].op_type == "Mul":
                factors += makers[name].input
        scale = scale or next((name for name in factors if name in state and name != of_input), "")
        done = done or of_input in factors
        value = step.output[0]
    return scale or f"{node.input[1].removesuffix(_SUFFIX)}_scale", value


def _floats(use: Quantised, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """The weight as float32."""
    weight = state[use.weight]
    if weight.dtype.name not in ("int8", "uint8", "int32"):  # int32: biases, where activations are static
        raise WeightsError(f"{use.weight!r} is quantised to {weight.dtype}; int8 and uint8 can be read.")
    if use.scale not in state:
        raise WeightsError(f"{use.weight!r} is quantised, but its scale is not in the graph; refused.")
    if use.zero and use.zero not in state:
        raise WeightsError(f"{use.weight!r} is quantised, but its zero point is not in the graph; refused.")
    floats = weight.astype(np.float32)
    if use.zero:
        floats -= _along_axis(use, use.zero, state)
    floats *= _along_axis(use, use.scale, state)
    return floats


def _along_axis(use: Quantised, name: str, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """A scale or a zero point, to be broadcast against its weight."""
    shape, numbers = state[use.weight].shape, state[name].astype(np.float32)
    if numbers.size == 1:
        return numbers.reshape(())
    axis = use.axis + len(shape) if use.axis < 0 else use.axis
    if numbers.shape != shape[axis : axis + 1]:
        raise WeightsError(
            f"{use.weight!r} has shape {shape} and {name!r} {numbers.shape}: neither one number nor one for "
            "each output; refused."
        )
    return numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])
