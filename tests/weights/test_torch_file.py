import io
import pathlib
import random
import struct
import zipfile

import numpy as np
import pytest

from tests.weights import torch_writer as w
from vitjax.weights import WeightsError
from vitjax.weights.torch_file import read_torch

DATA = pathlib.Path(__file__).parent / "data"
RAW = np.arange(6, dtype=np.float32).tobytes()


def _read(tmp_path, raw: bytes) -> dict[str, np.ndarray]:
    path = tmp_path / "file.pth"
    path.write_bytes(raw)
    return read_torch(path)


def _one(shape=(2, 3), strides=(3, 1), offset=0, count=6, kind="FloatStorage") -> bytes:
    """A whole archive with one tensor "w"."""
    body = w.ordered({"w": w.tensor(w.storage("0", count, kind), shape, strides, offset)})
    return w.archive(w.pickled(body), {"0": RAW})


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("case", ["state", "nested"])
def test_files_that_torch_saved_give_its_numbers(case, form):
    # Written by torch 2.13: views, a transposed tensor, a Parameter, every type; "nested" has an optimizer,
    # an argparse.Namespace and a set beside the entry "model".
    ours = read_torch(DATA / f"{case}_{form}.pth")
    with np.load(DATA / f"{case}.npz") as reference:
        assert set(ours) == set(reference.files)
        for name in reference.files:
            assert ours[name].shape == reference[name].shape, name
            np.testing.assert_array_equal(ours[name].astype(reference[name].dtype), reference[name], name)


def test_hand_written_archive_and_stream_agree(tmp_path):
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(_read(tmp_path, _one())["w"], wanted)
    body = w.ordered({"w": w.tensor(w.storage("0", 6, old=True), (2, 3), (3, 1))})
    np.testing.assert_array_equal(_read(tmp_path, w.stream(w.pickled(body), {"0": (6, RAW)}))["w"], wanted)


def test_strides_and_offset_are_followed(tmp_path):
    np.testing.assert_array_equal(_read(tmp_path, _one((2, 2), (1, 2), 1))["w"], [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("module", "attribute", "argument"),
    [
        ("os", "system", "touch {}"),
        ("posix", "system", "touch {}"),
        ("subprocess", "getoutput", "touch {}"),
        ("builtins", "eval", "open({!r}, 'w')"),
        ("builtins", "exec", "open({!r}, 'w')"),
        ("builtins", "getattr", "{}"),
        ("numpy", "load", "{}"),
        ("torch", "load", "{}"),
        ("torch.serialization", "load", "{}"),
        ("importlib", "import_module", "{}"),
        ("pathlib", "Path", "{}"),
        ("numpy._core.multiarray", "_reconstruct", "{}"),
        ("collections", "OrderedDict.__reduce__", "{}"),
        ("vitjax.weights.pickle_tensors", "interpret", "{}"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_pickle_that_would_run_code_runs_nothing_and_is_named(tmp_path, form, module, attribute, argument):
    mark = tmp_path / "ran"
    function = w.name(module, attribute)
    body = w.pickled(w.ordered({"w": w.call(function, w.text(argument.format(str(mark))))}))
    raw = w.archive(body, {}) if form == "zip" else w.stream(body, {})
    with pytest.raises(WeightsError, match=rf"asks for '{module}\.{attribute}'.*nothing was run"):
        _read(tmp_path, raw)
    assert not mark.exists()


def _stack_global(module: str, attribute: str) -> bytes:
    return w.text(module) + w.text(attribute) + b"\x93"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (w.MARK + w.text("touch x") + b"ios\nsystem\n", "instruction INST"),
        (w.MARK + w.name("torch", "FloatStorage") + b"o", "instruction OBJ"),
        (b"\x82\x01", "instruction EXT1"),
        (b"P123\n", "instruction PERSID"),
        (_stack_global("os", "system") + w.text("x") + b"\x85R", "asks for 'os.system'"),
        (w.name("torch", "FloatStorage") + w.EMPTY + b"R", "calls something"),
        (w.text("os.system") + w.EMPTY + b"R", "calls something"),
        (w.name("torch._utils", "_rebuild_tensor_v2") + b"}b", "changes an object's attributes"),
        (w.name("torch._utils", "_rebuild_parameter") + w.tuple_of(w.text("x")) + b"R", "holds no tensor"),
        (b"}" + w.tuple_of(w.number(1)) + w.number(1) + b"s", "dictionary key is a tuple"),
        (w.text("abc") + w.number(1) + b"a", "no list"),
        (w.text("abc") + w.number(1) + w.number(2) + b"s", "no dictionary"),
        (w.tuple_of(w.text("storage")) + b"Q", "does not name its storage"),
        (w.storage("0", -1), "size is -1"),
        (b"t", "WeightsError|IndexError|not there"),
        (b"h\x07", "not a whole PyTorch checkpoint"),
        (b"0", "not there"),
        (b"\x8d" + struct.pack("<Q", 2**62), "not a whole PyTorch checkpoint"),
        (b"\x8e" + struct.pack("<Q", 2**40), "not a whole PyTorch checkpoint"),
        (b"\x8b" + struct.pack("<i", -5), "not a whole PyTorch checkpoint"),
        (b"I" + b"9" * 10_000 + b"\n", "not a whole PyTorch checkpoint"),
        (b"]", "holds a list"),
        (w.ordered({"epoch": w.number(3)}), "holds no tensors; its entries: 'epoch'"),
    ],
)
def test_instructions_no_checkpoint_needs_are_refused(tmp_path, body, message):
    with pytest.raises(WeightsError, match=message):
        _read(tmp_path, w.archive(w.pickled(body), {}))


def test_memo_numbers_and_nesting_cost_no_memory(tmp_path):
    # The usual reader allocates a table up to the highest memo number, here 32 GiB.
    far = b"}r\xff\xff\xff\xff0" + w.ordered({"w": w.tensor(w.storage("0", 6), (6,), (1,))})
    assert _read(tmp_path, w.archive(w.pickled(far), {"0": RAW}))["w"].shape == (6,)
    deep = b"]" * 200_000 + b"a" * 199_999
    with pytest.raises(WeightsError, match="holds a list"):
        _read(tmp_path, w.archive(w.pickled(deep), {}))
    deep_key = b"}" + w.number(1) + b"\x85" * 200_000 + w.number(1) + b"s"
    with pytest.raises(WeightsError, match="dictionary key is a tuple"):
        _read(tmp_path, w.archive(w.pickled(deep_key), {}))
    # A list of 10,000, copied by a call of six bytes again and again.
    copies = (
        b"](" + b"K\x01" * 10_000 + b"eq\x000" + b"c__builtin__\nlist\nq\x010" + b"h\x01h\x00\x85R0" * 300
    )
    with pytest.raises(WeightsError, match="copies more than 2000000 items"):
        _read(tmp_path, w.archive(w.pickled(copies + b"]"), {}))
    loop = b"}q\x00" + w.text("model") + b"h\x00s"
    with pytest.raises(WeightsError, match="no tensors"):
        _read(tmp_path, w.archive(w.pickled(loop), {}))


@pytest.mark.parametrize(
    "bad",
    [
        {"shape": (2, 4), "strides": (4, 1)},
        {"shape": (2, 3), "strides": (4, 1)},
        {"shape": (2, 3), "strides": (3, 2)},
        {"shape": (2, 3), "strides": (3, -1)},
        {"shape": (-2, 3), "strides": (3, 1)},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**70},
        {"shape": (2**40, 2**40), "strides": (0, 0)},
        {"shape": (2**31, 2**31), "strides": (2**31, 1)},
        {"shape": (7,), "strides": (0,)},
        {"shape": (1,) * 9, "strides": (1,) * 9},
        {"shape": (2, 3), "strides": (1,)},
        {"count": 7, "shape": (7,), "strides": (1,)},
        {"count": 2**50, "shape": (2**50,), "strides": (1,)},
        {"kind": "DoubleStorage"},
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, bad):
    with pytest.raises(WeightsError, match=r"refused|has 24 bytes"):
        _read(tmp_path, _one(**bad))


def test_every_truncation_is_an_error_and_never_a_wrong_number(tmp_path):
    body = w.ordered({"w": w.tensor(w.storage("0", 6, old=True), (2, 3), (3, 1))})
    for raw in (_one(), w.stream(w.pickled(body), {"0": (6, RAW)})):
        for length in range(0, len(raw), 3):
            with pytest.raises(WeightsError):
                _read(tmp_path, raw[:length])


def test_random_damage_raises_nothing_but_weights_error(tmp_path):
    chance = random.Random(0)
    body = w.ordered({"w": w.tensor(w.storage("0", 6, old=True), (2, 3), (3, 1))})
    originals = [_one(), w.stream(w.pickled(body), {"0": (6, RAW)})]
    for _ in range(400):
        raw = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            state = _read(tmp_path, bytes(raw))
        except WeightsError:
            continue
        assert all(isinstance(a, np.ndarray) and a.size <= 6 for a in state.values())


def _scripted(inner: bytes, **more: bytes) -> bytes:
    """TorchScript's archive of a module with one in it, and its code, compressed."""
    outer = w.module("clip", {"training": w.FALSE, "visual": inner, **more})
    raw = io.BytesIO(w.archive(w.pickled(outer), {"0": RAW}))
    with zipfile.ZipFile(raw, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/code/__torch__/clip.py", "def forward(self): pass\n" * 100)
    return raw.getvalue()


def test_tensors_of_a_torchscript_archive_have_the_names_of_its_modules(tmp_path):
    halves = w.tensor(w.storage("0", 6), (2, 3), (3, 1))
    block = w.module("blocks", {"weight": halves, "_is_full_backward_hook": w.NONE})
    deep = w.module(
        "a", {"0": w.module("b", {"attn": w.module("c", {"out": w.module("d", {"proj": block})})})}
    )
    state = _read(tmp_path, _scripted(deep, logit_scale=w.tensor(w.storage("0", 6), (), ())))
    assert set(state) == {"visual.0.attn.out.proj.weight", "logit_scale"}
    np.testing.assert_array_equal(state["visual.0.attn.out.proj.weight"].ravel(), np.arange(6))


def test_modules_within_modules_without_end_are_refused(tmp_path):
    leaf = w.module("leaf", {"w": w.tensor(w.storage("0", 6), (6,), (1,))})
    double = leaf
    for _ in range(12):
        double = w.module("n", {str(i): double for i in range(2)})
    assert len(_read(tmp_path, _scripted(double))) == 2**12
    memo = leaf + b"q\x01"
    for i in range(2, 40):  # each holds the one before it twice, which costs a few bytes
        memo += w.module("n", {"a": b"h" + bytes([i - 1]), "b": b"h" + bytes([i - 1])}) + b"q" + bytes([i])
    with pytest.raises(WeightsError, match="copies more than"):
        _read(tmp_path, _scripted(memo))
    long = leaf
    for _ in range(9):
        long = w.module("n", {"x" * 40: long})
    with pytest.raises(WeightsError, match="more than 300 characters"):
        _read(tmp_path, _scripted(long))


def test_compressed_members_are_refused_as_a_zip_bomb(tmp_path):
    body = w.pickled(w.ordered({"w": w.tensor(w.storage("0", 2**20), (2**20,), (1,))}))
    raw = w.archive(body, {"0": bytes(2**22)}, compression=zipfile.ZIP_DEFLATED)
    assert len(raw) < 10_000
    with pytest.raises(WeightsError, match="compressed"):
        _read(tmp_path, raw)


@pytest.mark.parametrize(
    "raw", [b"", b"\x00" * 100, b"<html>not found</html>", b"\x80\x02}.", np.random.default_rng(0).bytes(64)]
)
def test_what_is_no_checkpoint_is_one_plain_line(tmp_path, raw):
    with pytest.raises(WeightsError) as error:
        _read(tmp_path, raw)
    assert "file.pth" in str(error.value) and "\n" not in str(error.value)


def test_a_pickled_module_is_refused_with_advice():
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.container\.Sequential.*state_dict\(\)"):
        read_torch(DATA / "module_zip.pth")
