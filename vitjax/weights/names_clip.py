"""Names of models with two towers, CLIP and SigLIP: Hugging Face, OpenAI, OpenCLIP, big_vision, and ours.

They become timm's names behind `image.`, the text tower's alike behind `text.`, and `image_projection`,
`logit_scale` and `logit_bias` beside them. Positions are resized as each code does.

Source: transformers (modeling_clip.py, modeling_siglip.py), openai/CLIP (model.py), open_clip, big_vision
(models/proj/image_text/two_towers.py).
"""

import re
from collections.abc import Callable, Iterator

import numpy as np

from vitjax.weights import names_google
from vitjax.weights.layout import AGAIN, Layout, Positions

_PLAIN = Positions(antialias=False, square=True)


def _hf_blocks(tower: str, target: str) -> dict[str, str]:
    block, here = rf"{tower}\.encoder\.layers\.(\d+)\.", rf"{target}.blocks.\1."
    return {
        block + r"layer_norm([12])\.(.*)": here + r"norm\2.\3",
        block + r"self_attn\.([qkv])_proj\.(.*)": here + r"attn.\2.\3",
        block + r"self_attn\.out_proj\.(.*)": here + r"attn.proj.\2",
        block + r"mlp\.(.*)": here + r"mlp.\2",
    }


_HF_TABLE = {
    r"vision_model\.embeddings\.class_embedding": "image.cls_token",
    r"vision_model\.embeddings\.position_embedding\.weight": "image.pos_embed",
    r"vision_model\.embeddings\.patch_embedding\.(.*)": r"image.patch_embed.proj.\1",
    r"vision_model\.pre_lay(?:r|er_?)norm\.(.*)": r"image.norm_pre.\1",
    r"vision_model\.post_layernorm\.(.*)": r"image.norm.\1",
    r"vision_model\.head\.probe": "image.attn_pool.latent",
    r"vision_model\.head\.attention\.out_proj\.(.*)": r"image.attn_pool.proj.\1",
    r"vision_model\.head\.attention\.(q|kv)\.(.*)": r"image.attn_pool.\1.\2",
    r"vision_model\.head\.layernorm\.(.*)": r"image.attn_pool.norm.\1",
    r"vision_model\.head\.mlp\.(.*)": r"image.attn_pool.mlp.\1",
    r"visual_projection\.weight": "image_projection.weight",
    r"text_model\.embeddings\.(token|position)_embedding\.weight": r"text.\1_embedding",
    r"text_model\.final_layer_norm\.(.*)": r"text.norm.\1",
    r"(?:text_model\.head|text_projection)\.(.*)": r"text.projection.\1",
    **_hf_blocks("vision_model", "image"),
    **_hf_blocks("text_model", "text"),
}

_TEXT = r"(?:text\.)?"


def _openai_blocks(tower: str, target: str) -> dict[str, str]:
    block, here = rf"{tower}transformer\.resblocks\.(\d+)\.", rf"{target}.blocks.\1."
    return {
        block + r"ln_([12])\.(.*)": here + r"norm\2.\3",
        block + r"attn\.in_proj_(weight|bias)": here + r"attn.qkv.\2",
        block + r"attn\.out_proj\.(.*)": here + r"attn.proj.\2",
        block + r"mlp\.c_fc\.(.*)": here + r"mlp.fc1.\2",
        block + r"mlp\.c_proj\.(.*)": here + r"mlp.fc2.\2",
    }


OPENAI_TEXT = {
    _TEXT + r"token_embedding\.weight": "text.token_embedding",
    _TEXT + r"positional_embedding": "text.position_embedding",
    _TEXT + r"ln_final\.(.*)": r"text.norm.\1",
    _TEXT + r"text_projection\.(.*)": r"text.projection.\1",
    **_openai_blocks(_TEXT, "text"),
}
OPENAI_TABLE = {
    r"visual\.class_embedding": "image.cls_token",
    r"visual\.positional_embedding": "image.pos_embed",
    r"visual\.conv1\.(.*)": r"image.patch_embed.proj.\1",
    r"visual\.ln_pre\.(.*)": r"image.norm_pre.\1",
    r"visual\.ln_post\.(.*)": r"image.norm.\1",
    r"visual\.proj\.weight": "image_projection.weight",
    **_openai_blocks(r"visual\.", "image"),
    **OPENAI_TEXT,
}
_OPENCLIP_TABLE = {
    # Without a projection of OpenCLIP's own, timm's classifier is the projection.
    r"visual\.trunk\.head\.(weight|bias)": r"image_projection.\1",
    r"visual\.trunk\.(.*)": r"image.\1",
    r"visual\.head\.proj\.(.*)": r"image_projection.\1",
    **OPENAI_TEXT,
}

_MAP_ATTENTION = r"img\.MAPHead_0\.MultiHeadDotProductAttention_0\."
_BIG_VISION_TABLE = {
    "t": "logit_scale",
    "b": "logit_bias",
    **{rf"img\.{name}": rf"image.{target}" for name, target in names_google.TABLE.items()},
    r"img\.head\.(.*)": r"image.head.\1",
    r"img\.MAPHead_0\.probe": "image.attn_pool.latent",
    _MAP_ATTENTION + r"(q|k|v)(?:uery|ey|alue)\.(.*)": r"image.attn_pool.\1.\2",
    _MAP_ATTENTION + r"out\.(.*)": r"image.attn_pool.proj.\1",
    r"img\.MAPHead_0\.LayerNorm_0\.(.*)": r"image.attn_pool.norm.\1",
    r"img\.MAPHead_0\.MlpBlock_0\.Dense_0\.(.*)": r"image.attn_pool.mlp.fc1.\1",
    r"img\.MAPHead_0\.MlpBlock_0\.Dense_1\.(.*)": r"image.attn_pool.mlp.fc2.\1",
    r"txt\.Embed_0\.embedding": "text.token_embedding",
    r"txt\.pos_embedding": "text.position_embedding",
    # Older files have positions twice, and the code adds both.
    r"txt\.Encoder_0\.pos_embedding": f"text.position_embedding{AGAIN}",
    r"txt\.head\.(.*)": r"text.projection.\1",
    r"txt\.Encoder_0\.encoder_norm\.(.*)": r"text.norm.\1",
    **{
        name.replace(r"Transformer\.", r"txt\.Encoder_0\."): f"text.{target}"
        for name, target in names_google.TABLE.items()
        if "encoderblock" in name
    },
}
_COUNTERS = {
    r".*\.position_ids": "numbers from 0",
    "input_resolution|context_length|vocab_size": "a size of the model",
    r"(text\.)?attn_mask": "computed",
}


def openai_to_torch(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Shapes that timm has, where they differ; of attention pooling, queries apart from the rest."""
    if re.fullmatch(r"visual\.class_embedding|vision_model\.embeddings\.class_embedding", name):
        array = array.reshape(1, 1, -1)
    elif re.fullmatch(
        r"visual\.positional_embedding|vision_model\.embeddings\.position_embedding\.weight", name
    ):
        array = array[None]
    elif re.fullmatch(r"visual\.proj|(text\.)?text_projection", name):
        name, array = f"{name}.weight", array.T
    elif name in ("logit_scale", "logit_bias") and array.size == 1:
        array = array.reshape(())
    if packed := re.fullmatch(r"(vision_model\.head\.attention)\.in_proj_(weight|bias)", name):
        third = len(array) // 3
        yield f"{packed[1]}.q.{packed[2]}", array[:third]
        yield f"{packed[1]}.kv.{packed[2]}", array[third:]
    else:
        yield name, array


def _openclip_to_torch(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """As OpenAI's, but for a projection's bias where it is zero: timm's classifiers have one, CLIP none."""
    if not re.fullmatch(r"visual\.(trunk\.head|head\.proj)\.bias", name) or array.any():
        yield from openai_to_torch(name, array)


def _behind(prefix: str) -> Callable[[str, np.ndarray], Iterator[tuple[str, np.ndarray]]]:
    """As OpenAI's, of one tower of Hugging Face whose names lack the tower's own prefix."""
    return lambda name, array: openai_to_torch(f"{prefix}.{name}", array)


def _from_flax(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if name in ("t", "b") and array.size == 1:
        array = array.reshape(())
    if re.fullmatch(r"txt\.(Encoder_0\.)?pos_embedding", name) and array.ndim == 3:
        array = array[0]
    yield from names_google.to_torch(name, array)


def _layout(
    name: str, anchor: str, table: dict[str, str], mark: str = "", claims: tuple[str, ...] = ()
) -> Layout:
    return Layout(name, anchor, mark, table, _COUNTERS, _PLAIN, to_torch=openai_to_torch, claims=claims)


def _alone(anchor: str, prefix: str) -> Layout:
    return Layout(
        "Hugging Face", anchor, r"encoder\.layers\.\d+\.self_attn\..*", _HF_TABLE, _COUNTERS, _PLAIN,
        to_torch=_behind(prefix),
    )  # fmt: skip


# OpenCLIP's text tower may stand behind "text.", beside an image tower that has no such prefix.
_TEXT_TOWER = ("token_embedding.weight", "text.token_embedding.weight")


# Those of a text tower alone come after those of both.
LAYOUTS = (
    _layout("Hugging Face", "vision_model.embeddings.patch_embedding.weight", _HF_TABLE),
    _layout("OpenAI CLIP", "visual.conv1.weight", OPENAI_TABLE, claims=_TEXT_TOWER),
    Layout("OpenCLIP with timm", "visual.trunk.patch_embed.proj.weight", "", _OPENCLIP_TABLE, _COUNTERS,
           to_torch=_openclip_to_torch, claims=_TEXT_TOWER),
    Layout("Google big_vision", "img.embedding.kernel", "", _BIG_VISION_TABLE,
           positions=Positions(prefix_rows=0, square=True, corners=True), to_torch=_from_flax),
    Layout("vitjax", "image.patch_embed.proj.weight", positions=Positions(antialias=False)),
    _layout("Hugging Face", "text_model.embeddings.token_embedding.weight", _HF_TABLE),
    _layout("OpenAI CLIP", "token_embedding.weight", OPENAI_TABLE, r"(text\.)?transformer\.resblocks\..*"),
    _alone("embeddings.patch_embedding.weight", "vision_model"),
    _alone("embeddings.token_embedding.weight", "text_model"),
    Layout("vitjax", "text.token_embedding"),
)  # fmt: skip
