"""Weights out of an ONNX graph, under the names they had in PyTorch.

An export keeps the names of biases, norms and embeddings, but folds the transposition of every linear weight
into a nameless constant (`onnx::MatMul_1966`). The bias of the Add which the MatMul feeds says whose it is.
"""

import pathlib
from collections.abc import Callable, Collection

import numpy as np

from vitjax.errors import WeightsError
from vitjax.weights.damage import DAMAGE

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
    state = _name_positions(_name_linears(state, graph))
    return state if pick is None else {name: state[name] for name in pick(state)}


def _name_linears(state: dict[str, np.ndarray], graph) -> dict[str, np.ndarray]:
    """Gives every nameless (in, out) constant the name of the layer it multiplies for, as (out, in)."""
    layers_by_input = _layers_by_input(state, graph)
    named: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type != "MatMul" or len(node.input) != 2 or not node.output:
            continue
        constant = node.input[1]
        if constant not in state or state[constant].ndim != 2 or not _is_nameless(constant):
            continue
        layer = layers_by_input.get(node.output[0]) or _layer_by_scope(node)
        if layer:
            # The export shares one constant between layers whose weights are equal: one name each.
            named.setdefault(constant, []).append(layer)
    renamed = {name: array for name, array in state.items() if name not in named}
    for constant, layers in named.items():
        for layer in layers:
            renamed[f"{layer}.weight"] = state[constant].T
    return renamed


def _is_nameless(name: str) -> bool:
    return "::" in name or not name.endswith((".weight", ".bias"))


def _layers_by_input(state: dict[str, np.ndarray], graph) -> dict[str, str]:
    """For every value that an Add gives a bias to: the layer which the bias is of."""
    layers: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [name for name in node.input if name in state and name.endswith(".bias")]
        if biases:
            for name in node.input:
                layers.setdefault(name, biases[0].removesuffix(".bias"))
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
