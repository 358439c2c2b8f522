"""Frozen blocks whose output is kept, classifiers fitted to features, and the run that both are made for."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import train
from configs import caltech101
from tests.compiled import compiled
from vitjax.config.train_config import TrainConfig
from vitjax.data.eval_loader import batches
from vitjax.data.sources.base import FolderSource
from vitjax.data.transforms import Preprocess
from vitjax.errors import UserError
from vitjax.models import build
from vitjax.sharding import make_mesh
from vitjax.training.data import model_input
from vitjax.training.init_state import build as build_model
from vitjax.training.init_state import initial
from vitjax.training.preemption import Stop
from vitjax.training.tasks import Parts
from vitjax.training.trunk import Trunk, check_stored, probed
from vitjax.weights.read import read_state
from vitjax.weights.rename import to_name

TINY = {"img_size": 32, "embed_dim": 24, "depth": 3, "num_heads": 2}
FROZEN = ("patch_embed", "cls_token", "pos_embed", "blocks_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes, each of its own hue under noise, of unequal size."""
    root, chance = tmp_path_factory.mktemp("objects"), np.random.default_rng(0)
    for c, (name, count) in enumerate({"ant": 9, "bass": 7, "crab": 11}.items()):
        (root / name).mkdir()
        for i in range(count):
            pixels = chance.integers(0, 256, (36, 32, 3)).astype(np.uint8)
            pixels[..., c] = np.maximum(pixels[..., c], 150)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def _config(folder, **changes) -> TrainConfig:
    """That of the experiment, with a tiny model, a few steps and a rate that shows in as few."""
    config = caltech101.get_config("smoke")
    config.data.source, config.data.train, config.data.per_class = "folder", str(folder), 5
    config.data.test_per_class, config.batch_size, config.steps, config.eval_every = 4, 6, 4, 2
    config.checkpoint.every, config.optim.lr, config.optim.warmup_epochs = 2, 0.1, 0.1
    config.optim.eps = 0.1  # updates follow gradients, so that rounding is not blown up where those are 0
    config.model.depth, config.optim.frozen = 3, FROZEN
    for name, value in changes.items():
        setattr(config.optim, name, value)
    return config


def _run(config: TrainConfig, out) -> dict:
    out.mkdir(exist_ok=True)
    return train.train(config, out, Stop())


@pytest.fixture(scope="module")
def stored(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("stored")
    return out, _run(_config(folder), out)


def test_a_run_on_stored_tokens_learns_what_one_on_images_learns(folder, tmp_path, stored):
    out, results = stored
    other = _run(_config(folder, store_frozen=False), tmp_path)
    assert not (tmp_path / "frozen").exists()
    for name, score in other["metrics"].items():
        assert results["metrics"][name] == pytest.approx(score, rel=1e-3)
    ours, theirs = (read_state(path / "last.safetensors") for path in (out, tmp_path))
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, atol=2e-5, err_msg=name)


def test_frozen_blocks_stay_and_the_others_move(folder, stored):
    config = _config(folder)
    recipe = model_input(config)
    start = initial(config, build_model(config, recipe, classes=3), recipe)[0]["params"]
    state = read_state(stored[0] / "last.safetensors")
    for path, leaf in flatten_dict(start).items():
        name = to_name(path)
        same = np.array_equal(np.sort(state[name], axis=None), np.sort(leaf, axis=None))  # kernels are turned
        assert same == name.startswith(("patch_embed", "cls_token", "pos_embed", "blocks.0.")), name


def test_the_same_command_continues_on_the_same_split_and_tokens(folder, stored):
    out, results = stored
    kept = out / "split.json", out / "frozen" / "train.npy", out / "frozen" / "test.npy"
    before = [path.stat().st_mtime_ns for path in kept]
    split = json.loads(kept[0].read_text())
    assert (len(split["train"]), len(split["test"])) == (15, 4 + 2 + 4)
    longer = _config(folder)
    longer.steps = 6
    again = _run(longer, out)
    assert (again["step"], again["metrics"].keys()) == (6, results["metrics"].keys())
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_run_that_resumes_without_its_stored_tokens_computes_the_same_ones(folder, tmp_path, stored):
    out = tmp_path / "run"
    shutil.copytree(stored[0], out)
    shutil.rmtree(out / "frozen")
    longer = _config(folder)
    longer.steps = 6
    assert _run(longer, out)["step"] == 6
    for name in ("train.npy", "test.npy"):
        np.testing.assert_array_equal(np.load(out / "frozen" / name), np.load(stored[0] / "frozen" / name))


def test_the_head_starts_from_a_fit_of_the_features(folder, stored):
    lines = [json.loads(line) for line in (stored[0] / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0 and lines[0]["mean_class_accuracy"] > 0.6  # chance .33, at random weights


def test_a_fit_is_that_of_scikit_learn_on_pooled_vectors_and_knows_absent_classes(folder):
    from sklearn.linear_model import LogisticRegression

    model = build("deit_small_patch16_224", num_classes=5, **TINY)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), "f"))
    recipe = Preprocess(32, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)
    config, source = TrainConfig(batch_size=6), FolderSource(folder)
    config.optim.probe = 2.0
    loader = batches(source, recipe, 6)
    parts = Parts(config, recipe, source, source, loader, model, make_mesh())
    fitted = probed(parts, variables)
    images = np.stack([recipe(source.read(i)) for i in range(len(source))])
    pooled = np.asarray(jax.jit(model.apply)(variables, images).pooled, np.float64)
    reference = LogisticRegression(C=2.0, max_iter=1000).fit(pooled, source.labels)
    logits = np.asarray(jax.jit(model.apply)(fitted, images).logits)
    np.testing.assert_allclose(logits[:, :3], reference.decision_function(pooled), atol=1e-3)
    assert (logits[:, 3:] < logits[:, :3].min()).all()
    assert fitted["params"]["blocks_0"] is variables["params"]["blocks_0"]


def test_blocks_from_one_on_continue_what_those_before_left():
    model = build("vit_small_patch14_dinov2", **TINY | {"img_size": (28, 42)}, num_classes=4)
    images = np.random.default_rng(0).normal(size=(2, 28, 42, 3)).astype("f")
    variables, apply = jax.jit(model.init)(jax.random.key(0), images), compiled(model.apply)
    whole = apply(variables, images)
    for first in (1, 2, 3):
        left = apply(variables, images, block=first - 1, final_norm=False)
        tokens = np.concatenate([left.prefix, left.tokens], axis=1)
        rest = apply(variables, tokens, first=first)
        np.testing.assert_allclose(rest.tokens, whole.tokens, atol=1e-6)
        np.testing.assert_allclose(rest.logits, whole.logits, atol=1e-6)
        assert rest.grid == (2, 3)
    with pytest.raises(UserError, match="first is 4; give 1 to 3"):
        model.apply(variables, tokens, first=4)
    with pytest.raises(UserError, match=r"first 1 needs tokens \(batch, \*\(7, 24\)\)"):
        model.apply(variables, tokens[:, 1:], first=1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frozen": FROZEN[1:]}, "as 'patch_embed' learns"),
        ({"frozen": FROZEN[:3]}, "as 'blocks_0' learns"),
        ({"frozen": (*FROZEN[:3], "blocks_1")}, "as 'blocks_0' learns"),
        ({"flip": True}, "without augmentation"),
        ({"task": "metric"}, "only in task 'classify'"),
    ],
)
def test_what_changes_between_epochs_is_not_stored(changes, reason):
    config = TrainConfig(task=changes.get("task", "classify"))
    config.optim.frozen = changes.get("frozen", FROZEN)
    config.augment.flip = changes.get("flip", False)
    model = build("deit_small_patch16_224", **TINY)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), "f")))["params"]
    with pytest.raises(UserError, match=reason):
        check_stored(config, model, params)


def test_images_that_cannot_be_read_are_left_out_of_stored_tokens_with_reasons(folder, tmp_path):
    broken = tmp_path / "some"
    (broken / "ant").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(broken / "ant" / "0.png")
    (broken / "ant" / "1.png").write_bytes(b"no image")
    model = build("deit_small_patch16_224", num_classes=0, **TINY)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), "f"))
    recipe = Preprocess(32, 1.0, "bilinear", (0.5,) * 3, (0.25,) * 3)
    trunk = Trunk(TrainConfig(batch_size=2), model, 1, recipe, lambda: variables)
    for note in ("", "", '{"key": '):  # computed, then read, then computed anew: its note is damaged
        if note:
            (tmp_path / "frozen" / "train.json").write_text(note)
        source, _ = trunk.stored(FolderSource(broken), FolderSource(folder), tmp_path / "frozen")
        assert source.read(0).shape == source.shape == (5, 24)
        with pytest.raises(ValueError, match=r"1\.png"):
            source.read(1)
