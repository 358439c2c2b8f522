"""Position biases of a Swin that an export folded into constants."""

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.weights.tiny import state_of
from vitjax.errors import WeightsError
from vitjax.models import build
from vitjax.weights import load_weights
from vitjax.weights.read import read_state

SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4)}
TABLE = ".relative_position_bias_table"


def _save(path, nodes, arrays: dict[str, np.ndarray]):
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [image], [image], tensors)), path)
    return path


def _scores(attention: str, constant: str, i: int) -> list:
    """From the queries of an attention to the sum of its scores and their bias, as timm's graph has them."""
    make = helper.make_node
    return [
        make("MatMul", [f"x{i}", f"onnx::MatMul_{i}"], [f"qkv{i}"]),
        make("Add", [f"{attention}.qkv.bias", f"qkv{i}"], [f"a{i}"]),
        make("Reshape", [f"a{i}", "/shape"], [f"b{i}"]),
        make("Transpose", [f"b{i}"], [f"c{i}"]),
        make("Gather", [f"c{i}", "val_3"], [f"q{i}"]),
        make("Mul", [f"q{i}", "ortshared_1"], [f"s{i}"]),
        make("MatMul", [f"s{i}", f"k{i}"], [f"d{i}"]),
        make("Add", [f"d{i}", constant] if i % 2 else [constant, f"d{i}"], [f"e{i}"]),
    ]


def _folded(table: np.ndarray, window: int) -> np.ndarray:
    """(1, heads, n, n): what a Swin looks up, entry by entry."""
    n, span = window * window, 2 * window - 1
    bias = np.empty((1, table.shape[1], n, n), table.dtype)
    for i in range(n):
        for j in range(n):
            rows, columns = i // window - j // window, i % window - j % window
            bias[0, :, i, j] = table[(rows + window - 1) * span + columns + window - 1]
    return bias


def _export(state: dict[str, np.ndarray]) -> tuple[list, dict[str, np.ndarray]]:
    """The graph of a Swin in timm's names as far as its attention goes, and its constants."""
    arrays = {name: array for name, array in state.items() if not name.endswith(TABLE)}
    nodes = []
    for i, name in enumerate(name for name in state if name.endswith(TABLE)):
        attention = name.removesuffix(TABLE)
        arrays[f"onnx::Add_{i}"] = _folded(state[name], 4)
        arrays[f"onnx::MatMul_{i}"] = arrays.pop(f"{attention}.qkv.weight").T
        nodes += _scores(attention, f"onnx::Add_{i}", i)
    return nodes, arrays | {"/shape": np.ones(4, "i8"), "val_3": np.int64(0), "ortshared_1": 0.5}


def test_folded_position_biases_become_the_tables_of_their_blocks(tmp_path):
    model = build("swin_tiny_patch4_window7_224", num_classes=3, **SWIN)
    state = state_of(model)
    path = _save(tmp_path / "w.onnx", *_export(state))
    read = read_state(path)
    tables = {name for name in state if name.endswith(TABLE)}
    assert len(tables) == 4 and tables <= set(read) and not any("::" in name for name in read)
    np.savez(tmp_path / "w.npz", **state)
    jax.tree.map(
        np.testing.assert_array_equal, load_weights(path, model), load_weights(tmp_path / "w.npz", model)
    )


def _one(bias: np.ndarray) -> tuple[list, dict[str, np.ndarray]]:
    arrays = {"a.attn.qkv.bias": np.ones(6, "f"), "onnx::MatMul_0": np.ones((2, 6), "f"), "b": bias}
    return _scores("a.attn", "b", 0), arrays | {
        "/shape": np.ones(4, "i8"),
        "val_3": np.int64(0),
        "ortshared_1": 0.5,
    }


def test_one_entry_that_belies_the_table_refuses_the_file(tmp_path):
    bias = _folded(np.random.default_rng(0).normal(size=(25, 2)).astype("f"), 3)
    assert f"a.attn{TABLE}" in read_state(_save(tmp_path / "good.onnx", *_one(bias)))
    bias[0, 1, 2, 7] += 1e-3
    with pytest.raises(WeightsError, match=r"'b' of shape \(2, 9, 9\) .* no bias by relative position"):
        read_state(_save(tmp_path / "bad.onnx", *_one(bias)))


@pytest.mark.parametrize(
    "bias",
    [np.triu(np.full((1, 1, 16, 16), -9.0, "f"), 1), np.ones((1, 2, 7, 7), "f"), np.ones((1, 2, 9, 16), "f")],
    ids=["causal mask", "not a square of tokens", "not square"],
)
def test_other_constants_beside_the_scores_keep_their_names(tmp_path, bias):
    state = read_state(_save(tmp_path / "w.onnx", *_one(bias)))
    np.testing.assert_array_equal(state["b"], bias)
    assert not any(name.endswith(TABLE) for name in state)
