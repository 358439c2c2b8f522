"""Weights in several files: an index in JSON says which name lies in which file of its folder."""

import pathlib
import re

from vitjax.errors import WeightsError
from vitjax.system.files import parse_json

_MAX_INDEX = 64 * 2**20  # bytes
# What a folder's weights are called by those who save models in folders, the preferred first.
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = tuple(f"{name}.index.json" for name in WHOLE)
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_ENDINGS = (".safetensors", ".npz", ".onnx", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def file_of_folder(folder: pathlib.Path) -> pathlib.Path:
    """The one weight file of a folder, or the index of its shards.

    Raises:
        WeightsError: none, or several; with their names.
    """
    for whole, index in zip(WHOLE, INDEXES, strict=True):
        for name in (whole, index):
            if (folder / name).is_file():
                return folder / name
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    found = [name for name in names if name.lower().endswith(".index.json")]
    found = found or [name for name in names if name.lower().endswith(_ENDINGS)]
    if len(found) != 1:
        several = f": it holds {', '.join(map(repr, found[:8]))}" if found else ""
        raise WeightsError(f"weights file {str(folder)!r} is a folder; give a file in it{several}.")
    return folder / found[0]


def read_index(path: pathlib.Path) -> dict[str, str]:
    """File name of every weight.

    Raises:
        WeightsError: no index, or a file that is not in its folder.
    """
    if path.stat().st_size > _MAX_INDEX:
        raise WeightsError(f"it is JSON of more than {_MAX_INDEX} bytes; refused.")
    index = parse_json(path.read_bytes())
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise WeightsError("it is JSON without a 'weight_map' of names to files; give the weights' own file.")
    for file in sorted(set(files.values())):
        if pathlib.PurePath(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise WeightsError(f"its 'weight_map' names {file[:80]!r}, no file of its own folder; refused.")
        if file.lower().endswith(".json"):
            raise WeightsError(f"its 'weight_map' names {file[:80]!r}, no weight file; refused.")
    return files


def refuse_shard(path: pathlib.Path) -> None:
    """Refuses one file of several, by its name.

    Raises:
        WeightsError: it is one; the text names the index.
    """
    parts = _SHARD.fullmatch(path.name)
    if parts and int(parts[3]) > 1:
        raise WeightsError(
            f"it is shard {int(parts[2])} of {int(parts[3])}, a part of the weights; give the index "
            f"{parts[1]}{parts[4]}.index.json, or the folder."
        )
