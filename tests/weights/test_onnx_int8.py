"""Weights that dynamic quantisation stored in 8 bits, from graphs made by hand."""

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.weights.tiny import state_of, tiny
from vitjax.errors import WeightsError
from vitjax.weights import load_weights
from vitjax.weights.read import read_state

RNG = np.random.default_rng(0)


def _save(path, nodes, arrays: dict[str, np.ndarray]):
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [image], tensors)
    onnx.save(helper.make_model(graph), path)
    return path


def _quantised_linear(name: str, node: str, x: str, bias: str, *, zero=True, order=0) -> tuple[list, str]:
    """Nodes as onnxruntime writes them for x @ name + bias; `order` varies what it may differ in."""
    y = f"{node}/y"
    weight = [f"{x}_quantized", f"{name}_quantized", f"{x}_zero_point", *([f"{name}_zero_point"] * zero)]
    make = helper.make_node
    nodes = [
        make("DynamicQuantizeLinear", [x], [f"{x}_quantized", f"{x}_scale", f"{x}_zero_point"]),
        make("MatMulInteger", weight, [f"{y}_int"], name=f"{node}/MatMul_quant"),
        make("Cast", [f"{y}_int"], [f"{y}_cast"], to=TensorProto.FLOAT),
    ]
    if order == 0:  # both scales in one product
        nodes += [
            make("Mul", [f"{x}_scale", f"{name}_scale"], [f"{y}_scales"]),
            make("Mul", [f"{y}_cast", f"{y}_scales"], [y]),
        ]
    else:  # one after the other
        first, second = ((f"{name}_scale", f"{x}_scale"), (f"{x}_scale", f"{name}_scale"))[order - 1]
        nodes += [make("Mul", [f"{y}_cast", first], [f"{y}_half"]), make("Mul", [second, f"{y}_half"], [y])]
    if bias:
        nodes += [make("Add", [bias, y], [f"{y}_out"])]
    return nodes, f"{y}_out" if bias else y


def _quantise(weight: np.ndarray, dtype, *, columns: bool, zero: bool) -> dict[str, np.ndarray]:
    """What stands for an (in, out) matrix: any numbers of the type, a scale and a zero point."""
    info, shape = np.iinfo(dtype), (weight.shape[1],) if columns else ()
    arrays = {
        "_quantized": RNG.integers(info.min, info.max + 1, weight.shape).astype(dtype),
        "_scale": RNG.uniform(0.01, 0.03, shape).astype("f"),
    }
    if zero:
        arrays["_zero_point"] = RNG.integers(info.min, info.max + 1, shape).astype(dtype)
    return arrays


def _expected(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(out, in) in float64."""
    zero = arrays.get("_zero_point", np.zeros((), "i4")).astype("f8")
    return ((arrays["_quantized"].astype("f8") - zero) * arrays["_scale"].astype("f8")).T


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_nameless_8_bit_weight_is_its_float_under_the_name_of_its_bias(
    tmp_path, dtype, columns, zero, order
):
    first = _quantise(np.empty((3, 5)), dtype, columns=columns, zero=zero)
    second = _quantise(np.empty((5, 5)), dtype, columns=columns, zero=zero)
    nodes, hidden = _quantised_linear(
        "onnx::MatMul_7", "/a", "image", "blocks.0.mlp.fc1.bias", zero=zero, order=order
    )
    more, _ = _quantised_linear("onnx::MatMul_8", "/blocks/blocks.0/attn/proj", hidden, "", zero=zero)
    arrays = {f"onnx::MatMul_7{key}": array for key, array in first.items()}
    arrays |= {f"onnx::MatMul_8{key}": array for key, array in second.items()}
    arrays["blocks.0.mlp.fc1.bias"] = np.ones(5, "f")
    state = read_state(_save(tmp_path / "w.onnx", nodes + more, arrays))
    assert set(state) == {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias", "blocks.0.attn.proj.weight"}
    np.testing.assert_allclose(state["blocks.0.mlp.fc1.weight"], _expected(first), rtol=2e-7)
    np.testing.assert_allclose(state["blocks.0.attn.proj.weight"], _expected(second), rtol=2e-7)
    assert {array.dtype.name for array in state.values()} == {"float32"}


def test_a_named_8_bit_weight_is_turned_to_rows_of_outputs_even_if_square(tmp_path):
    arrays = _quantise(np.empty((4, 4)), np.uint8, columns=True, zero=True)
    nodes, _ = _quantised_linear("head.weight", "/head/Gemm", "image", "head.bias")
    named = {f"head.weight{key}": array for key, array in arrays.items()} | {"head.bias": np.ones(4, "f")}
    state = read_state(_save(tmp_path / "w.onnx", nodes, named))
    np.testing.assert_allclose(state["head.weight"], _expected(arrays), rtol=2e-7)


def test_a_layer_scale_after_a_quantised_product_is_no_scale_of_its_weight(tmp_path):
    arrays = _quantise(np.empty((4, 6)), np.int8, columns=False, zero=False)
    nodes, out = _quantised_linear("onnx::MatMul_7", "/blocks/blocks.0/mlp/fc2", "image", "", zero=False)
    nodes += [helper.make_node("Mul", [out, "blocks.0.ls2.gamma"], ["scaled"])]
    named = {f"onnx::MatMul_7{key}": array for key, array in arrays.items()}
    named["blocks.0.ls2.gamma"] = np.full(6, 7, "f")
    state = read_state(_save(tmp_path / "w.onnx", nodes, named))
    np.testing.assert_allclose(state["blocks.0.mlp.fc2.weight"], _expected(arrays), rtol=2e-7)
    assert (state["blocks.0.ls2.gamma"] == 7).all()


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("DynamicQuantizeMatMul", ["image", "w_quantized", "w_scale", "w_zero_point", "fc.bias"]),
        (
            "MatMulIntegerToFloat",
            ["image", "w_quantized", "x_scale", "w_scale", "x_zero", "w_zero_point", "fc.bias"],
        ),
    ],
)
def test_operators_that_onnxruntime_fuses_are_read_alike(tmp_path, operator, inputs):
    arrays = _quantise(np.empty((3, 5)), np.uint8, columns=True, zero=True)
    node = helper.make_node(operator, inputs, ["y"], domain="com.microsoft")
    named = {f"w{key}": array for key, array in arrays.items()} | {"fc.bias": np.ones(5, "f")}
    state = read_state(_save(tmp_path / "w.onnx", [node], named))
    np.testing.assert_allclose(state["fc.weight"], _expected(arrays), rtol=2e-7)


def test_quantised_convolutions_and_tables_keep_their_layout(tmp_path):
    conv = RNG.integers(0, 256, (4, 3, 2, 5)).astype(np.uint8)
    table = RNG.integers(-128, 128, (7, 4)).astype(np.int8)
    arrays = {
        "patch.weight_quantized": conv,
        "patch.weight_scale": np.float32(0.5),
        "patch.weight_zero_point": np.uint8(100),
        "positions.weight_quantized": table,
        "positions.weight_scale": np.float32(0.25),
        "positions.weight_zero_point": np.int8(-3),
        "ids": np.arange(7),
    }
    table_inputs = ["rows", "positions.weight_scale", "positions.weight_zero_point"]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"]),
        helper.make_node(
            "ConvInteger", ["q", "patch.weight_quantized", "z", "patch.weight_zero_point"], ["i"]
        ),
        helper.make_node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "patch.weight_scale"], ["scales"]),
        helper.make_node("Mul", ["c", "scales"], ["y"]),
        helper.make_node("Gather", ["positions.weight_quantized", "ids"], ["rows"]),
        helper.make_node("DequantizeLinear", table_inputs, ["p"]),
    ]
    state = read_state(_save(tmp_path / "w.onnx", nodes, arrays))
    np.testing.assert_array_equal(state["patch.weight"], (conv.astype("f") - 100) * 0.5)
    np.testing.assert_array_equal(state["positions.weight"], (table.astype("f") + 3) * 0.25)


def test_weights_that_the_graph_itself_dequantises_are_linear_weights_too(tmp_path):
    arrays = _quantise(np.empty((3, 5)), np.int8, columns=True, zero=True)
    named = {f"onnx::MatMul_7{key}": array for key, array in arrays.items()} | {"fc.bias": np.ones(5, "f")}
    inputs = [f"onnx::MatMul_7{key}" for key in arrays]
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["w"], axis=1),
        helper.make_node("MatMul", ["image", "w"], ["y"]),
        helper.make_node("Add", ["y", "fc.bias"], ["z"]),
    ]
    state = read_state(_save(tmp_path / "w.onnx", nodes, named))
    np.testing.assert_allclose(state["fc.weight"], _expected(arrays), rtol=2e-7)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("name", ["onnx::Gemm_7", "head.weight"])
def test_a_gemm_says_itself_whether_its_weight_is_transposed(tmp_path, name, transposed):
    weight = RNG.normal(size=(3, 5)).astype("f")
    node = helper.make_node("Gemm", ["image", name, "head.bias"], ["y"], transB=transposed)
    state = read_state(_save(tmp_path / "w.onnx", [node], {name: weight, "head.bias": np.ones(5, "f")}))
    np.testing.assert_array_equal(state["head.weight"], weight if transposed else weight.T)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"w_scale": None}, "'w_quantized' is quantised, but its scale"),
        ({"w_zero_point": None}, "'w_quantized' is quantised, but its zero point"),
        ({"w_scale": np.ones(3, "f")}, r"'w_scale' \(3,\): neither one number nor one for each output"),
        ({"w_zero_point": np.zeros(4, "u1")}, r"'w_zero_point' \(4,\): neither"),
        ({"w_quantized": np.zeros((3, 5), "i2")}, "'w_quantized' is quantised to int16"),
    ],
)
def test_8_bit_weights_that_cannot_be_floats_are_named(tmp_path, changes, reason):
    arrays = _quantise(np.empty((3, 5)), np.uint8, columns=True, zero=True)
    named = {f"w{key}": array for key, array in arrays.items()} | {"fc.bias": np.ones(5, "f")} | changes
    nodes, _ = _quantised_linear("w", "/fc", "image", "fc.bias")
    path = _save(
        tmp_path / "w.onnx", nodes, {key: array for key, array in named.items() if array is not None}
    )
    with pytest.raises(WeightsError, match=reason):
        read_state(path)


def test_a_graph_that_runs_in_a_circle_ends(tmp_path):
    arrays = {"w_quantized": np.ones((2, 3), "i1"), "w_scale": np.float32(2), "b": np.ones((1, 2, 4, 4), "f")}
    nodes = [
        helper.make_node("MatMulInteger", ["image", "w_quantized"], ["y"]),
        helper.make_node("Cast", ["y"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["r", "b"], ["s"]),
        helper.make_node("Reshape", ["r"], ["r"]),
    ]
    state = read_state(_save(tmp_path / "w.onnx", nodes, arrays))
    assert set(state) == {"w", "b"} and (state["w"] == 2).all()


def test_an_8_bit_export_of_a_model_gives_its_float_weights(tmp_path):
    model = tiny(embed_dim=8)
    state = state_of(model)
    nodes, arrays = [], {}
    for i, (name, array) in enumerate(state.items()):
        if not name.endswith(".weight") or array.ndim != 2:
            arrays[name] = array
            continue
        quantised = np.round(array * 20).clip(-128, 127).astype(np.int8)
        state[name] = quantised.astype("f") * np.float32(0.05)
        arrays |= {f"onnx::MatMul_{i}_quantized": quantised.T, f"onnx::MatMul_{i}_scale": np.float32(0.05)}
        bias = name.removesuffix("weight") + "bias"
        nodes += _quantised_linear(f"onnx::MatMul_{i}", f"/{i}", f"x{i}", bias, zero=False)[0]
    variables = load_weights(_save(tmp_path / "w.onnx", nodes, arrays), model)
    np.savez(tmp_path / "w.npz", **state)
    jax.tree.map(np.testing.assert_array_equal, variables, load_weights(tmp_path / "w.npz", model))
