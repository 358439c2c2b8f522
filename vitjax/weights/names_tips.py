"""Names of TIPS: the image file, the text file, both as one, and Hugging Face's, which has both.

They are those of DINOv2 and of a text tower of CLIP; the second CLS token is called a register. An image file
alone is told from DINOv2's by nothing, and read as one; the model says how positions are resized.

Source: google-deepmind/tips, pytorch/image_encoder.py and text_encoder.py.
"""

from collections.abc import Iterator

import numpy as np

from vitjax.weights.layout import Layout, Positions
from vitjax.weights.names_clip import OPENAI_TEXT

_IMAGE, _TEXT = "vision_encoder.", "text_encoder."
_IMAGE_TABLE = {
    r"register_tokens": "image.reg_token",
    r"(blocks\.\d+\.mlp)\.w12\.(.*)": r"image.\1.fc1.\2",
    r"(blocks\.\d+\.mlp)\.w3\.(.*)": r"image.\1.fc2.\2",
    r"(blocks\.\d+\.mlp)\.c_fc\.(.*)": r"image.\1.fc1.\2",
    r"(blocks\.\d+\.mlp)\.c_proj\.(.*)": r"image.\1.fc2.\2",
    r"((?:cls_token|pos_embed|patch_embed|blocks|norm)\b.*)": r"image.\1",
}
_BOTH = _IMAGE_TABLE | OPENAI_TEXT


def _to_torch(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Names without Hugging Face's prefixes; the temperature as the logarithm of what it divides by."""
    name = name.removeprefix(_IMAGE).removeprefix(_TEXT)
    if name in ("temperature", "temperature_contrastive") and array.size == 1:
        name, array = "logit_scale", np.asarray(-np.log(np.asarray(array, np.float64).reshape(())))
    yield name, array


def _layout(anchor: str, mark: str, claims: tuple[str, ...] = ()) -> Layout:
    positions = Positions(True, 0.0, 1, square=True, interpolation="bilinear")
    ignored = {r"(vision_encoder\.)?mask_token": "only masked training uses it"}
    return Layout("TIPS", anchor, mark, _BOTH, ignored, positions, to_torch=_to_torch, claims=claims)


LAYOUTS = (
    _layout(f"{_IMAGE}patch_embed.proj.weight", "", (f"{_TEXT}token_embedding.weight",)),
    _layout("patch_embed.proj.weight", r"token_embedding\.weight", ("token_embedding.weight",)),
    _layout("token_embedding.weight", "temperature(_contrastive)?"),
)
