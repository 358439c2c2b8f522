"""Weights out of an ONNX graph, under the names they had in PyTorch.

An export keeps the names of biases, norms and embeddings, but folds the transposition of every linear weight
into a nameless constant (`onnx::MatMul_1966`). The bias of the Add which the MatMul feeds says whose it is.
Weights in 8 bits become floats (`onnx_int8`), and folded position biases of a Swin tables (`onnx_swin`).
"""

import pathlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from vitjax.errors import WeightsError
from vitjax.weights.damage import DAMAGE
from vitjax.weights.onnx_int8 import Quantised, dequantise
from vitjax.weights.onnx_swin import name_bias_tables

CLS_ROWS, PATCH_ROWS = "position_embeddings_prefix", "position_embeddings_patches"
_MAX_BYTES = 2**31  # of any protobuf message


def read_onnx(
    path: pathlib.Path, pick: Callable[[Collection[str]], Collection[str]] | None = None
) -> dict[str, np.ndarray]:
    """Initializers of the graph by PyTorch name, linear weights as (out, in).

    Position tables that the export split into prefix and patch rows get the names in CLS_ROWS and
    PATCH_ROWS, beside the CLS token. Nameless constants that cannot be placed keep the name the graph has.

    Raises:
        WeightsError: package `onnx` is missing, or the file is damaged or keeps its numbers elsewhere.
    """
    try:
        import onnx
        from google.protobuf.message import Error
        from onnx import numpy_helper
    except ImportError as error:
        raise WeightsError(f"reading {path.name!r} needs the package onnx; run: pip install onnx") from error
    if path.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"it is larger than {_MAX_BYTES} bytes, which no ONNX file is; refused.")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Error as error:
        raise WeightsError("it is not a whole ONNX file; fetch it again.") from error
    state = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise WeightsError(f"it keeps {tensor.name!r} in another file; save it in one piece.")
        if tensor.name in state:
            raise WeightsError("it holds a name twice; refused.")
        try:
            state[tensor.name] = numpy_helper.to_array(tensor)
        except DAMAGE as error:
            raise WeightsError(f"{tensor.name!r} is damaged ({error}).") from error
    if not state:
        raise WeightsError("it holds no weights; fetch it again.")
    state, quantised = dequantise(state, graph)
    products = _products(state, graph, quantised)
    layers = _layers_by_output(state, graph, products)
    state = name_bias_tables(state, graph, layers)
    state = _name_positions(_name_linears(state, products, layers))
    return state if pick is None else {name: state[name] for name in pick(state)}


class _Product(NamedTuple):
    """A linear layer of the graph, without its bias.

    Attributes:
        weight: name of the constant.
        transposed: whether it is (in, out), as operators but Gemm have it.
        output: the value that the bias is added to.
        node: the operator.
    """

    weight: str
    transposed: bool
    output: str
    node: Any


def _products(state: dict[str, np.ndarray], graph: Any, quantised: list[Quantised]) -> list[_Product]:
    """Every product with a constant matrix, in the order of the graph but for the quantised ones."""
    products = [
        _Product(use.name, True, use.output, use.node) for use in quantised if "MatMul" in use.node.op_type
    ]
    # A weight that is dequantised in the graph: (name in the state) by (value that the product gets).
    values = {use.output: use.name for use in quantised if use.node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or not node.output:
            continue
        transposed = not any(a.name == "transB" and a.i for a in node.attribute)
        weight = str(node.input[1])
        products.append(_Product(values.get(weight, weight), transposed, node.output[0], node))
    return [product for product in products if product.weight in state and state[product.weight].ndim == 2]


def _name_linears(
    state: dict[str, np.ndarray], products: list[_Product], layers: dict[str, str]
) -> dict[str, np.ndarray]:
    """Gives every nameless constant the name of the layer it multiplies for, and turns all to (out, in)."""
    named: dict[str, dict[str, np.ndarray]] = {}
    for product in products:
        name = product.weight
        if _is_nameless(name):
            if product.output not in layers:
                continue
            name = f"{layers[product.output]}.weight"
        array = state[product.weight]
        # The export shares one constant between layers whose weights are equal: one name each.
        named.setdefault(product.weight, {})[name] = array.T if product.transposed else array
    renamed = {name: array for name, array in state.items() if name not in named}
    for arrays in named.values():
        renamed |= arrays
    return renamed


def _is_nameless(name: str) -> bool:
    return "::" in name or not name.endswith((".weight", ".bias"))


def _layers_by_output(state: dict[str, np.ndarray], graph: Any, products: list[_Product]) -> dict[str, str]:
    """For every value that a bias is added to, and every product: the layer which it belongs to."""
    layers: dict[str, str] = {}
    for node in graph.node:
        biases = [name for name in node.input if name in state and name.endswith(".bias")]
        if not biases:
            continue
        # An operator that adds the bias itself has no value without it: its output stands for that.
        for name in node.input if node.op_type == "Add" else node.output:
            layers.setdefault(name, biases[0].removesuffix(".bias"))
    for product in products:
        named = not _is_nameless(product.weight)
        layer = product.weight.removesuffix(".weight") if named else _layer_by_scope(product.node)
        if layer:
            layers.setdefault(product.output, layer)
    return layers


def _layer_by_scope(node) -> str:
    """Layers without a bias: the scope in the node's name, "/blocks/blocks.0/attn/qkv/MatMul".

    Names of nodes are optional, and older exports have none but "MatMul_12": "" then.
    """
    parts = [part for part in node.name.split("/")[:-1] if part]
    after = [*parts[1:], ""][: len(parts)]
    return ".".join(
        part
        for part, inner in zip(parts, after, strict=True)
        if not (inner.startswith(f"{part}.") and inner[len(part) + 1 :].isdigit())
    )


def _name_positions(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names the two parts of a position table that was cut up for resizing inside the graph."""
    tokens = [name for name in state if name.split(".")[-1] == "cls_token"]
    if len(tokens) != 1 or any(name.endswith(("position_embeddings", "pos_embed")) for name in state):
        return state
    scope, width = tokens[0].removesuffix("cls_token"), state[tokens[0]].shape[-1]
    loose = [
        name
        for name, array in state.items()
        if "::" in name and array.ndim == 3 and array.shape[0] == 1 and array.shape[2] == width
    ]
    loose.sort(key=lambda name: state[name].shape[1])
    if len(loose) != 2 or state[loose[0]].shape[1] > 2:
        return state
    names = dict(zip(loose, (scope + CLS_ROWS, scope + PATCH_ROWS), strict=True))
    return {names.get(name, name): array for name, array in state.items()}
