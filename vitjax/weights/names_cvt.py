"""Names of CvT: Microsoft's, which are also ours, and Hugging Face's."""

from vitjax.weights.layout import Layout

_STAGE = r"(?:cvt\.)?encoder\.stages\.(\d+)\."
_EMBED = _STAGE + r"embedding\.convolution_embeddings\."
_BLOCK = _STAGE + r"layers\.(\d+)\."
_CONV = (
    _BLOCK + r"attention\.attention\.convolution_projection_(q|k|v)(?:uery|ey|alue)\.convolution_projection\."
)
_HF_TABLE = {
    _STAGE + r"cls_token": r"stage\1.cls_token",
    _EMBED + r"projection\.(.*)": r"stage\1.patch_embed.proj.\2",
    _EMBED + r"normalization\.(.*)": r"stage\1.patch_embed.norm.\2",
    _CONV + r"convolution\.(.*)": r"stage\1.blocks.\2.attn.conv_proj_\3.conv.\4",
    _CONV + r"normalization\.(.*)": r"stage\1.blocks.\2.attn.conv_proj_\3.bn.\4",
    _BLOCK + r"attention\.attention\.projection_(q|k|v)(?:uery|ey|alue)\.(.*)": (
        r"stage\1.blocks.\2.attn.proj_\3.\4"
    ),
    _BLOCK + r"attention\.output\.dense\.(.*)": r"stage\1.blocks.\2.attn.proj.\3",
    _BLOCK + r"intermediate\.dense\.(.*)": r"stage\1.blocks.\2.mlp.fc1.\3",
    _BLOCK + r"output\.dense\.(.*)": r"stage\1.blocks.\2.mlp.fc2.\3",
    _BLOCK + r"layernorm_before\.(.*)": r"stage\1.blocks.\2.norm1.\3",
    _BLOCK + r"layernorm_after\.(.*)": r"stage\1.blocks.\2.norm2.\3",
    r"layernorm\.(.*)": r"norm.\1",
    r"classifier\.(.*)": r"head.\1",
}

_ANCHOR = "encoder.stages.0.embedding.convolution_embeddings.projection.weight"

# What the layouts' own code computes differs in the activation, and nothing in the weights tells.
LAYOUTS = (
    Layout("Microsoft CvT", "stage0.patch_embed.proj.weight", computes={"act": "quick_gelu"}),
    # The classifier and the final norm lie beside "cvt.", so it is no wrapper's prefix.
    Layout("Hugging Face CvT", "cvt." + _ANCHOR, table=_HF_TABLE, computes={"act": "gelu"}),
    Layout("Hugging Face CvT", _ANCHOR, table=_HF_TABLE, computes={"act": "gelu"}),
)
