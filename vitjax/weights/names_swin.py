"""Names of Swin transformers: timm, original Microsoft (also timm before 0.9), Hugging Face.

The three differ in where patch merging belongs: timm counts it to the stage that it opens, the others to the
stage that it ends. All three stack the four neighbours that it merges in the same order.
"""

import re

from vitjax.weights.layout import Layout

_TIMM = "patch_embed.proj.weight"
_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_HERE = r"layers.\1.blocks.\2."
_BUFFER = "follows from the window size and the image size"


def _opens_the_next(match: re.Match) -> str:
    return f"layers.{int(match[1]) + 1}.downsample.{match[2]}"


_IGNORED = {r".*\.relative_position_index": _BUFFER, r".*\.attn_mask": _BUFFER}
_MICROSOFT_TABLE = {
    r"layers\.(\d+)\.downsample\.(.*)": _opens_the_next,
    r"head\.(weight|bias)": r"head.fc.\1",
}
_HF_TABLE = {
    r"embeddings\.patch_embeddings\.projection\.(.*)": r"patch_embed.proj.\1",
    r"embeddings\.norm\.(.*)": r"patch_embed.norm.\1",
    r"encoder\.layers\.(\d+)\.downsample\.(.*)": _opens_the_next,
    _BLOCK + r"layernorm_before\.(.*)": _HERE + r"norm1.\3",
    _BLOCK + r"layernorm_after\.(.*)": _HERE + r"norm2.\3",
    _BLOCK + r"attention\.(?:self\.query|q_proj)\.(.*)": _HERE + r"attn.q.\3",
    _BLOCK + r"attention\.(?:self\.key|k_proj)\.(.*)": _HERE + r"attn.k.\3",
    _BLOCK + r"attention\.(?:self\.value|v_proj)\.(.*)": _HERE + r"attn.v.\3",
    _BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.*)": _HERE + r"attn.proj.\3",
    _BLOCK + r"attention\..*\b(relative_position_bias_table)": _HERE + r"attn.\3",
    _BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)": _HERE + r"mlp.fc1.\3",
    _BLOCK + r"(?:output\.dense|mlp\.fc2)\.(.*)": _HERE + r"mlp.fc2.\3",
    r"layernorm\.(.*)": r"norm.\1",
    r"classifier\.(.*)": r"head.fc.\1",
}
_ANY_BLOCK = r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table"

LAYOUTS = (
    Layout(
        "Hugging Face", "embeddings.patch_embeddings.projection.weight", _BLOCK + ".*", _HF_TABLE, _IGNORED
    ),
    Layout("original Swin", _TIMM, r"layers\.0\.downsample\..*", _MICROSOFT_TABLE, _IGNORED),
    Layout("timm", _TIMM, _ANY_BLOCK, {r"head\.(weight|bias)": r"head.fc.\1"}, _IGNORED),
)
