"""Names in a checkpoint, told apart by what they look like, brought into timm's names, then into linen paths.

timm's names are the common language: each layout is one table of patterns into it, and one rule turns a
timm name into the path of a linen parameter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vitjax.weights.errors import WeightsError
from vitjax.weights.onnx_file import CLS_ROWS, PATCH_ROWS


@dataclass(frozen=True)
class Positions:
    """How the code that made a checkpoint resizes its position table, and what the table's rows are.

    Attributes:
        antialias: bicubic with antialiasing (timm), or without.
        offset: in patches; see `vitjax.models.pos_embed`.
        prefix_rows: rows before the patches' rows; None = as the model has.
        square: the code takes the patch grid to be square whenever it can be.
    """

    antialias: bool = True
    offset: float = 0.0
    prefix_rows: int | None = None
    square: bool = False

    def __str__(self) -> str:
        step = f"scale factor with offset {self.offset}" if self.offset else "size"
        return f"bicubic by {step}, {'' if self.antialias else 'not '}antialiased"


@dataclass
class Renamed:
    """A checkpoint in timm's names."""

    layout: str
    positions: Positions
    state: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # timm name: name in the file
    ignored: dict[str, str] = field(default_factory=dict)  # name in the file: why


_MASK = "only masked training uses it"
_POOLER = "a layer after the pooled token, not part of the backbone"

# pattern: replacement by a timm name. An entry of _IGNORED says why instead.
_TIMM = {r"(.*)": r"\1"}
_DINOV2 = {r"register_tokens": "reg_token", **_TIMM}
_HF_BLOCK = r"(?:encoder\.)?layers?\.(\d+)\."
_HF = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.position_embeddings": "pos_embed",
    rf"embeddings\.({CLS_ROWS}|{PATCH_ROWS})": r"\1",
    r"embeddings\.patch_embeddings\.projection\.(.*)": r"patch_embed.proj.\1",
    _HF_BLOCK + r"(?:norm1|layernorm_before)\.(.*)": r"blocks.\1.norm1.\2",
    _HF_BLOCK + r"(?:norm2|layernorm_after)\.(.*)": r"blocks.\1.norm2.\2",
    _HF_BLOCK + r"attention\.(?:attention\.query|q_proj)\.(.*)": r"blocks.\1.attn.q.\2",
    _HF_BLOCK + r"attention\.(?:attention\.key|k_proj)\.(.*)": r"blocks.\1.attn.k.\2",
    _HF_BLOCK + r"attention\.(?:attention\.value|v_proj)\.(.*)": r"blocks.\1.attn.v.\2",
    _HF_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.*)": r"blocks.\1.attn.proj.\2",
    _HF_BLOCK + r"layer_scale(\d)\.lambda1": r"blocks.\1.ls\2.gamma",
    _HF_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)": r"blocks.\1.mlp.fc1.\2",
    _HF_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(.*)": r"blocks.\1.mlp.fc2.\2",
    r"layernorm\.(.*)": r"norm.\1",
    r"(?:cls_)?classifier\.(.*)": r"head.\1",
    r"distillation_classifier\.(.*)": r"head_dist.\1",
}
_IGNORED = {
    r"(embeddings\.)?mask_token": _MASK,
    r"pooler\..*": _POOLER,
    r".*\.num_batches_tracked": "a counter of training",
}
# The patch projection, under its name in each family of layouts: what comes before it is a wrapper's prefix.
_ANCHORS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")
_HEADS = re.compile(r"(head|head_dist|classifier|cls_classifier|distillation_classifier)\.(weight|bias)")


def rename(state: Mapping[str, np.ndarray]) -> Renamed:
    """Brings a checkpoint of any known layout into timm's names.

    Layouts: timm (also the original DeiT), original DINOv2, Hugging Face ViT, DeiT and DINOv2 (names in
    files, and those transformers 5 uses in memory), and ONNX exports of these; any wrapper's prefix.

    Raises:
        WeightsError: no patch projection under a known name.
    """
    prefix, anchor = _find_prefix(state)
    inside, outside = {}, {}
    for name in state:
        (inside if name.startswith(prefix) else outside)[name] = name.removeprefix(prefix)
    short = set(inside.values())
    registers = bool({"register_tokens", "embeddings.register_tokens"} & short)
    if anchor == _ANCHORS[1]:
        rows = 1 + ("embeddings.distillation_token" in short)
        table = _HF
        layout = "Hugging Face"
        positions = Positions(antialias=registers, prefix_rows=rows, square=True)
    elif registers or "mask_token" in short:
        table, layout = _DINOV2, "original DINOv2"
        positions = Positions(registers, 0.0 if registers else 0.1, prefix_rows=1, square=True)
    else:
        table, layout, positions = _TIMM, "timm", Positions()
    renamed = Renamed(layout, positions)
    for name, inner in inside.items():
        _place(renamed, table, name, inner, state[name])
    for name in outside:
        head = _HEADS.search(name)
        if head and head.end() == len(name):
            _place(renamed, table, name, head.group(), state[name])
        else:
            renamed.ignored[name] = f"outside {prefix!r}, where the backbone is"
    _join(renamed, CLS_ROWS, (CLS_ROWS, PATCH_ROWS), "pos_embed", axis=1)
    for name in [n for n in renamed.state if re.search(r"\.attn\.q\.\w+$", n)]:
        stem, leaf = name.split(".q.")
        _join(renamed, name, tuple(f"{stem}.{x}.{leaf}" for x in "qkv"), f"{stem}.qkv.{leaf}", axis=0)
    return renamed


def _find_prefix(state: Mapping[str, np.ndarray]) -> tuple[str, str]:
    for anchor in _ANCHORS:
        found = [n for n in state if n == anchor or n.endswith("." + anchor)]
        if found:
            # A checkpoint of training may hold a student beside: the shortest name is the plain backbone.
            return min(found, key=len).removesuffix(anchor), anchor
    some = ", ".join(repr(n) for n in list(state)[:5])
    raise WeightsError(
        f"these are not the weights of a vision transformer we know: no {' or '.join(map(repr, _ANCHORS))} "
        f"among {len(state)} names ({some}, ...)."
    )


def _place(renamed: Renamed, table: dict[str, str], name: str, inner: str, array: np.ndarray) -> None:
    for pattern, reason in _IGNORED.items():
        if re.fullmatch(pattern, inner):
            renamed.ignored[name] = reason
            return
    if "::" in name:
        renamed.ignored[name] = "a nameless constant of the graph"
        return
    for pattern, target in table.items():
        match = re.fullmatch(pattern, inner)
        if match:
            inner = match.expand(target)
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


def to_path(name: str, array: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Path and value of the linen parameter that a timm name stands for.

    Linear weights (out, in) become kernels (in, out), convolutions (out, in, h, w) kernels (h, w, in, out),
    the weight of a norm its scale; numbered modules `blocks.0` are `blocks_0`.
    """
    *modules, leaf = re.sub(r"\.(\d+)(?=\.)", r"_\1", name).split(".")
    if leaf == "weight":
        leaf = "scale" if array.ndim == 1 else "kernel"
        if array.ndim == 2:
            array = array.T
        elif array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
    return (*modules, leaf), array


def to_name(path: tuple[str, ...]) -> str:
    """Timm name of a linen parameter; the other direction of `to_path`."""
    *modules, leaf = path
    leaf = "weight" if leaf in ("scale", "kernel") else leaf
    return re.sub(r"(?<=[a-z])_(\d+)(?=\.)", r".\1", ".".join((*modules, leaf)))


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape a linen parameter has in a torch file."""
    if path[-1] == "kernel":
        return shape[::-1] if len(shape) == 2 else (shape[3], shape[2], shape[0], shape[1])
    return shape
