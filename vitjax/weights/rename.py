"""Names in a checkpoint, told apart by what they look like, brought into timm's names, then into linen paths.

timm's names are the common language: each layout is one table of patterns into it (`names_vit` and its like,
one file per family), and one rule turns a timm name into the path of a linen parameter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vitjax.weights import names_cvt, names_lvvit, names_resnet, names_swin, names_vit
from vitjax.weights.errors import WeightsError
from vitjax.weights.layout import Layout, Positions
from vitjax.weights.onnx_file import CLS_ROWS, PATCH_ROWS


@dataclass
class Renamed:
    """A checkpoint in timm's names."""

    layout: str
    positions: Positions
    state: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # timm name: name in the file
    ignored: dict[str, str] = field(default_factory=dict)  # name in the file: why
    computes: Mapping[str, object] = field(default_factory=dict)  # see Layout


_MASK = "only masked training uses it"
_POOLER = "a layer after the pooled token, not part of the backbone"

# The first whose anchor and mark a checkpoint has is its layout; those of plain ViT tell by least, so they
# come last.
_LAYOUTS = (
    *names_cvt.LAYOUTS,
    *names_lvvit.LAYOUTS,
    *names_resnet.LAYOUTS,
    *names_swin.LAYOUTS,
    *names_vit.LAYOUTS,
)
_IGNORED = {
    r"(embeddings\.)?mask_token": _MASK,
    r"pooler\..*": _POOLER,
    r".*\.num_batches_tracked": "a counter of training",
}
_STATISTICS = {"running_mean": "mean", "running_var": "var"}  # of batch norms
_TORCH_STATISTICS = {ours: theirs for theirs, ours in _STATISTICS.items()}
_HEADS = re.compile(r"(head|head_dist|classifier|cls_classifier|distillation_classifier)\.(weight|bias)")


def rename(state: Mapping[str, np.ndarray]) -> Renamed:
    """Brings a checkpoint of any known layout into timm's names.

    Layouts: those of the `names_*` modules, one per family; any wrapper's prefix.

    Raises:
        WeightsError: no known layout.
    """
    layout, prefix = _find_layout(state)
    renamed = Renamed(layout.name, layout.positions, computes=layout.computes)
    outside = []
    for name in state:
        if name.startswith(prefix):
            _place(renamed, layout, name, name.removeprefix(prefix), state[name])
        else:
            outside.append(name)
    for name in outside:
        head = _HEADS.search(name)
        if head and head.end() == len(name):
            _place(renamed, layout, name, head.group(), state[name])
        else:
            renamed.ignored[name] = f"outside {prefix!r}, where the backbone is"
    _join(renamed, CLS_ROWS, (CLS_ROWS, PATCH_ROWS), "pos_embed", axis=1)
    for name in [n for n in renamed.state if re.search(r"\.attn\.q\.\w+$", n)]:
        stem, leaf = name.split(".q.")
        _join(renamed, name, tuple(f"{stem}.{x}.{leaf}" for x in "qkv"), f"{stem}.qkv.{leaf}", axis=0)
    return renamed


def _find_layout(state: Mapping[str, np.ndarray]) -> tuple[Layout, str]:
    for layout in _LAYOUTS:
        prefix = layout.prefix(state)
        if prefix is not None:
            return layout, prefix
    some = ", ".join(repr(n) for n in list(state)[:5])
    anchors = " or ".join(dict.fromkeys(repr(layout.anchor) for layout in _LAYOUTS))
    raise WeightsError(
        f"these are not the weights of a model we know: no {anchors} among {len(state)} names ({some}, ...)."
    )


def _place(renamed: Renamed, layout: Layout, name: str, inner: str, array: np.ndarray) -> None:
    for pattern, reason in (_IGNORED | layout.ignored).items():
        if re.fullmatch(pattern, inner):
            renamed.ignored[name] = reason
            return
    if "::" in name:
        renamed.ignored[name] = "a nameless constant of the graph"
        return
    for pattern, target in layout.table.items():
        match = re.fullmatch(pattern, inner)
        if match:
            inner = target(match) if callable(target) else match.expand(target)
            break
    if inner in renamed.state:
        inner = name  # A second weight for the same place stays under its own name, and is unexpected.
    renamed.state[inner] = array
    renamed.origin[inner] = name


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
