"""Names in a checkpoint, told apart by what they look like, brought into timm's names, then into linen paths.

timm's names are the common language: each layout is one table of patterns into it (`names_vit` and its like,
one file per family), and one rule turns a timm name into the path of a linen parameter.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from vitjax.weights.entries import Choice, choose
from vitjax.weights.layout import AGAIN, Layout, Positions
from vitjax.weights.onnx_file import CLS_ROWS, PATCH_ROWS


@dataclass
class Renamed:
    """A checkpoint in timm's names."""

    layout: str
    positions: Positions
    entry: str = ""  # what stands before its names in the file
    state: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # timm name: name in the file
    ignored: dict[str, str] = field(default_factory=dict)  # name in the file: why
    computes: Mapping[str, object] = field(default_factory=dict)  # see Layout


_MASK = "only masked training uses it"
_POOLER = "a layer after the pooled token, not part of the backbone"

_IGNORED = {
    r"(embeddings\.)?mask_token": _MASK,
    r"pooler\..*": _POOLER,
    r".*\.num_batches_tracked": "a counter of training",
    r".*::.*|\..*|ortshared_.*|val_\d+": "a nameless constant of the graph",  # "/a/b" has become ".a.b"
}
_STATISTICS = {"running_mean": "mean", "running_var": "var"}  # of batch norms
_TORCH_STATISTICS = {ours: theirs for theirs, ours in _STATISTICS.items()}
_CHUNKED = re.compile(r"blocks\.(\d{1,9})\.(\d{1,9})\.(.*)")
_HEADS = re.compile(r"(head|head_dist|classifier|cls_classifier|distillation_classifier)\.(weight|bias)")


def rename(state: Mapping[str, np.ndarray], choice: Choice | None = None) -> Renamed:
    """Brings a checkpoint of any known layout into timm's names.

    Layouts: those of the `names_*` modules, one per family; any wrapper's prefix.

    Args:
        state: arrays by name in the file.
        choice: which of them; None = by meaning, where there are several sets.

    Raises:
        WeightsError: no known layout, or no choice by meaning.
    """
    choice = choice or choose(state)
    layout, prefix = choice.layout, choice.prefix
    renamed = Renamed(layout.name, layout.positions, prefix.removesuffix("."), computes=layout.computes)
    targets: dict[str, list[tuple[str, np.ndarray]]] = {}  # by timm's name: names in the file and arrays
    inside = {name.removeprefix(prefix): raw for name, raw in choice.names.items() if name.startswith(prefix)}
    unchunked = _without_chunks(inside)
    for name, raw in inside.items():
        if reason := "it is empty" if not state[raw].size else _reason_to_ignore(layout, name):
            renamed.ignored[raw] = reason
            continue
        for inner, array in layout.to_torch(unchunked[name], state[raw]):
            targets.setdefault(_target(layout, inner), []).append((raw, array))
    heads: dict[str, list[tuple[str, np.ndarray]]] = {}
    for name, raw in choice.names.items():
        if name.startswith(prefix):
            continue
        head = _HEADS.search(name)
        target = _target(layout, head.group()) if head and head.end() == len(name) else ""
        if target and target not in targets:
            heads.setdefault(target, []).append((raw, state[raw]))
        else:
            renamed.ignored[raw] = f"outside {prefix!r}, where the backbone is"
    for target, found in (targets | heads).items():
        for raw, array in found:
            # Of two weights for one name neither is taken: both are unexpected, whatever their order.
            name = target if len(found) == 1 else f"{raw} (one of {len(found)} for {target})"
            renamed.state[name], renamed.origin[name] = array, raw
    renamed.ignored |= choice.left_out
    _add(renamed)
    _join(renamed, CLS_ROWS, (CLS_ROWS, PATCH_ROWS), "pos_embed", axis=1)
    _join_attention(renamed)
    for name in [n for n in renamed.state if re.search(r"\.attn_pool\.k\.\w+$", n)]:
        stem, leaf = name.split(".k.")
        _join(renamed, name, (name, f"{stem}.v.{leaf}"), f"{stem}.kv.{leaf}", axis=0)
    _drop_key_biases(renamed)
    _unpack_gates(renamed)
    return renamed


def _without_chunks(names: Collection[str]) -> dict[str, str]:
    """Names of DINOv2's training, blocks.CHUNK.NUMBER.*, without the chunk.

    There a block keeps its number in the whole row; where blocks are numbered anew in every chunk, they are
    counted through.
    """
    chunked = {name: match for name in names if (match := _CHUNKED.fullmatch(name))}
    blocks = sorted({(int(match[1]), int(match[2])) for match in chunked.values()})
    anew = len({number for _, number in blocks}) < len(blocks)
    number = {block: i if anew else block[1] for i, block in enumerate(blocks)}
    return {
        name: f"blocks.{number[int(chunked[name][1]), int(chunked[name][2])]}.{chunked[name][3]}"
        if name in chunked
        else name
        for name in names
    }


def _add(renamed: Renamed) -> None:
    """Adds arrays to those that their code adds them to; one that is alone stands for the sum."""
    for name in [n for n in renamed.state if n.endswith(AGAIN)]:
        target, array = name.removesuffix(AGAIN), renamed.state[name]
        if target not in renamed.state:
            _split(renamed, name, {target: slice(None)})
        elif renamed.state[target].shape == array.shape:
            renamed.state[target] = np.asarray(renamed.state[target], np.float32) + array
            renamed.origin[target] += f" + {renamed.origin.pop(name)}"
            del renamed.state[name]


def _join_attention(renamed: Renamed) -> None:
    """Queries, keys and values become one array; keys may have no bias."""
    for name in [n for n in renamed.state if re.search(r"\.attn\.q\.\w+$", n)]:
        stem, leaf = name.split(".q.")
        parts = tuple(f"{stem}.{x}.{leaf}" for x in "qkv")
        if parts[1] in renamed.state:
            _join(renamed, name, parts, f"{stem}.qkv.{leaf}", axis=0)
        elif leaf == "bias":  # keys without one
            for x in "qv":
                _split(renamed, f"{stem}.{x}.{leaf}", {f"{stem}.{x}_{leaf}": slice(None)})


def _drop_key_biases(renamed: Renamed) -> None:
    """Of biases of queries, keys and values in one array, those of keys count for nothing and go."""
    for name in [n for n in renamed.state if n.endswith(".qkv.bias_without_keys")]:
        third, stem = len(renamed.state[name]) // 3, name.removesuffix(".qkv.bias_without_keys")
        _split(renamed, name, {f"{stem}.q_bias": slice(third), f"{stem}.v_bias": slice(2 * third, None)})


def _unpack_gates(renamed: Renamed) -> None:
    """Gated MLPs whose gate and value are one layer become two, the gate's rows first."""
    for name in [n for n in renamed.state if re.search(r"\.mlp\.fc1\.\w+$", n)]:
        stem, leaf = name.rsplit(".", 1)
        after = renamed.state.get(f"{stem[:-1]}2.weight")
        rows = renamed.state[name].shape[:1]
        if after is not None and after.ndim == 2 and rows == (2 * after.shape[1],):
            half = after.shape[1]
            _split(renamed, name, {f"{stem}_g.{leaf}": slice(half), f"{stem}_x.{leaf}": slice(half, None)})


def _split(renamed: Renamed, name: str, parts: Mapping[str, slice]) -> None:
    """Replaces an array by rows of it under names of their own."""
    if name not in renamed.state:
        return
    array, origin = renamed.state.pop(name), renamed.origin.pop(name)
    for part, rows in parts.items():
        renamed.state[part], renamed.origin[part] = array[rows], origin


def _reason_to_ignore(layout: Layout, name: str) -> str:
    """Why a weight is left out, by its name behind the prefix; "" = it is not."""
    for pattern, reason in (_IGNORED | layout.ignored).items():
        if re.fullmatch(pattern, name):
            return reason
    return ""


def _target(layout: Layout, name: str) -> str:
    """Name in timm."""
    for pattern, target in layout.table.items():
        match = re.fullmatch(pattern, name)
        if match:
            return target(match) if callable(target) else match.expand(target)
    return name


def _join(renamed: Renamed, first: str, parts: tuple[str, ...], target: str, *, axis: int) -> None:
    """Replaces `parts` by one array where all are there; a part alone stays, for the report."""
    if not all(p in renamed.state for p in parts):
        return
    arrays = [renamed.state[p] for p in parts]
    if len({(a.ndim, a.shape[:axis], a.shape[axis + 1 :]) for a in arrays}) != 1 or arrays[0].ndim <= axis:
        return
    origin = " + ".join(renamed.origin[p] for p in parts)
    for part in parts:
        del renamed.state[part], renamed.origin[part]
    renamed.state[target] = np.concatenate(arrays, axis=axis)
    renamed.origin[target] = origin


def collection(path: tuple[str, ...]) -> str:
    """Collection of variables that a linen path belongs to."""
    return "batch_stats" if path[-1] in _TORCH_STATISTICS else "params"


def to_path(name: str, array: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Path and value of the linen parameter that a timm name stands for.

    Linear weights (out, in) become kernels (in, out), convolutions (out, in, h, w) kernels (h, w, in, out),
    the weight of a norm its scale, running statistics `mean` and `var`; numbered modules `blocks.0` are
    `blocks_0`.
    """
    *modules, leaf = re.sub(r"\.(\d+)(?=\.)", r"_\1", name).split(".")
    if leaf == "weight":
        leaf = "scale" if array.ndim == 1 else "kernel"
        if array.ndim == 2:
            array = array.T
        elif array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
    return (*modules, _STATISTICS.get(leaf, leaf)), array


def to_name(path: tuple[str, ...]) -> str:
    """Timm name of a linen parameter; the other direction of `to_path`."""
    *modules, leaf = path
    leaf = "weight" if leaf in ("scale", "kernel") else _TORCH_STATISTICS.get(leaf, leaf)
    return re.sub(r"(?<=[a-z\d])_(\d+)(?=\.)", r".\1", ".".join((*modules, leaf)))


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape a linen parameter has in a torch file."""
    if path[-1] == "kernel":
        return shape[::-1] if len(shape) == 2 else (shape[3], shape[2], shape[0], shape[1])
    return shape
