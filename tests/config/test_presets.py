"""Presets of the families of backbones: `--config folder:dinov3`, `places:siglip2`, `classify:clip`, ..."""

import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eval as program
from configs.common import FAMILIES
from tests.photos import write_folder
from tests.text import tiny
from vitjax.config import blocks_of, validate
from vitjax.config import train_config as training
from vitjax.data.transforms import preprocess
from vitjax.errors import UserError
from vitjax.models import build
from vitjax.pretrained import MODELS, ModelCard, pretrained_source

SEARCHES = ("folder", "places", "cub200", "msls")
SMALL = {"embed_dim": 32, "depth": 6, "num_heads": 2}
IMAGE = SMALL | {"patch_size": 28, "img_size": 224, "mlp_hidden": 32, "pool_hidden": 32}  # 8 x 8 patches
TEXT = SMALL | {"depth": 1, "vocab_size": len(tiny.pieces()), "context_length": 12, "mlp_hidden": 32}


def config_of(task: str, arg: str) -> Any:
    return importlib.import_module(f"configs.{task}").get_config(arg)


@pytest.mark.parametrize("task", SEARCHES)
@pytest.mark.parametrize("arg", [*FAMILIES, "vit_base_patch32_clip_224.openai", "vit_large_patch16_dinov3"])
def test_a_search_fits_the_model_it_names(task, arg):
    if arg not in FAMILIES and task in ("cub200", "msls"):
        with pytest.raises(ValueError, match=r"is unknown; known: deit, cvt, .*dinov3"):
            config_of(task, arg)
        return
    config = config_of(task, arg)
    validate(config)
    known = preprocess(config.weights if config.weights.startswith("hf:timm/") else config.model.name)
    model = build(config.model.name, img_size=config.model.img_size or known.image_size)
    assert config.model.grid <= min(model.grid) and config.model.grid in (0, 8)
    depth = sum(model.depths) if hasattr(model, "depths") else model.depth
    assert all(-depth <= block < depth for block in blocks_of(config.model))
    assert config.weights.startswith("hf:") and "." not in config.model.name


@pytest.mark.parametrize("arg", FAMILIES)
def test_classes_are_told_by_names_where_there_is_a_text_tower(arg):
    config, text = config_of("classify", arg), FAMILIES[arg][1]
    validate(config)
    assert config.model.name == (text or FAMILIES[arg][0])
    assert config.weights == pretrained_source(config.model.name)
    for task in ("text_search", "classify_zero_shot"):
        if text:
            assert config_of(task, arg).model.name == text
        else:
            with pytest.raises(ValueError, match="with a text tower: clip, siglip"):
                config_of(task, arg)


def test_weights_and_images_of_siglip_2_are_not_those_of_siglip():
    config = config_of("folder", "siglip2")
    assert config.weights == "hf:timm/vit_base_patch16_siglip_256.v2_webli"
    assert preprocess(config.weights).interpolation == "bilinear"
    assert preprocess(config.model.name).interpolation == "bicubic"


@pytest.mark.parametrize("arg", ["imgfocus", *sorted({*FAMILIES} - {"dinov3_convnext"})])
def test_training_freezes_all_that_comes_before_the_blocks(arg):
    config = config_of("caltech101", arg)
    training.validate(config)
    model = build(config.model.name, img_size=224, depth=1)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    after = {"blocks_0", "norm", "attn_pool"}
    assert {name for name in config.optim.frozen if not name.startswith("blocks_")} == set(
        variables["params"]
    ) - after
    assert config.optim.frozen[-1] == f"blocks_{config.model.depth - 3}"


def test_training_of_the_last_blocks_is_for_plain_transformers():
    with pytest.raises(ValueError, match=r"known: clip, imgfocus, smoke, dinov2, .*siglip2"):
        config_of("caltech101", "dinov3_convnext")


def test_help_names_every_family():
    assert {*FAMILIES} <= {word.strip(",.") for word in (program.__doc__ or "").split()}


def miniature(card: ModelCard) -> ModelCard:
    """A card of the same kind whose model takes milliseconds, as fine a grid as the presets need."""
    inputs = {tag: dataclasses.replace(each, image_size=224) for tag, each in card.inputs.items()}
    spec, fields = dataclasses.replace(card.input, image_size=224), dict(card.fields)
    if card.module == "ConvNeXt":
        fields |= {"dims": (8, 8, 8, 16), "depths": (1, 1, 1, 1)}
    elif card.module == "TwoTowers":
        joint: dict[str, Any] = {"projection_dim": 16} if "projection_dim" in fields else {}
        words = TEXT | (joint or {"projection_dim": 32} if "projection_dim" in fields["text"] else {})
        fields |= {"image": fields["image"] | IMAGE, "text": fields["text"] | words} | joint
    else:
        fields |= IMAGE
    return dataclasses.replace(card, fields=fields, input=spec, inputs=inputs)


@pytest.mark.slow
@pytest.mark.parametrize("arg", FAMILIES)
def test_each_family_searches_folders_and_places_and_classifies(arg, tmp_path, monkeypatch):
    tiny.libraries()
    for name in filter(None, FAMILIES[arg]):
        bare = name.partition(".")[0]
        monkeypatch.setitem(MODELS, bare, miniature(MODELS[bare]))
    photos = str(write_folder(tmp_path / "photos", kinds=3, variants=2))
    tokenizer = str(tiny.openai(tmp_path))
    for task in ("folder", "places", "classify"):
        config = config_of(task, arg)
        config.weights, config.tokenizer, config.batch_size = "", tokenizer, 8
        config.figures.count, config.figures.report = 1, 2
        config.data.gallery = config.data.images = photos
        if task == "classify" and not FAMILIES[arg][1]:
            with pytest.raises(UserError, match="has no classifier"):
                program.evaluate(config, str(tmp_path / "none"))
            config.model.num_classes = 3
        results = program.evaluate(config, str(tmp_path / task))
        if task == "classify":
            assert [row["name"] for row in results["rows"]] == ["zero_shot" if FAMILIES[arg][1] else "dense"]
            assert np.isfinite(results["rows"][0]["top1"])
        else:
            assert results["queries"] == results["gallery"] == 6, results.keys()
