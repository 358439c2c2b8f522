import json
import struct
import sys
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from vitjax.weights import WeightsError
from vitjax.weights.read import read_state
from vitjax.weights.report import Mismatch

ARRAYS = {"a.weight": np.arange(6, dtype="f").reshape(2, 3), "b": np.float16([1, 2]), "n": np.array([3])}


def _safetensors(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_safetensors_and_npz_give_what_was_saved(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **ARRAYS)
    for name in ("w.safetensors", "w.npz"):
        state = read_state(tmp_path / name)
        assert set(state) == set(ARRAYS)
        for key, wanted in ARRAYS.items():
            np.testing.assert_array_equal(state[key], wanted)
            assert state[key].dtype == wanted.dtype


def test_bfloat16_safetensors(tmp_path):
    values = np.asarray([1.5, -2.25, 3e38], jnp.bfloat16)
    header = {"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    (tmp_path / "w.safetensors").write_bytes(_safetensors(header, values.tobytes()))
    np.testing.assert_array_equal(read_state(tmp_path / "w.safetensors")["w"], values)


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".onnx", ".pth", ".bin"])
@pytest.mark.parametrize("raw", [b"", b"\x00", b"\xff" * 64, b"<!doctype html><p>404</p>" * 9])
def test_garbage_is_one_plain_line_that_names_the_file(tmp_path, ending, raw):
    path = tmp_path / f"bad{ending}"
    path.write_bytes(raw)
    with pytest.raises(WeightsError) as error:
        read_state(path)
    assert f"bad{ending}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_a_file_cut_short_is_an_error(tmp_path, ending, share):
    path = tmp_path / f"w{ending}"
    if ending == ".npz":
        np.savez(path, **ARRAYS)
    else:
        safetensors.numpy.save_file(ARRAYS, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match="fetch it again"):
        read_state(path)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2**27) + b" " * 100,
        _safetensors({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"\0" * 4),
        _safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"\0" * 4),
        _safetensors({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
    ],
)
def test_lying_safetensors_headers_are_refused(tmp_path, raw):
    (tmp_path / "w.safetensors").write_bytes(raw)
    with pytest.raises(WeightsError):
        read_state(tmp_path / "w.safetensors")


def test_an_npz_with_pickled_objects_runs_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "w.npz", w=np.asarray([Payload()], dtype=object))
    with pytest.raises(WeightsError, match="plain arrays"):
        read_state(tmp_path / "w.npz")
    assert not (tmp_path / "ran").exists()


def test_an_npz_bomb_is_refused_before_it_unpacks(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("w.npy", "w") as out,
    ):
        for _ in range(80):
            out.write(bytes(2**20))
    with pytest.raises(WeightsError, match="unpacks to 83886080 bytes"):
        read_state(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.npz", "does not exist; check the path.$"),
        ("last.safetensors", "does not exist; check the path, or run train.py first"),
        (".", "is a folder; give a file in it"),
    ],
)
def test_a_missing_file_is_an_error(tmp_path, name, words):
    with pytest.raises(WeightsError, match=words):
        read_state(tmp_path / name)


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.safetensors \.npz \.onnx"):
        read_state(tmp_path / "w.h5")


def _graph(nodes, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "vit", [image], [image], tensors))


def test_nameless_linear_weights_get_the_name_of_their_bias_or_scope(tmp_path):
    arrays = {
        "onnx::MatMul_7": np.arange(6, dtype="f").reshape(2, 3),
        "blocks.0.mlp.fc1.bias": np.zeros(3, "f"),
        "onnx::MatMul_8": np.ones((3, 2), "f"),
        "cls_token": np.zeros((1, 1, 3), "f"),
        "onnx::Concat_1": np.full((1, 1, 3), 2, "f"),
        "onnx::Reshape_2": np.full((1, 4, 3), 5, "f"),
        "onnx::Mul_3": np.zeros((), "f"),
    }
    nodes = [
        helper.make_node("MatMul", ["image", "onnx::MatMul_7"], ["x"], name="whatever"),
        helper.make_node("Add", ["blocks.0.mlp.fc1.bias", "x"], ["y"]),
        helper.make_node("MatMul", ["y", "onnx::MatMul_8"], ["z"], name="/blocks/blocks.0/attn/qkv/MatMul"),
    ]
    onnx.save(_graph(nodes, arrays), tmp_path / "w.onnx")
    state = read_state(tmp_path / "w.onnx")
    np.testing.assert_array_equal(state["blocks.0.mlp.fc1.weight"], arrays["onnx::MatMul_7"].T)
    assert state["blocks.0.attn.qkv.weight"].shape == (2, 3)
    assert state["position_embeddings_prefix"].flat[0] == 2
    assert state["position_embeddings_patches"].flat[0] == 5
    assert "onnx::Mul_3" in state and "onnx::MatMul_7" not in state


def test_onnx_that_keeps_its_numbers_elsewhere_is_refused(tmp_path):
    model = _graph([], {"w": np.zeros((64, 64), "f")})
    onnx.save(model, tmp_path / "w.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    with pytest.raises(WeightsError, match="'w' in another file"):
        read_state(tmp_path / "w.onnx")


def test_onnx_whose_shape_and_bytes_disagree_is_refused(tmp_path):
    model = _graph([], {"w": np.zeros((4, 4), "f")})
    model.graph.initializer[0].dims[0] = 2**40
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="'w' is damaged"):
        read_state(tmp_path / "w.onnx")


def test_without_the_onnx_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "w.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"pip install onnx"):
        read_state(tmp_path / "w.onnx")


@pytest.mark.parametrize(
    "array", [np.array(["1"]), np.array([1 + 2j]), np.array(["2020"], "M8[Y]"), np.zeros(1, [("a", "f4")])]
)
def test_arrays_that_are_no_real_numbers_are_named(tmp_path, array):
    np.savez(tmp_path / "w.npz", **{"head.bias": array})
    with pytest.raises(WeightsError, match=r"weights file '.*w.npz': 'head.bias' is a ndarray of"):
        read_state(tmp_path / "w.npz")


def test_a_name_that_an_archive_holds_twice_is_refused(tmp_path):
    np.savez(tmp_path / "one.npz", a=np.zeros(3))
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(tmp_path / "one.npz") as one,
        zipfile.ZipFile(tmp_path / "two.npz", "w") as two,
    ):
        for _ in range(2):
            two.writestr("a.npy", one.read("a.npy"))
    with pytest.raises(WeightsError, match="holds a name twice"):
        read_state(tmp_path / "two.npz")


def test_names_that_a_terminal_would_obey_are_quoted():
    assert str(Mismatch("\x1b[2Jx\n", (1,))) == r"'\x1b[2Jx\n' (file (1,))"
