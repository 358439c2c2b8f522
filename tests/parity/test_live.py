"""Whole models against timm and transformers on torch: `pytest -m parity tests/parity`."""

import jax
import numpy as np
import pytest

from tests.parity import torch_side
from tests.parity.fixture import assert_close
from vitjax.models import build
from vitjax.weights import load_weights, load_with_report

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # torch and its libraries warn a lot

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
        yield


def _ours(name: str, path, images: np.ndarray, **fields):
    model = build(name, **fields)
    variables = load_weights(path, model)
    maps = name != "resnet50"
    out = jax.jit(lambda v, x: model.apply(v, x, return_attention=maps))(variables, images)
    plain = jax.jit(model.apply)(variables, images)
    assert_close(plain.tokens, np.asarray(out.tokens), TOLERANCE, "tokens with and without maps")
    return out


def _compare(ours: dict, theirs: dict) -> None:
    assert set(ours) == set(theirs)
    for name, reference in theirs.items():
        assert_close(ours[name], reference, TOLERANCE, name)


def _flat_tokens(out) -> np.ndarray:
    return np.concatenate([out.prefix, out.tokens], axis=1)


def _on_grid(out) -> np.ndarray:
    return np.asarray(out.tokens).reshape(len(out.tokens), *out.grid, -1)


@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [
        ("deit_small_patch16_224", (224, 224), {}),
        ("deit_small_distilled_patch16_224", (224, 224), {"depth": 3}),
        ("deit3_small_patch16_224", (224, 224), {"depth": 3}),
        ("vit_small_patch14_dinov2", (518, 518), {"depth": 2}),
        ("vit_small_patch14_dinov2", (224, 308), {"depth": 4}),
        ("vit_small_patch14_reg4_dinov2", (308, 224), {"depth": 4}),
        ("vit_base_patch16_clip_quickgelu_224", (224, 224), {"depth": 2, "num_classes": 0}),
        ("vit_base_patch16_siglip_224", (224, 224), {"depth": 2}),
    ],
)
def test_plain_vision_transformers_equal_timm(tmp_path, name, size, fields):
    timm = torch_side.library("timm")
    resized = {"dynamic_img_size": True} if "dinov2" in name else {}
    model = torch_side.randomise(timm.create_model(name, **fields, **resized))
    images = torch_side.images(size)
    theirs = torch_side.timm_outputs(model, images)
    exact = {"mlp": "gelu"} if "siglip" in name else {}  # timm's, where the original has the one by tanh
    out = _ours(name, torch_side.save(model, tmp_path), images, **fields, **exact)
    ours = {"features": _flat_tokens(out), "pooled": out.pooled}
    ours |= {f"attention.{i}": maps for i, maps in enumerate(out.attention)}
    if out.logits is not None:
        ours["logits"] = out.logits
    _compare(ours, theirs)


@pytest.mark.parametrize(("size", "fields"), [((224, 224), {}), ((196, 260), {"depths": (2, 2, 2, 2)})])
def test_swin_equals_timm(tmp_path, size, fields):
    timm, name = torch_side.library("timm"), "swin_tiny_patch4_window7_224"
    model = torch_side.randomise(timm.create_model(name, img_size=size, **fields))
    images = torch_side.images(size)
    theirs = torch_side.timm_outputs(model, images)
    out = _ours(name, torch_side.save(model, tmp_path), images, img_size=size, **fields)
    ours = {"features": _on_grid(out), "pooled": out.pooled, "logits": out.logits}
    _compare(ours | {f"attention.{i}": maps for i, maps in enumerate(out.attention)}, theirs)


def test_resnet_equals_timm(tmp_path):
    model = torch_side.randomise(torch_side.library("timm").create_model("resnet50"))
    images = torch_side.images((224, 192))
    theirs = torch_side.timm_outputs(model, images)
    out = _ours("resnet50", torch_side.save(model, tmp_path), images)
    features = _on_grid(out).transpose(0, 3, 1, 2)
    _compare({"features": features, "pooled": out.pooled, "logits": out.logits}, theirs)


# transformers' class: its configuration where it is not the default, our model of the same, image size. The
# defaults are ViT-B/16, DeiT-B/16, DINOv2-B/14 at 224 pixels, Swin-T and CvT-13.
_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 3}
_OUR_SMALL = {"embed_dim": 384, "num_heads": 6, "depth": 3}
_HF = {
    "ViTForImageClassification": ({}, "vit_base_patch16_224", {"eps": 1e-12}, (224, 224)),
    "DeiTForImageClassificationWithTeacher": (
        _SMALL | {"intermediate_size": 1536}, "deit_small_distilled_patch16_224",
        {"depth": 3, "eps": 1e-12}, (224, 224),
    ),
    "Dinov2Model": (
        _SMALL | {"image_size": 518, "patch_size": 14}, "vit_small_patch14_dinov2",
        {"depth": 3, "interpolate_antialias": False}, (224, 308),
    ),
    "Dinov2WithRegistersModel": (
        _SMALL | {"image_size": 518, "patch_size": 14}, "vit_small_patch14_reg4_dinov2",
        {"depth": 3, "no_embed_class": False}, (518, 518),
    ),
    "DINOv3ViTModel": ({"num_register_tokens": 4}, "vit_small_patch16_dinov3_qkvb", {}, (224, 288)),
    "SwinForImageClassification": ({}, "swin_tiny_patch4_window7_224", {}, (224, 224)),
    "CvtForImageClassification": ({}, "cvt_13", {"act": "gelu"}, (224, 224)),
}  # fmt: skip


@pytest.mark.parametrize("kind", _HF)
def test_models_of_transformers_are_equalled(tmp_path, kind):
    transformers = torch_side.library("transformers")
    theirs_fields, name, fields, size = _HF[kind]
    config_class = getattr(transformers, kind.split("Model")[0].split("For")[0] + "Config")
    labels = {} if kind.endswith("Model") else {"num_labels": 10}
    model = torch_side.randomise(getattr(transformers, kind)(config_class(**theirs_fields, **labels)))
    images = torch_side.images(size)
    theirs = torch_side.hf_outputs(model, images)
    classes = 10 if labels else 0
    out = _ours(name, torch_side.save(model, tmp_path), images, **fields, num_classes=classes)
    ours = {
        "logits": out.logits,
        "cls_logits": out.heads.get("cls"),
        "distillation_logits": out.heads.get("dist"),
    }
    ours |= {"last_hidden_state": _flat_tokens(out), "pooler_output": out.pooled}
    maps = out.attention
    if kind.startswith("Swin"):  # of the last block of every stage
        maps = [maps[i] for i in np.cumsum((2, 2, 6, 2)) - 1]
    ours |= {f"attentions.{i}": weights for i, weights in enumerate(maps)}
    _compare({name: ours.get(name) for name in theirs}, theirs)


_BOTH = {"intermediate_size": 1024, "hidden_size": 256, "num_attention_heads": 4}
_OURS = {"embed_dim": 256, "num_heads": 4, "mlp_hidden": 1024}


@pytest.mark.parametrize(
    ("kind", "name"), [("CLIP", "clip_vit_base_patch32"), ("Siglip", "siglip_base_patch16_224")]
)
@pytest.mark.parametrize("size", [(224, 224), (160, 288)])
def test_both_towers_of_transformers_are_equalled(tmp_path, kind, name, size):
    transformers, torch = torch_side.library("transformers"), torch_side.torch()
    depths = [{"num_hidden_layers": depth, **_BOTH} for depth in (2, 4)]
    config = getattr(transformers, f"{kind}Config")(text_config=depths[0], vision_config=depths[1])
    if kind == "Siglip":
        config.text_config.projection_size = 256
    theirs = torch_side.randomise(getattr(transformers, f"{kind}Model")(config))
    length, end = config.text_config.max_position_embeddings, 49_407 if kind == "CLIP" else 1
    ids = np.random.default_rng(3).integers(2, 30_000, (3, length))
    for row, count in zip(ids, (5, length - 1, 12), strict=True):
        row[count:] = end
    joint = {"projection_dim": 512} if kind == "CLIP" else {}
    text = {"depth": 2, **_OURS, "projection_dim": joint.get("projection_dim", 256)}
    model = build(name, depth=4, **_OURS, **joint, text=text)
    images = torch_side.images(size)
    with torch.inference_mode():
        reference = theirs(
            input_ids=torch.from_numpy(ids),
            pixel_values=torch_side.tensor(images),
            interpolate_pos_encoding=True,
        )
    variables = load_weights(torch_side.save(theirs, tmp_path), model)
    out = jax.jit(model.apply)(variables, images, ids)
    words = jax.jit(lambda v, x: model.apply(v, x, method="encode_text"))(variables, ids)
    ours = {"logits_per_image": out.logits}
    ours |= {"image_embeds": out.embedding / np.linalg.norm(out.embedding, axis=-1, keepdims=True)}
    ours |= {"text_embeds": words.embedding / np.linalg.norm(words.embedding, axis=-1, keepdims=True)}
    wanted = {key: reference[key].numpy() for key in ours}
    ours["words"], wanted["words"] = words.tokens, reference.text_model_output.last_hidden_state.numpy()
    if kind == "Siglip":
        ours["tokens"], wanted["tokens"] = out.tokens, reference.vision_model_output.last_hidden_state.numpy()
    _compare(ours, wanted)


def test_convnext_of_dinov3_equals_transformers(tmp_path):
    transformers = torch_side.library("transformers")
    sizes = {"hidden_sizes": [24, 32, 48, 64], "depths": [1, 2, 2, 1]}
    config = transformers.DINOv3ConvNextConfig(**sizes)
    model = torch_side.randomise(transformers.DINOv3ConvNextModel(config))
    images = torch_side.images((96, 163))
    with torch_side.torch().inference_mode():
        theirs = model(torch_side.tensor(images))
    fields = {"dims": sizes["hidden_sizes"], "depths": sizes["depths"]}
    ours = build("convnext_tiny_dinov3", **fields)
    variables = load_weights(torch_side.save(model, tmp_path), ours)
    out = jax.jit(ours.apply)(variables, images)
    named = {"tokens": out.tokens, "pooled": out.pooled}
    _compare(
        named, {"tokens": theirs.last_hidden_state[:, 1:].numpy(), "pooled": theirs.pooler_output.numpy()}
    )


def test_convnext_equals_timm(tmp_path):
    model = torch_side.randomise(
        torch_side.library("timm").create_model("convnext_tiny", depths=(1, 1, 2, 1))
    )
    images = torch_side.images((160, 96))
    with torch_side.torch().inference_mode():
        theirs = model(torch_side.tensor(images)).numpy()
    ours = build("convnext_tiny_dinov3", depths=(1, 1, 2, 1), num_classes=1000)
    variables = load_weights(torch_side.save(model, tmp_path), ours)
    _compare({"logits": jax.jit(ours.apply)(variables, images).logits}, {"logits": theirs})


@pytest.mark.parametrize("class_token", [True, False])
def test_perception_encoder_equals_timm(tmp_path, class_token):
    name, origin = "vit_pe_core_tiny_patch16_384", {"rope_grid_offset": float(class_token)}
    fields = {"depth": 3, "class_token": class_token, "img_size": 128}
    model = torch_side.library("timm").create_model(
        name, num_classes=7, ref_feat_shape=(8, 8), **fields, **origin
    )
    images = torch_side.images((128, 128))
    theirs = torch_side.timm_outputs(torch_side.randomise(model), images)
    out = _ours(name, torch_side.save(model, tmp_path), images, **fields, num_classes=7)
    ours = {"features": _flat_tokens(out), "pooled": out.pooled, "logits": out.logits}
    _compare(ours, {name: theirs[name] for name in ours})


@pytest.mark.parametrize("gated", [False, True])
def test_tips_equals_transformers(tmp_path, gated):
    transformers = torch_side.library("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.Tipsv2Config(
        vision_config=sizes | {"image_size": 112, "use_swiglu_ffn": gated},
        text_config=sizes | {"intermediate_size": 160, "vocab_size": 60, "max_position_embeddings": 12},
    )
    model = torch_side.randomise(transformers.Tipsv2Model(config))
    torch = torch_side.torch()
    with torch.no_grad():
        model.temperature.fill_(0.07)
    images, ids = torch_side.images((112, 112)), np.array([[5, 7, 9, 0, 0, 0], [3, 8, 2, 4, 6, 1]])
    with torch.inference_mode():
        theirs = model(torch.from_numpy(ids), torch_side.tensor(images), torch.from_numpy((ids > 0) * 1))
    shared = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    text = shared | {"mlp_hidden": 160, "vocab_size": 60, "context_length": 12}
    gates = {"mlp": "swiglu", "mlp_hidden": 128} if gated else {}
    ours = build("tipsv2_b14", img_size=112, **shared, **gates, text=text)
    variables = load_weights(torch_side.save(model, tmp_path), ours)
    out = jax.jit(ours.apply)(variables, images, ids, ids > 0)
    named = {"logits": out.logits, "tokens": _flat_tokens(out)}
    tokens = theirs.vision_model_output.last_hidden_state.numpy()
    _compare(named, {"logits": theirs.logits_per_image.numpy(), "tokens": tokens})


_TRUNKS = {  # as OpenCLIP's configurations have them: timm's model and arguments, our fields
    "siglip2_base_patch16_256": (
        "vit_base_patch16_siglip_256", {"num_classes": 0, "global_pool": "map"}, {"mlp": "gelu"},
    ),
    "pe_core_t16_384": (
        "vit_pe_core_tiny_patch16_384", {"num_classes": 24, "global_pool": "map", "ref_feat_shape": (6, 6)},
        {"projection_dim": 24},
    ),
    "clip_vit_base_patch16_laion2b": (
        "vit_base_patch16_clip_224", {"num_classes": 24, "global_pool": "token"}, {"projection_dim": 24},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _TRUNKS)
def test_image_towers_of_timm_in_openclip_give_its_embedding(name):
    trunk, theirs_fields, fields = _TRUNKS[name]
    size = {"depth": 2, "img_size": 96}
    model = torch_side.library("timm").create_model(trunk, **theirs_fields, **size)
    model = torch_side.randomise(model)
    if theirs_fields["num_classes"]:
        torch_side.torch().nn.init.zeros_(model.head.bias)  # as timm has it of weights without one
    images = torch_side.images((96, 96))
    with torch_side.torch().inference_mode():
        theirs = model(torch_side.tensor(images)).numpy()
    text = {"embed_dim": 16, "depth": 1, "num_heads": 2, "vocab_size": 30, "context_length": 5}
    ours = build(name, **size, **fields, text=text | {"projection_dim": theirs.shape[1]})
    state = {f"visual.trunk.{name}": array.numpy() for name, array in model.state_dict().items()}
    variables, report = load_with_report(state, ours, strict=False)
    assert not report.unexpected and not report.mis_shaped
    assert {each.name.split(".")[0] for each in report.missing} == {"text", "logit_scale"} | (
        {"logit_bias"} if "siglip" in name else set()
    )
    _compare({"embedding": jax.jit(ours.apply)(variables, images).embedding}, {"embedding": theirs})
