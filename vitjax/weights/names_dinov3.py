"""Names of DINOv3's vision transformers: timm, the original repository, Hugging Face (published files).

All released ones have keys without a bias. The original holds one under a mask of zeros, which is left out
here; Hugging Face and timm's "qkvb" models keep those of queries and values, timm's others none at all.
"""

from vitjax.weights.layout import Layout

_TIMM = "patch_embed.proj.weight"
_HF = "embeddings.patch_embeddings.weight"
_LAYER = r"(?:model\.)?layer\.(\d+)\."
_HF_TABLE = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.patch_embeddings\.(.*)": r"patch_embed.proj.\1",
    _LAYER + r"(norm[12])\.(.*)": r"blocks.\1.\2.\3",
    _LAYER + r"attention\.([qkv])_proj\.(.*)": r"blocks.\1.attn.\2.\3",
    _LAYER + r"attention\.o_proj\.(.*)": r"blocks.\1.attn.proj.\2",
    _LAYER + r"layer_scale(\d)\.lambda1": r"blocks.\1.ls\2.gamma",
    _LAYER + r"mlp\.down_proj\.(.*)": r"blocks.\1.mlp.fc2.\2",
    r"norm\.(.*)": r"norm.\1",
}
_PLAIN = _HF_TABLE | {_LAYER + r"mlp\.up_proj\.(.*)": r"blocks.\1.mlp.fc1.\2"}
_GATED = _HF_TABLE | {
    _LAYER + r"mlp\.gate_proj\.(.*)": r"blocks.\1.mlp.fc1_g.\2",
    _LAYER + r"mlp\.up_proj\.(.*)": r"blocks.\1.mlp.fc1_x.\2",
}
_ORIGINAL = {
    "storage_tokens": "reg_token",
    r"(blocks\.\d+\.mlp)\.w1\.(.*)": r"\1.fc1_g.\2",
    r"(blocks\.\d+\.mlp)\.w2\.(.*)": r"\1.fc1_x.\2",
    r"(blocks\.\d+\.mlp)\.w3\.(.*)": r"\1.fc2.\2",
}
_MASK = r"blocks\.(?:\d+\.)?\d+\.attn\.qkv\.bias_mask"
_MASKED = _ORIGINAL | {r"(blocks\.\d+\.attn\.qkv)\.bias": r"\1.bias_without_keys"}
_BUFFERS = {
    r"rope_embed\.periods": "computed from rope_base",
    _MASK: "zero for keys, which have no bias",
    r"local_cls_norm\..*": "only local crops of training use it",
}

LAYOUTS = (
    Layout("Hugging Face", _HF, r"(model\.)?layer\.\d+\.mlp\.gate_proj\.weight", _GATED),
    Layout("Hugging Face", _HF, r"(model\.)?layer\.\d+\.mlp\.up_proj\.weight", _PLAIN),
    Layout("original DINOv3", _TIMM, _MASK, _MASKED, _BUFFERS),
    Layout("original DINOv3", _TIMM, r"storage_tokens|rope_embed\.periods", _ORIGINAL, _BUFFERS),
    Layout("timm", _TIMM, r"blocks\.\d+\.gamma_1", {r"(blocks\.\d+)\.gamma_(\d)": r"\1.ls\2.gamma"}),
)
