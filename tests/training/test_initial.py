import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.program import UserError
from vitjax.training.config import DistillConfig, StudentConfig, TrainConfig
from vitjax.training.initial import build, check_dynamic, open_teacher, with_metric
from vitjax.training.pictures import model_input

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIGS = sorted(p.stem for p in ROOT.glob("configs/*.py") if "-> TrainConfig" in p.read_text())


def dense(name: str = "deit_small_patch16_224", **fields) -> TrainConfig:
    return TrainConfig(model=StudentConfig(name=name, **fields))


def checked(config: TrainConfig) -> None:
    check_dynamic(config, build(config, model_input(config), classes=3))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("model", "keep_ratio", 0.5),
        ("sparsify", "teacher", "file.npz"),
        ("sparsify", "ratio", 5.0),
        ("optim", "freeze_epochs", 5.0),
    ],
)
def test_what_only_dynamic_models_do_is_refused_of_a_dense_one_with_the_name_of_the_other(part, field, value):
    config = dense()
    checked(config)
    setattr(getattr(config, part), field, value)
    with pytest.raises(UserError, match=rf"{part}\.{field}: .*'dynamicvit_deit_small_patch16_224'"):
        checked(config)
    config.model.name = "dynamicvit_deit_small_patch16_224"
    checked(config)


def test_the_backbone_may_rest_while_a_new_embedding_learns():
    config = dense()
    config.task, config.optim.freeze_epochs = "metric", 5.0
    checked(config)


@pytest.mark.parametrize("task", ["metric", "distill"])
def test_a_dynamic_model_is_refused_where_nothing_would_hold_its_share_of_tokens(task):
    config = dense("dynamicswin_tiny_patch4_window7_224")
    config.task = task
    with pytest.raises(UserError, match="choose a plain model"):
        checked(config)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "parts"])
def test_no_config_asks_for_what_its_model_does_not_do(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    for argument in ("", "teacher") if name == "smoke" else ("",):
        checked(get_config(argument))


@pytest.mark.parametrize(
    "name", ["resnet50", "swin_tiny_patch4_window7_224", "cvt_13", "deit_tiny_patch16_224"]
)
def test_proxies_are_as_wide_as_the_pooled_feature_of_any_model(name):
    config = dense(name)
    config.task, config.metric.loss, config.metric.embed_dim = "metric", "proxy_anchor", 0
    recipe = model_input(config)
    model = build(config, recipe, classes=0)
    blank = jnp.zeros((1, recipe.image_size, recipe.image_size, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), blank)
    found = with_metric(config, model, variables, recipe, classes=5)["params"]["metric"]["proxies"]
    wide = jax.eval_shape(lambda v, x: model.apply(v, x).pooled, variables, blank).shape[-1]
    assert found.shape == (5, wide)


@pytest.mark.parametrize("shape", [(7, 8), (6, 16), (7,), (7, 16)])
def test_vectors_must_be_one_for_each_picture_as_long_as_the_embedding(tmp_path, shape):
    np.save(tmp_path / "vectors.npy", np.zeros(shape, np.float32))
    config = dense()
    config.task, config.metric.embed_dim = "distill", 0
    config.distill = DistillConfig(vectors=str(tmp_path / "vectors.npy"))
    if shape == (7, 16):
        assert open_teacher(config, model_input(config), 7, 16)[1].shape == shape
        return
    with pytest.raises(UserError, match=r"expected \(7 pictures to learn from, 16 numbers of the embedding"):
        open_teacher(config, model_input(config), 7, 16)
