import json
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from vitjax.models import build, list_models, pretrained_source

MANIFESTS = pathlib.Path(__file__).parents[1] / "golden" / "manifests"

# With width d, patches of p pixels, c classes: the patch projection has 3 p^2 d + d, each block 12 d^2 + 13 d
# (and 2 d with LayerScale), the final norm 2 d, a classifier (d + 1) c, every position row and token d.
PARAMETERS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_tiny_patch16_384": 5_790_376,
    "vit_small_patch16_224": 22_050_664,
    "vit_small_patch16_384": 22_196_584,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_large_patch16_224": 304_326_632,
    "vit_large_patch16_384": 304_715_752,
    "deit_tiny_patch16_224": 5_717_416,
    "deit_small_patch16_224": 22_050_664,
    "deit_base_patch16_224": 86_567_656,
    "deit_base_patch16_384": 86_859_496,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "deit_base_distilled_patch16_384": 87_630_032,
    "deit3_small_patch16_224": 22_059_496,
    "deit3_small_patch16_384": 22_205_416,
    "deit3_medium_patch16_224": 38_849_512,
    "deit3_base_patch16_224": 86_585_320,
    "deit3_base_patch16_384": 86_877_160,
    "deit3_large_patch16_224": 304_374_760,
    "deit3_large_patch16_384": 304_763_880,
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_large_patch14_dinov2": 304_367_616,
    "vit_small_patch14_reg4_dinov2": 22_057_344,
    "vit_base_patch14_reg4_dinov2": 86_582_016,
    "vit_large_patch14_reg4_dinov2": 304_370_688,
}


def _count(model) -> int:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *_pixels(model), 3))))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _pixels(model) -> tuple[int, int]:
    return model.grid[0] * model.patch_size, model.grid[1] * model.patch_size


def test_the_table_of_parameters_has_every_model():
    assert sorted(PARAMETERS) == list_models()


@pytest.mark.parametrize("name", list_models())
def test_parameter_count_is_exact(name):
    assert _count(build(name)) == PARAMETERS[name]


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("timm_*.json")), ids=lambda p: p.stem)
def test_the_table_agrees_with_published_checkpoints(path):
    name = path.stem.removeprefix("timm_")
    assert PARAMETERS[name] == json.loads(path.read_text())["_meta"]["parameters"]


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(
        ValueError, match=r"'deit_smal_patch16_224' is unknown; nearest: 'deit_small_patch16_224'"
    ):
        build("deit_smal_patch16_224")


def test_an_unknown_field_gets_the_list_of_fields():
    with pytest.raises(
        ValueError, match=r"no field 'image_size'; its fields: img_size, patch_size, embed_dim"
    ):
        build("deit_small_patch16_224", image_size=224)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"img_size": 225}, "not a multiple of patch_size"),
        ({"img_size": 0}, "not a multiple of patch_size"),
        ({"img_size": (224, 224, 3)}, "give a side or"),
        ({"img_size": "224"}, "give a side or"),
        ({"num_heads": 5}, "not a multiple of num_heads"),
        ({"global_pool": "max"}, "neither 'token' nor 'avg'"),
        ({"class_token": False}, "needs class_token"),
        ({"distilled": True, "reg_tokens": 4}, "distilled needs"),
        ({"dtype": "float16"}, "neither 'float32' nor 'bfloat16'"),
        ({"dtype": "half a float"}, "neither 'float32' nor 'bfloat16'"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_fields_that_do_not_go_together_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        build("deit_small_patch16_224", **fields)


def test_lists_serve_as_tuples_and_a_type_as_its_name():
    model = build("deit_small_patch16_224", img_size=[224, 192], dtype=jnp.bfloat16)
    assert model.img_size == (224, 192) and model.grid == (14, 12) and model.dtype == "bfloat16"
    assert hash(model) == hash(build("deit_small_patch16_224", img_size=(224, 192), dtype="bfloat16"))


def test_list_models_filters_as_timm_does():
    assert list_models("deit3_l*") == ["deit3_large_patch16_224", "deit3_large_patch16_384"]
    assert list_models(["deit3_l*", "vit_tiny_*"], exclude_filters=["*384"]) == [
        "deit3_large_patch16_224",
        "vit_tiny_patch16_224",
    ]
    assert list_models("nothing*") == []
    assert set(list_models(pretrained=True)) <= set(list_models())


def test_pretrained_sources_exist_for_the_names_listed_as_pretrained():
    for name in list_models(pretrained=True):
        assert pretrained_source(name).startswith(f"hf:timm/{name}.")
    with pytest.raises(ValueError, match="no weights of model 'resnet50'"):
        pretrained_source("resnet50")
