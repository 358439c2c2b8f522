"""Names of plain vision transformers: timm (also the original DeiT), original DINOv2, Hugging Face.

Hugging Face names come in two forms, in files and as transformers 5 has them in memory; ONNX exports carry
either.
"""

from vitjax.weights.layout import Layout, Positions
from vitjax.weights.onnx_file import CLS_ROWS, PATCH_ROWS

_TIMM = "patch_embed.proj.weight"
_HF = "embeddings.patch_embeddings.projection.weight"
_BLOCK = r"(?:encoder\.)?layers?\.(\d+)\."
_HF_TABLE = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.position_embeddings": "pos_embed",
    rf"embeddings\.({CLS_ROWS}|{PATCH_ROWS})": r"\1",
    r"embeddings\.patch_embeddings\.projection\.(.*)": r"patch_embed.proj.\1",
    _BLOCK + r"(?:norm1|layernorm_before)\.(.*)": r"blocks.\1.norm1.\2",
    _BLOCK + r"(?:norm2|layernorm_after)\.(.*)": r"blocks.\1.norm2.\2",
    _BLOCK + r"attention\.(?:attention\.query|q_proj)\.(.*)": r"blocks.\1.attn.q.\2",
    _BLOCK + r"attention\.(?:attention\.key|k_proj)\.(.*)": r"blocks.\1.attn.k.\2",
    _BLOCK + r"attention\.(?:attention\.value|v_proj)\.(.*)": r"blocks.\1.attn.v.\2",
    _BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.*)": r"blocks.\1.attn.proj.\2",
    _BLOCK + r"layer_scale(\d)\.lambda1": r"blocks.\1.ls\2.gamma",
    _BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)": r"blocks.\1.mlp.fc1.\2",
    _BLOCK + r"mlp\.weights_in\.(.*)": r"blocks.\1.mlp.fc1.\2",
    _BLOCK + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.(.*)": r"blocks.\1.mlp.fc2.\2",
    r"layernorm\.(.*)": r"norm.\1",
    r"(?:cls_)?classifier\.(.*)": r"head.\1",
    r"distillation_classifier\.(.*)": r"head_dist.\1",
}


def _hugging_face(mark: str, *, antialias: bool, rows: int) -> Layout:
    positions = Positions(antialias=antialias, prefix_rows=rows, square=True)
    return Layout("Hugging Face", _HF, mark, _HF_TABLE, positions=positions)


_SWIGLU = {
    r"(blocks\.\d+\.mlp)\.w12\.(.*)": r"\1.fc1.\2",
    r"(blocks\.\d+\.mlp)\.w3\.(.*)": r"\1.fc2.\2",
}
_DINOV2 = _SWIGLU | {"register_tokens": "reg_token"}

LAYOUTS = (
    # TokenLabeling resizes LV-ViT's table (CLS row first) with plain bicubic interpolation, by output size.
    Layout(
        "LV-ViT",
        _TIMM,
        r"patch_embed\.conv1\.weight",
        positions=Positions(antialias=False, prefix_rows=1),
    ),
    _hugging_face(r"embeddings\.register_tokens", antialias=True, rows=1),
    _hugging_face(r"embeddings\.distillation_token", antialias=False, rows=2),
    _hugging_face("", antialias=False, rows=1),
    Layout(
        "original DINOv2", _TIMM, "register_tokens", _DINOV2, positions=Positions(True, 0.0, 1, square=True)
    ),
    Layout("original DINOv2", _TIMM, "mask_token", _SWIGLU, positions=Positions(False, 0.1, 1, square=True)),
    Layout("timm", _TIMM),
)
