import jax.numpy as jnp
import pytest

from vitjax.models import build, list_models, pretrained_source


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(
        ValueError, match=r"'deit_smal_patch16_224' is unknown; nearest: 'deit_small_patch16_224'"
    ):
        build("deit_smal_patch16_224")


def test_an_unknown_field_gets_the_list_of_fields():
    with pytest.raises(
        ValueError,
        match=r"no field 'image_size'; did you mean 'img_size'\? Its fields: img_size, ",
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
        source = pretrained_source(name)
        assert source.startswith((f"hf:timm/{name}.", "hf:microsoft/"))
    with pytest.raises(ValueError, match="no weights of model 'lvvit_s'"):
        pretrained_source("lvvit_s")
