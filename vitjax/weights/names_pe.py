"""Names of Perception Encoder's own files: both towers, or the image tower; timm's are those of any ViT.

They are CLIP's, and attention pooling besides.

Source: facebookresearch/perception_models, core/vision_encoder/pe.py.
"""

import re
from collections.abc import Iterator

import numpy as np

from vitjax.weights.layout import Layout, Positions
from vitjax.weights.names_clip import OPENAI_TABLE, openai_to_torch

_PLAIN = Positions(antialias=False, square=True, interpolation="bilinear")
_TABLE = {
    r"visual\.attn_pool\.probe": "image.attn_pool.latent",
    r"visual\.attn_pool\.attn\.(q|kv)\.(.*)": r"image.attn_pool.\1.\2",
    r"visual\.attn_pool\.attn\.out_proj\.(.*)": r"image.attn_pool.proj.\1",
    r"visual\.attn_pool\.layernorm\.(.*)": r"image.attn_pool.norm.\1",
    r"visual\.attn_pool\.mlp\.c_fc\.(.*)": r"image.attn_pool.mlp.fc1.\1",
    r"visual\.attn_pool\.mlp\.c_proj\.(.*)": r"image.attn_pool.mlp.fc2.\1",
    r"visual\.transformer\.resblocks\.(\d+)\.ls_([12])\.gamma": r"image.blocks.\1.ls\2.gamma",
    **OPENAI_TABLE,
}


def _to_torch(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Of attention pooling, queries apart from the rest."""
    if packed := re.fullmatch(r"(visual\.attn_pool\.attn)\.in_proj_(weight|bias)", name):
        third = len(array) // 3
        yield f"{packed[1]}.q.{packed[2]}", array[:third]
        yield f"{packed[1]}.kv.{packed[2]}", array[third:]
    else:
        yield from openai_to_torch(name, array)


def _of_images(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield from _to_torch(f"visual.{name}", array)


LAYOUTS = (
    Layout(
        "Perception Encoder", "visual.conv1.weight", r"visual\.attn_pool\.probe", _TABLE, positions=_PLAIN,
        to_torch=_to_torch, claims=("visual.attn_pool.probe", "token_embedding.weight"),
    ),
    Layout(
        "Perception Encoder", "attn_pool.probe", r"conv1\.weight", _TABLE, positions=_PLAIN,
        to_torch=_of_images, claims=("conv1.weight",),
    ),
)  # fmt: skip
