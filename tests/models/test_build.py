import re
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from vitjax.config import EvalConfig, ModelConfig
from vitjax.models import build, list_models, pretrained_source
from vitjax.models.from_config import init_variables
from vitjax.models.outputs import BackboneOutput, dense, reduction_of
from vitjax.pretrained import MODELS, InputSpec, ModelCard
from vitjax.reranker import Reranker
from vitjax.sparsify import count
from vitjax.sparsify.reducers import KeepRatio


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
        ({"global_pool": "max"}, "none of 'token', 'second', 'avg', 'map'"),
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
        source, bare = pretrained_source(name), re.sub("quickgelu_|_dinov3$", "", name)  # timm has less names
        known = [f"timm/{bare}.", *(f"{who}/{name.replace('_', '-')}" for who in ("openai", "google"))]
        known += ["microsoft/", "laion/CLIP-ViT-", "facebook/PE-Core-", "google/tipsv2-"]
        known.append(f"timm/{name}.")
        assert source.startswith(tuple(f"hf:{repository}" for repository in known))
    with pytest.raises(ValueError, match="no weights of model 'lvvit_s'"):
        pretrained_source("lvvit_s")


@dataclass(frozen=True)
class EveryOther(KeepRatio):
    """Keeps tokens by the parity of their row among those left, as many as the keep ratio says."""

    name = "every_other"

    def select(self, token_map, given, kept):
        batch, count = token_map.index.shape
        order = np.argsort(np.arange(count) % 2, kind="stable")[:kept]
        return jnp.broadcast_to(jnp.asarray(np.sort(order), jnp.int32), (batch, kept))


_TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 4, "num_heads": 3, "num_classes": 5}


def test_a_reducer_of_ones_own_gathers_counts_and_is_described():
    model = build("vit_tiny_patch16_224", **_TINY, reduce=EveryOther(blocks=(1,), keep_ratio=0.5))
    output = compiled(model.apply)(init_variables(model, 32, 0), np.ones((2, 32, 32, 3), "f"))
    np.testing.assert_array_equal(output.keep_index[0], [[0, 2, 4, 6, 8, 10, 12, 14]] * 2)
    assert output.tokens.shape == (2, 8, 12)
    assert model.token_reduction[:5] == ("every_other", False, 0.5, (0.5,), 1)
    assert count(model, 32).macs < count(dense(model), 32).macs
    assert dense(model).token_reduction is None
    fewer = build("vit_tiny_patch16_224", **_TINY, reduce=EveryOther(blocks=(1,)), keep_ratio=0.25)
    assert fewer.token_reduction.keep_ratio == 0.25


@pytest.mark.parametrize(
    "needs",
    [(), ("keys",), ("scores",), ("received",), ("significance",), ("keys", "scores", "significance")],
)
def test_a_reducer_inside_blocks_gets_what_it_needs_and_nothing_else(needs):
    seen = {}

    class Looks(EveryOther):
        inside = True

        def step(self, tokens, token_map, given):
            seen.update(
                {name: getattr(given, name) for name in ("keys", "scores", "received", "significance")}
            )
            return super().step(tokens, token_map, given)

    Looks.needs = needs
    model = build("vit_tiny_patch16_224", **_TINY, reduce=Looks(blocks=(1,)))
    jax.eval_shape(model.init, jax.random.key(0), np.ones((2, 32, 32, 3), "f"))
    shapes = {name: value.shape for name, value in seen.items() if value is not None}
    assert shapes == {name: (2, 16, 4) if name == "keys" else (2, 16) for name in needs}


class Mean(nn.Module):
    """The smallest backbone there is: mean colours of patches."""

    img_size: int = 32
    num_classes: int = 0
    dtype: str = "float32"
    grid = (4, 4)

    @nn.compact
    def __call__(self, images, *, return_attention=False, block=None, train=False):
        tokens = images.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(images), 16, 3)
        tokens = nn.Dense(6, name="embed")(tokens)
        return BackboneOutput(tokens=tokens, pooled=tokens.mean(axis=1), prefix=tokens[:, :0], grid=(4, 4))


def test_a_backbone_of_ones_own_is_built_listed_and_searched_with(monkeypatch):
    monkeypatch.setitem(MODELS, "mean_colour", ModelCard(Mean, {}, input=InputSpec(32)))
    assert list_models("mean*") == ["mean_colour"]
    assert reduction_of(build("mean_colour", img_size=32)) is None
    config = EvalConfig(model=ModelConfig(name="mean_colour"))
    reranker = Reranker.from_config(config, compilation_cache=False)
    colours = [np.full((32, 32, 3), grey, np.uint8) for grey in (30, 220, 90)]
    descriptors, _, skipped = reranker.describe(colours, batch_size=2)
    assert descriptors.pooled.shape == (3, 6)
    assert not skipped


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("dynamicvit_deit_tiny_patch16_224", {}, ("dynamicvit", True, 0.7, (0.7, 0.49, 0.343), 3)),
        ("dynamicvit_lvvit_s", {"keep_ratio": 0.5}, ("dynamicvit", True, 0.5, (0.5, 0.25, 0.125), 3)),
        ("dynamicswin_tiny_patch4_window7_224", {}, ("dynamicswin", True, 0.7, (0.7, 0.5, 0.3), 3)),
        ("dynamic_convnext_tiny", {}, ("dynamic_convnext", True, 0.7, (0.7, 0.5, 0.3), 3)),
        ("vit_tiny_patch16_224", {"reduce": "tome"}, ("tome", False, None, (), 12)),
    ],
)
def test_a_model_says_how_it_reduces_its_tokens(name, fields, said):
    model = build(name, **fields)
    told = model.token_reduction
    assert (told.name, told.trained, told.keep_ratio, told.stages) == (*said[:3], said[4])
    np.testing.assert_allclose(told.ratios, said[3], rtol=1e-12)
    assert reduction_of(dense(model)) is None


@pytest.mark.parametrize("name", ["cvt_13", "resnet50", "lvvit_s", "swin_tiny_patch4_window7_224"])
def test_a_model_that_keeps_all_tokens_says_so(name):
    assert reduction_of(build(name)) is None
