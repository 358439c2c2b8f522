"""The recipes after the papers, held to the official code's choices."""

import importlib

import pytest

from tests import ROOT
from vitjax.config.train_config import TrainConfig, validate

DYNAMIC = sorted(path.stem for path in ROOT.glob("configs/dynamic*.py"))


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_dynamic_recipe_is_the_official_one(name):
    config: TrainConfig = importlib.import_module(f"configs.{name}").get_config()
    validate(config)
    two_paths = "swin" in name or "convnext" in name
    assert config.model.dtype == "float32" and config.sparsify.teacher_dtype in ("", "float32")
    assert (config.augment.mixup, config.augment.cutmix, config.augment.mix_group) == (0.8, 1.0, 128)
    assert (config.optim.ema, config.optim.ema_warmup, config.eval_raw) == (0.9999, False, True)
    assert (config.epochs, config.batch_size) == ((120, 4096) if two_paths else (30, 1024))
    assert config.sparsify.ratio == (10 if two_paths else 5 if "base" in name else 2)
    assert config.optim.frozen == (() if two_paths else ("cls_token", "pos_embed"))
    assert not two_paths or config.model.drop_path == (0.5 if "base" in name else 0.2)
    assert (config.optim.freeze_epochs, config.optim.backbone_lr) == (5, 0.2 if two_paths else 0.01)


def wrong(change) -> str:
    config = TrainConfig(batch_size=256)
    config.data.train = config.data.test = "x"
    change(config)
    try:
        validate(config)
    except ValueError as error:
        return str(error)
    return ""


def test_groups_of_mixing_divide_the_batch_or_are_more_than_it():
    def group(rows: int):
        return lambda config: setattr(config.augment, "mix_group", rows)

    assert [wrong(group(rows)) for rows in (0, 1, 64, 256, 300)] == [""] * 5
    assert "multiple of config.augment.mix_group 100" in wrong(group(100))
    assert "config.augment.mix_group is -1" in wrong(group(-1))


def test_the_parameters_are_evaluated_beside_a_running_mean_only():
    def raw(ema: float):
        def change(config: TrainConfig) -> None:
            config.eval_raw, config.optim.ema = True, ema

        return change

    assert wrong(raw(0.9)) == ""
    assert "config.eval_raw" in wrong(raw(0.0))


def test_the_teachers_type_is_one_of_two():
    assert "sparsify.teacher_dtype is 'float16'" in wrong(
        lambda c: setattr(c.sparsify, "teacher_dtype", "float16")
    )
