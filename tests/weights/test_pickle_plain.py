"""Plain pickles: what Python wrote comes back, and nothing that a file asks for is run."""

import collections
import contextlib
import datetime
import pathlib
import pickle

import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.weights.pickle_plain import read_plain_pickle


class Shout:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_text_and_arrays_come_back_from_every_protocol(tmp_path: pathlib.Path, protocol):
    shared = [3, 70_000, -(2**40)]
    value = {
        "gnd": [{"bbx": [1.5, 2.0], "ok": shared, "junk": []}, {"ok": shared, "none": None, "yes": True}],
        "imlist": ["a", "b/ü"],
        "array": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "empty": np.zeros((0, 2)),
        "big": np.array([1.25, -2.5], ">f8"),
        "scalars": (np.int64(-7), np.float32(0.5), np.uint8(200)),
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_plain_pickle(path)
    assert found["gnd"] == value["gnd"]
    assert found["imlist"] == value["imlist"]
    np.testing.assert_array_equal(found["array"], value["array"])
    assert found["empty"].shape == (0, 2)
    np.testing.assert_array_equal(found["big"], value["big"])
    assert found["scalars"] == (-7, 0.5, 200)


def test_what_python_2_wrote_comes_back(tmp_path: pathlib.Path):
    # cPickle of {'ok': numpy.array([1, 258], '<i2'), 'name': 'x'}, protocol 2, its text as bytes.
    raw = (
        b"\x80\x02}q\x00(U\x02okq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02i2q\nK\x00K\x01"
        b"\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89"
        b"U\x04\x01\x00\x02\x01q\x0ftq\x10bU\x04nameq\x11U\x01xq\x12u."
    )
    (tmp_path / "x.pkl").write_bytes(raw)
    found = read_plain_pickle(tmp_path / "x.pkl")
    assert found["ok"].tolist() == [1, 258]
    assert found["name"] == "x"


@pytest.mark.parametrize(
    "value",
    [
        Shout(),
        [1, {"a": Shout()}],
        collections.Counter("ab"),
        datetime.date(2020, 1, 2),
        np.array([Shout()], object),
        np.datetime64("2020-01-01"),
        print,
        np.zeros,
    ],
)
def test_anything_else_is_refused_and_not_run(tmp_path: pathlib.Path, capsys, value):
    for protocol in (0, 2, 4):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(UserError, match="is not read: it ") as caught:
            read_plain_pickle(tmp_path / "x.pkl")
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_damaged_files_are_one_line(tmp_path: pathlib.Path):
    whole = pickle.dumps({"imlist": ["a", "b"], "array": np.arange(9)}, 4)
    path = tmp_path / "x.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            read_plain_pickle(path)
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x5A]) + whole[i + 1 :])
        with contextlib.suppress(UserError):
            read_plain_pickle(path)
    with pytest.raises(UserError, match="does not exist"):
        read_plain_pickle(tmp_path / "y.pkl")
