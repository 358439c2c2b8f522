"""Whatever a file is called, its content tells what it is; whatever it holds, one line says what is wrong."""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from tests.weights import torch_writer as w
from vitjax.weights import WeightsError
from vitjax.weights.read import read_state

ARRAYS = {"a.weight": np.arange(6, dtype="f").reshape(2, 3), "b": np.arange(5, dtype="f")}


def _safetensors(header: dict | str, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def _npz(**options) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS, **options)
    return buffer.getvalue()


def _torch(*, old=False, beside: dict[str, bytes] | None = None) -> bytes:
    stored = {str(i): (value.size, value.tobytes()) for i, value in enumerate(ARRAYS.values())}
    items = {
        name: w.tensor(w.storage(str(i), x.size, old=old), x.shape, tuple(s // 4 for s in x.strides))
        for i, (name, x) in enumerate(ARRAYS.items())
    }
    body = w.pickled(w.ordered(items | (beside or {})))
    return w.stream(body, stored) if old else w.archive(body, {k: raw for k, (_, raw) in stored.items()})


def _onnx(nodes=(), arrays=None) -> bytes:
    tensors = [numpy_helper.from_array(array, name) for name, array in (arrays or ARRAYS).items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "g", [image], [image], tensors)).SerializeToString()


FILES = {
    "safetensors": safetensors.numpy.save(ARRAYS),
    "npz": _npz(),
    "torch": _torch(),
    "old torch": _torch(old=True),
    "onnx": _onnx(),
}


def _read(tmp_path, raw: bytes, name="w.bin"):
    (tmp_path / name).write_bytes(raw)
    return read_state(tmp_path / name)


def _refusal(tmp_path, raw: bytes, name="w.bin") -> str:
    with pytest.raises(WeightsError) as error:
        _read(tmp_path, raw, name)
    text = str(error.value)
    assert name in text and "\n" not in text and text.count("weights file") == 1
    return text


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    "name", ["w", "MODEL.PTH", "epoch=3.ckpt", "w.safetensors", "w.npz", "w.onnx", "w.SafeTensors"]
)
def test_the_content_tells_what_a_file_is(tmp_path, kind, name):
    state = _read(tmp_path, FILES[kind], name)
    assert set(state) == set(ARRAYS)
    for key, value in ARRAYS.items():
        np.testing.assert_array_equal(state[key], value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08" + bytes(9), "unpack it"),
        (b"PK\x05\x06" + bytes(18), "w.bin"),
        (b"hello", "w.bin"),
    ],
)
def test_what_holds_no_weights_is_called_by_its_name(tmp_path, raw, words):
    assert words in _refusal(tmp_path, raw)


@pytest.mark.parametrize("kind", FILES)
def test_hundreds_of_damaged_files_raise_nothing_but_one_line(tmp_path, kind):
    chance, refusals = random.Random(kind), []
    for _ in range(250):
        raw = bytearray(FILES[kind])
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(raw) + 1)
            match chance.randrange(4):
                case 0:
                    raw[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    raw[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), b"\x00" * 7 + b"\x80"])
                case 2:
                    del raw[at : at + chance.randint(1, 40)]
                case 3:
                    raw[at:at] = raw[
                        (start := chance.randrange(len(raw) or 1)) : start + chance.randint(1, 40)
                    ]
        try:
            state = _read(tmp_path, bytes(raw))
        except WeightsError as error:
            refusals.append(str(error))
        else:
            assert all(isinstance(x, np.ndarray) and x.nbytes < 2_000 for x in state.values())
    assert len(refusals) > 10
    assert all("w.bin" in text and "\n" not in text for text in refusals)


def _with_npy_header(text: str, data: bytes = bytes(4), packing: int = zipfile.ZIP_STORED) -> bytes:
    header = text.encode() + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as file:
        file.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1099511627776, 1099511627776)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1," * 65),
        "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|V4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4'",
        "(" * 900,
    ],
)
def test_headers_of_npy_that_lie_are_one_line(tmp_path, header):
    _refusal(tmp_path, _with_npy_header(header))


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_packed_members_that_are_damaged_are_one_line(tmp_path, packing):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4096,)}"
    raw = bytearray(_with_npy_header(header, np.random.default_rng(0).bytes(2**14), packing))
    raw[200:210] = bytes(10)
    _refusal(tmp_path, bytes(raw))


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [
        ("F32", [0, 2**39, 2**39], [0, 0]),
        ("F32", [1] * 65, [0, 4]),
        ("F32", [1] * 100_000, [0, 4]),
        ("F32", [True], [0, 4]),
        ("F32", [1.0], [0, 4]),
        ("F32", [-1], [0, 4]),
        ("F32", "1", [0, 4]),
        ("F32", [1], [0, 4, 4]),
        ("F32", [1], [4, 0]),
        ("F32", [1], [4, 8]),
        ("F32", [2], [0, 4]),
        ("F8_E5M2", [4], [0, 4]),
        (["F32"], [1], [0, 4]),
        (None, [1], [0, 4]),
    ],
)
def test_headers_of_safetensors_that_lie_are_one_line(tmp_path, dtype, shape, offsets):
    _refusal(
        tmp_path, _safetensors({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, bytes(4))
    )


@pytest.mark.parametrize(
    "text",
    [
        "{}}", "{" + '"a":{' * 5_000, "{[", '{"w":1}', '{"w":{}}', '{"__metadata__":{},"w":null}',
        '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"v":{"dtype":"F32","shape":[1],"data_offsets":[2,4]}}',
    ],
)  # fmt: skip
def test_json_of_safetensors_that_is_none_is_one_line(tmp_path, text):
    _refusal(tmp_path, _safetensors(text, bytes(4)))


def test_safetensors_of_every_type_equal_their_own_reader(tmp_path):
    names = [
        "float64",
        "float32",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint16",
        "uint32",
        "uint8",
        "bool",
    ]
    state = {n: (np.arange(6).reshape(2, 3) % 2).astype(n) for n in names} | {"empty": np.zeros((0, 3), "f")}
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors", {"note": "text"})
    ours = read_state(tmp_path / "w.safetensors")
    assert set(ours) == set(state)
    for name, value in safetensors.numpy.load_file(tmp_path / "w.safetensors").items():
        np.testing.assert_array_equal(ours[name], value)
        assert ours[name].dtype == value.dtype and ours[name].shape == value.shape


_SPARSE = {
    "zeros.safetensors": b"",
    "w.safetensors": _safetensors(
        {"w": {"dtype": "F32", "shape": [10 * 2**30 - 32], "data_offsets": [0, 4 * (10 * 2**30 - 32)]}}
    ),
    "w.pth": b"\x80\x02X\xff\xff\xff\xff",
    "line.pth": b"\x80\x02c",
    "w.onnx": b"\x08\x07\x12",
    "w.npz": b"PK\x03\x04",
    "w.index.json": b"{",
}


def test_files_of_forty_gigabytes_that_hold_nothing_are_judged_by_their_heads(tmp_path):
    for name, head in _SPARSE.items():
        with (tmp_path / name).open("wb") as file:
            file.write(head)
            file.truncate(40 * 2**30)
    program = (
        "import sys, resource\n"
        "from vitjax.weights import WeightsError\n"
        "from vitjax.weights.read import read_state\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    try: print('read', [x.shape for x in read_state(name).values()])\n"
        "    except WeightsError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)\n"
    )
    paths = [str(tmp_path / name) for name in _SPARSE]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, grown = done.stdout.splitlines()
    assert len(lines) == len(paths) and int(grown) < 300 * 2**10  # KiB
    assert all(name in line or line.startswith("read") for name, line in zip(_SPARSE, lines, strict=True))


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def test_keys_of_one_hash_cost_linear_time(tmp_path):
    def many(count: int) -> bytes:
        keys = b"".join(w.number(i * (2**61 - 1)) + b"N" for i in range(1, count + 1))
        floats = b"".join(b"G" + struct.pack(">d", 2.0 ** (i % 900)) + b"N" for i in range(count))
        return _torch(
            beside={"optimizer": b"}" + w.MARK + keys + b"u", "more": b"}" + w.MARK + floats + b"u"}
        )

    assert set(_read(tmp_path, many(10))) == set(ARRAYS)
    short, long = (_seconds(lambda n=n: _read(tmp_path, many(n))) for n in (10_000, 40_000))
    assert long < 8 * short + 0.5


def test_instructions_without_end_are_refused_in_a_moment(tmp_path):
    raw = w.archive(w.pickled(b"}" + b"N0" * 2_000_000), {})
    assert _seconds(lambda: _refusal(tmp_path, raw)) < 5
    assert "instructions" in _refusal(tmp_path, raw)


def test_matmuls_and_adds_on_one_name_cost_linear_time(tmp_path):
    arrays = {"onnx::MatMul_1": np.ones((2, 2), "f"), "a.bias": np.zeros(2, "f")}

    def many(count: int) -> bytes:
        multiply = helper.make_node("MatMul", ["image", "onnx::MatMul_1"], ["x"])
        add = helper.make_node("Add", ["x", "image"], ["y"])
        return _onnx([multiply] * count + [add] * count, arrays)

    files = {count: many(count) for count in (1_000, 8_000)}
    short, long = (_seconds(lambda raw=raw: _read(tmp_path, raw)) for raw in files.values())
    assert long < 16 * short + 0.5


@pytest.mark.parametrize("name", ["", "MatMul_12", "/MatMul", "/blocks/blocks.0/attn/qkv/MatMul"])
def test_a_matmul_without_a_bias_refuses_no_file(tmp_path, name):
    arrays = {"onnx::MatMul_1": np.arange(6, dtype="f").reshape(2, 3), "n.weight": np.ones(2, "f")}
    node = helper.make_node("MatMul", ["image", "onnx::MatMul_1"], ["x"], name=name)
    state = _read(tmp_path, _onnx([node], arrays))
    named = "blocks.0.attn.qkv.weight" if name.startswith("/blocks") else "onnx::MatMul_1"
    assert set(state) == {"n.weight", named}


def _dtype(kind: str) -> bytes:
    made = w.call(w.name("numpy", "dtype"), w.text(kind), b"\x89", b"\x88")
    return (
        made
        + w.tuple_of(w.number(3), w.text("<"), b"N", b"N", b"N", w.number(-1), w.number(-1), w.number(0))
        + b"b"
    )


def _scalar(module: str, kind: str = "f8") -> bytes:
    raw = w.call(w.name("_codecs", "encode"), w.text("\x00" * 8), w.text("latin1"))
    return w.call(w.name(module, "scalar"), _dtype(kind), raw)


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numpy_scalars_and_types_beside_the_tensors_are_left_out(tmp_path, module):
    beside = {
        "best_acc": _scalar(module),
        "dtype": _dtype("f4"),
        "epoch": w.number(3),
        "i": _scalar(module, "i8"),
    }
    for old in (False, True):
        assert set(_read(tmp_path, _torch(old=old, beside=beside))) == set(ARRAYS)


@pytest.mark.parametrize("kind", ["O8", "O", "|O", "V16", "f8,O", ""])
def test_numpy_values_that_may_hold_an_object_are_refused(tmp_path, kind):
    assert "no number" in _refusal(tmp_path, _torch(beside={"x": _scalar("numpy.core.multiarray", kind)}))


def test_pickles_of_numpy_itself_are_read(tmp_path):
    raw = pickle.dumps(
        {"acc": np.float64(81.2), "n": np.int64(3), "ok": np.bool_(True), "t": np.dtype("f4")}, 2
    )
    assert raw[:2] == b"\x80\x02" and raw[-1:] == b"."
    assert set(_read(tmp_path, _torch(beside={"metrics": raw[2:-1]}))) == set(ARRAYS)


def test_numpy_arrays_in_a_pickle_are_refused_by_name(tmp_path):
    raw = pickle.dumps({"x": np.zeros(3)}, 2)
    assert "_reconstruct" in _refusal(tmp_path, _torch(beside={"x": raw[2:-1]}))


def test_a_function_named_by_nested_tuples_is_refused(tmp_path):
    # Hashing them would overflow the interpreter's own stack.
    deep = w.number(1) + b"\x85" * 200_000
    assert "no text" in _refusal(tmp_path, w.archive(w.pickled(deep + w.text("x") + b"\x93"), {}))
