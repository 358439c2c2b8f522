import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import ROOT
from vitjax.config.train_config import DistillConfig, OptimConfig, StudentConfig, TrainConfig
from vitjax.errors import UserError
from vitjax.models.outputs import dense as dense_of
from vitjax.training.data import model_input
from vitjax.training.init_state import build, check_dynamic, initial, open_teacher, with_metric
from vitjax.training.optim import make_rates
from vitjax.weights import WeightsError
from vitjax.weights.write import write_weights

CONFIGS = sorted(p.stem for p in ROOT.glob("configs/*.py") if "-> TrainConfig" in p.read_text())


def dense(name: str = "deit_small_patch16_224", **fields) -> TrainConfig:
    return TrainConfig(model=StudentConfig(name=name, **fields))


def checked(config: TrainConfig) -> None:
    check_dynamic(config, build(config, model_input(config), classes=3))


def test_of_two_towers_that_of_images_is_trained_on_images_as_its_weights_expect_them():
    config = dense("siglip_base_patch16_224", depth=1)
    recipe = model_input(config)
    model = build(config, recipe, classes=3)
    assert type(model).__name__ == "VisionTransformer" and (model.depth, model.num_classes) == (1, 3)
    assert (recipe.resize, recipe.interpolation, recipe.mean) == ("squash", "bicubic", (0.5, 0.5, 0.5))
    config.data.resize = "crop"
    assert model_input(config).resize == "crop"


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
    with pytest.raises(UserError, match=r"1 field is .*'dynamicvit_deit_small_patch16_224'") as error:
        checked(config)
    assert error.value.fields == (f"{part}.{field}", "model.name")
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


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "common"])
def test_no_config_asks_for_what_its_model_does_not_do(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    text = (ROOT / f"configs/{name}.py").read_text()
    for argument in ("", "teacher", "smoke"):
        if not argument or f"{name}.py:{argument}" in text:
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
def test_vectors_must_be_one_for_each_image_as_long_as_the_embedding(tmp_path, shape):
    np.save(tmp_path / "vectors.npy", np.zeros(shape, np.float32))
    config = dense()
    config.task, config.metric.embed_dim = "distill", 0
    config.distill = DistillConfig(vectors=str(tmp_path / "vectors.npy"))
    if shape == (7, 16):
        assert open_teacher(config, model_input(config), 7, 16)[1].shape == shape
        return
    with pytest.raises(UserError, match=r"expected \(7 images to learn from, 16 numbers of the embedding"):
        open_teacher(config, model_input(config), 7, 16)


def dynamic(tmp_path, *, blocks: int = 4, **fields) -> tuple[TrainConfig, str]:
    """A config of a small dynamic model of 4 blocks, and the weights of a dense one of so many."""
    small = {"img_size": 8, "patch_size": 2, "embed_dim": 12, "num_heads": 2, "depth": 4}
    config = dense("dynamicvit_deit_small_patch16_224", **small | fields)
    config.model.depth, depth = blocks, config.model.depth
    recipe = model_input(config)
    model = dense_of(build(config, recipe, classes=3))
    config.model.depth = depth
    blank = jnp.zeros((1, recipe.image_size, recipe.image_size, 3))
    write_weights(tmp_path / "dense.safetensors", jax.jit(model.init)(jax.random.key(3), blank), {})
    return config, str(tmp_path / "dense.safetensors")


def started(config: TrainConfig, **fields) -> tuple[dict, dict]:
    recipe = model_input(config)
    return initial(config, build(config, recipe, classes=3), recipe, **fields)


def test_of_weights_of_more_blocks_a_dynamic_model_and_its_teacher_take_the_first(tmp_path):
    config, config.model.weights = dynamic(tmp_path, blocks=5)
    variables, teacher = started(config)
    ours, theirs = (tree["params"]["blocks_3"]["mlp"] for tree in (variables, teacher))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert "blocks_4" not in teacher["params"]


def test_weights_that_do_not_fit_the_teacher_are_said_to_be_the_teachers(tmp_path):
    config, file = dynamic(tmp_path)
    config.model.weights = file
    write_weights(tmp_path / "dynamic.safetensors", started(config)[0], {})
    config.model.weights = str(tmp_path / "dynamic.safetensors")
    with pytest.raises(WeightsError, match=r"dense teacher, which.*unexpected"):
        started(config)
    config.sparsify.teacher = file
    started(config)


def test_where_a_checkpoint_follows_the_weights_need_not_be_there(tmp_path):
    config, config.sparsify.teacher = dynamic(tmp_path)
    config.model.weights = config.sparsify.teacher
    before, _ = started(config)
    config.model.weights = str(tmp_path / "gone.safetensors")
    variables, teacher = started(config, fresh=False)
    like = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (before, variables)]
    assert like[0] == like[1]
    assert teacher["params"]["blocks_0"]["mlp"]["fc1"]["kernel"].any()


@pytest.mark.parametrize(
    "name", [n for n in CONFIGS if (ROOT / f"configs/{n}.py").read_text().count(":smoke")]
)
def test_every_config_freezes_what_its_model_has(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    config = get_config()
    frozen, config = config.optim.frozen, get_config("" if config.task == "metric" else "smoke")
    recipe = model_input(config)
    model = build(config, recipe, classes=3)
    blank = jnp.zeros((1, recipe.image_size, recipe.image_size, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), blank)["params"]
    make_rates(OptimConfig(frozen=frozen), params, steps=4, steps_per_epoch=4)
