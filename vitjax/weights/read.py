"""Weight files as flat {name: array}; nothing in a file is ever executed."""

import os
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vitjax.errors import WeightsError
from vitjax.weights.archive import open_archive
from vitjax.weights.damage import naming
from vitjax.weights.npz_file import read_npz
from vitjax.weights.onnx_file import read_onnx
from vitjax.weights.safetensors_file import read_safetensors
from vitjax.weights.shards import file_of_folder, read_index, refuse_shard
from vitjax.weights.torch_file import read_torch

Pick = Callable[[Collection[str]], Collection[str]]

# By ending, for files whose content tells nothing; what is damaged is still called by its name.
_ENDINGS = {
    ".safetensors": "safetensors",
    ".npz": ".npz",
    ".onnx": ".onnx",
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".tar"), "PyTorch"),
}
_KNOWN = "known: .safetensors .npz .onnx .pth .pt .bin .ckpt, and indexes of shards."
_OTHERS = {
    b"\x93NUMPY": "a single NumPy array; save weights by name, with numpy.savez",
    b"\x89HDF\r\n": "an HDF5 file; save it in one of these",
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull in its folder",
    b"<": "a web page or XML; fetch the file behind it",
    b"\x1f\x8b": "packed by gzip; unpack it first",
    b"\xfd7zXZ": "packed by xz; unpack it first",
    b"BZh": "packed by bzip2; unpack it first",
}
_TRAINED: dict[str, str] = dict.fromkeys(
    ("last.safetensors", "best.safetensors"),
    ", or run train.py first: it leaves one in its --workdir",
)


def read_state(path: str | os.PathLike[str], pick: Pick | None = None) -> dict[str, np.ndarray]:
    """Arrays of a weight file by their name in it.

    What a file is, its content tells, not its ending.

    Args:
        path: safetensors, .npz, PyTorch's .pth, .pt, .bin or .ckpt (read without torch) or .onnx (extra
            `onnx`); an index of shards (model.safetensors.index.json); or a folder that holds one of these.
        pick: names to names that are wanted; asked before tensors are read. None = all; a nested state
            dictionary that is the only one loses its own name.

    Returns:
        Arrays in the types of the file, some of them views of one buffer or of the file.

    Raises:
        WeightsError: the file is missing, damaged, hostile or of an unknown kind; the text names it.
    """
    path = pathlib.Path(path)
    with naming(path, "folder"):
        path = file_of_folder(path) if path.is_dir() else path
    with naming(path, "index"):
        if not path.is_file():
            maker = _TRAINED.get(path.name, "")
            raise WeightsError(f"weights file {str(path)!r} does not exist; check the path{maker}.")
        if _kind(path) == "index":
            return _read_shards(path, pick)
        refuse_shard(path)
    return _read_file(path, pick)


def _read_file(path: pathlib.Path, pick: Pick | None) -> dict[str, np.ndarray]:
    kind = _kind(path)
    with naming(path, f"{kind} file"):
        if kind not in _READERS:
            raise WeightsError("it is an index, where weights are expected; refused.")
        return check_state(_READERS[kind](path, pick), f"weights file {str(path)!r}")


def _read_shards(path: pathlib.Path, pick: Pick | None) -> dict[str, np.ndarray]:
    """Weights of all files that an index names; those that the index does not name are not read."""
    files = read_index(path)
    wanted = set(files if pick is None else pick(files))
    state = {}
    for file in sorted({files[name] for name in wanted}):
        shard = path.parent / file
        if not shard.is_file():
            raise WeightsError(f"its shard {file!r} is not in the folder; fetch all of them.")
        inside = {name for name in wanted if files[name] == file}

        def those(names: Collection[str], inside: set[str] = inside) -> Collection[str]:
            if lost := sorted(inside - set(names)):
                raise WeightsError(
                    f"{len(lost)} names that the index places in it are missing, {lost[0]!r} for one; fetch "
                    "both again."
                )
            return inside

        state |= _read_file(shard, those)
    return state


def _kind(path: pathlib.Path) -> str:
    """The format of a file, by its first bytes; by its ending only where they tell nothing."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError("it is empty; fetch it again.")
    ending = _ENDINGS.get(path.suffix.lower(), "")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_archive(path)
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "PyTorch"
    if head.lstrip().startswith(b"{"):
        return "index"
    # Field 1 of an ONNX model, the version of its format, then any of its other fields.
    if (
        head[:1] == b"\x08"
        and 0 < head[1] < 32
        and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x3a", b"\x42")
    ):
        return ".onnx"
    for start, what in _OTHERS.items():
        if head.lstrip().startswith(start):
            raise WeightsError(f"it is {what}; {_KNOWN}")
    if not ending:
        raise WeightsError(
            f"it is in no known format (neither its content nor its ending tells one); {_KNOWN}"
        )
    return ending


def _kind_of_archive(path: pathlib.Path) -> str:
    """PyTorch's checkpoints and NumPy's archives are zip files both."""
    with path.open("rb") as file, open_archive(file) as archive:
        names = archive.namelist()
    if any(name.split("/")[-1] == "data.pkl" for name in names):
        return "PyTorch"
    if any(name.endswith(".npy") for name in names):
        return ".npz"
    return _ENDINGS.get(path.suffix.lower(), "PyTorch")


_READERS: dict[str, Callable[[pathlib.Path, Pick | None], dict[str, np.ndarray]]] = {
    "safetensors": read_safetensors,
    ".npz": read_npz,
    ".onnx": read_onnx,
    "PyTorch": read_torch,
}


def check_state(state: Mapping[str, Any], source: str = "weights") -> dict[str, np.ndarray]:
    """Accepts arrays by name, from a file or handed over directly; torch tensors too.

    Args:
        state: the arrays.
        source: where they came from, for the message.

    Raises:
        WeightsError: a name that is no text, or a value that is no array of real numbers.
    """
    checked = {}
    for name, value in state.items():
        # A torch tensor may want gradients, or be of a type that NumPy lacks.
        array = np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
        if not isinstance(name, str) or not (array.dtype.kind in "fiub" or array.dtype == jnp.bfloat16):
            raise WeightsError(
                f"{source}: {name!r} is a {type(value).__name__} of {array.dtype}; "
                "expected an array of numbers."
            )
        checked[name] = array
    return checked
