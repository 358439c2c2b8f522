"""Names of Google's own ViT: flax modules, as google-research/vision_transformer and big_vision save them.

The two number a block's layers differently, and big_vision adds the CLS token after the positions: its table
has patches' rows only. Both resize the table by `scipy.ndimage.zoom` of order 1, linear between aligned
corners (timm's reader of these files: bilinear without aligned corners).

Source: vit_jax/checkpoint.py and big_vision/models/vit.py.
"""

import re
from collections.abc import Iterator

import numpy as np

from vitjax.weights.layout import Layout, Positions

_BLOCK = r"Transformer\.encoderblock_(\d+)\."
_HERE = r"blocks.\1."
_ATTENTION = _BLOCK + r"MultiHeadDotProductAttention_\d\."
TABLE = {
    r"cls": "cls_token",
    r"embedding\.(.*)": r"patch_embed.proj.\1",
    r"(?:Transformer\.(?:posembed_input\.)?)?pos_embedding": "pos_embed",
    _BLOCK + r"LayerNorm_0\.(.*)": _HERE + r"norm1.\2",
    _BLOCK + r"LayerNorm_[12]\.(.*)": _HERE + r"norm2.\2",
    _ATTENTION + r"(q|k|v)(?:uery|ey|alue)\.(.*)": _HERE + r"attn.\2.\3",
    _ATTENTION + r"out\.(.*)": _HERE + r"attn.proj.\2",
    _BLOCK + r"MlpBlock_\d\.Dense_0\.(.*)": _HERE + r"mlp.fc1.\2",
    _BLOCK + r"MlpBlock_\d\.Dense_1\.(.*)": _HERE + r"mlp.fc2.\2",
    r"Transformer\.encoder_norm\.(.*)": r"norm.\1",
}


def to_torch(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays in torch's shapes of one flax parameter; scanned blocks one by one."""
    scanned = re.fullmatch(r"((?:.*\.)?encoderblock)\.(.*)", name)
    if scanned and array.ndim:  # big_vision's scan: all blocks on a leading axis
        for i, each in enumerate(array):
            yield from to_torch(f"{scanned[1]}_{i}.{scanned[2]}", each)
        return
    *modules, leaf = name.split(".")
    if leaf == "kernel":
        leaf = "weight"
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 3:  # heads: (in, heads, each), and (heads, each, out) on the way back
            inputs = -1 if modules[-1] == "out" else array.shape[0]
            array = array.reshape(inputs, array.shape[2] if modules[-1] == "out" else -1).T
        elif array.ndim == 2:
            array = array.T
    elif leaf == "scale":
        leaf = "weight"
    elif leaf == "bias" and array.ndim == 2:
        array = array.reshape(-1)
    yield ".".join((*modules, leaf)), array


def _google(name: str, mark: str, rows: int | None) -> Layout:
    positions = Positions(prefix_rows=rows, square=True, corners=True)
    return Layout(name, "embedding.kernel", mark, TABLE, positions=positions, to_torch=to_torch)


LAYOUTS = (
    _google("Google ViT", r"Transformer\.posembed_input\.pos_embedding", None),
    _google("Google big_vision", r"Transformer\.encoderblock(_\d+)?\.LayerNorm_1\.scale", 0),
    _google("Google ViT", r"Transformer\.encoderblock_\d+\..*", None),
)
