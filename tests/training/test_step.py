import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax import models, sharding
from vitjax.config.train_config import (
    AugmentConfig,
    DistillConfig,
    MetricConfig,
    OptimConfig,
    SparsifyConfig,
    TrainConfig,
)
from vitjax.data.train_loader import RawBatch
from vitjax.models.outputs import dense
from vitjax.training import optim
from vitjax.training.batch import Batch, Pixels, Renormalise, make_mixer
from vitjax.training.losses import make_distill_loss, make_loss, make_metric_loss, metric_start
from vitjax.training.state import State, create, shardings
from vitjax.training.step import _averaged, make_eval_step, make_train_step

SMALL = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
PIXELS = Pixels((0.5,) * 3, (0.5,) * 3)
CONFIG = TrainConfig(batch_size=8, optim=OptimConfig(lr=1e-2, warmup_epochs=0.0, ema=0.9))


def batch(seed: int = 0, rows: int = 8) -> RawBatch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    return RawBatch(images, rng.integers(0, 3, rows).astype(np.int32), np.arange(rows, dtype=np.int32))


class Trainer:
    """A step and all it needs."""

    def __init__(self, name="deit_tiny_patch16_224", config=CONFIG, devices=2, loss=None, extra=None):
        self.mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        self.model = models.build(name, **SMALL)
        variables = jax.jit(self.model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        variables["params"] |= {"metric": extra} if extra else {}
        teacher = {}
        if name.startswith("dynamic"):
            teacher = jax.jit(dense(self.model).init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        self.teacher = sharding.replicate(teacher, self.mesh)
        tx = optim.make_optimizer(config.optim)
        _, rates = optim.make_rates(config.optim, variables["params"], steps=10, steps_per_epoch=5)
        state = create(variables, tx, ema=bool(config.optim.ema))
        places = shardings(state, self.mesh, config.sharding)
        self.state = jax.device_put(state, places)
        self.traces = 0
        plain = loss or make_loss(self.model, SparsifyConfig())

        def counted(*args):
            self.traces += 1
            return plain(*args)

        mixer = make_mixer(config.augment, PIXELS, 3)
        self.step = make_train_step(config, counted, tx, rates, mixer, places)
        self.check = make_eval_step(self.model, self.mesh, places.evaluated)

    def run(self, *batches: RawBatch) -> list[dict]:
        found = []
        for one in batches:
            self.state, metrics = self.step(self.state, sharding.shard_batch(one, self.mesh), self.teacher)
            found.append(jax.device_get(metrics))
        return found


def with_optim(**fields) -> TrainConfig:
    return dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, **fields))


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def test_a_dynamic_model_learns_all_four_terms_in_one_compilation():
    trainer = Trainer("dynamicvit_deit_tiny_patch16_224")
    before = jax.device_get(trainer.state.variables["params"])
    metrics = trainer.run(*[batch()] * 4)
    assert trainer.traces == 1
    assert metrics[-1]["classify"] < metrics[0]["classify"]
    assert {"classify", "ratio", "distill", "token", "kept", "loss", "grad_norm"} <= set(metrics[0])
    after = jax.device_get(trainer.state.variables["params"])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved["score_predictor_0"]))
    assert int(trainer.state.step) == 4


@pytest.mark.parametrize("sharding", [pytest.param("replicated", marks=pytest.mark.slow), "fsdp"])
def test_two_devices_learn_what_one_does(sharding):
    name = "dynamicvit_deit_tiny_patch16_224"
    one = Trainer(name, devices=1)
    two = Trainer(name, dataclasses.replace(CONFIG, sharding=sharding), devices=2)
    for a, b in zip(one.run(batch(0), batch(1)), two.run(batch(0), batch(1)), strict=True):
        close(a, b)
    if sharding == "fsdp":
        kernel = two.state.variables["params"]["blocks_0"]["mlp"]["fc1"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 2


@pytest.mark.slow
def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    whole, parts = Trainer(), Trainer(config=with_optim(accumulate=4))
    assert whole.run(batch())[0]["grad_norm"] == pytest.approx(parts.run(batch())[0]["grad_norm"], rel=1e-5)
    moments = [
        next(m for m in jax.tree.leaves(t.state.opt, is_leaf=is_adam) if is_adam(m)) for t in (whole, parts)
    ]
    close(moments[0].mu, moments[1].mu)  # a tenth of the gradient


def is_adam(x) -> bool:
    return isinstance(x, optax.ScaleByAdamState)


def test_a_step_that_is_not_finite_changes_only_counters_and_says_when():
    def loss(variables, teacher, rows, rng):
        total = variables["params"]["head"]["bias"].sum() + jnp.where(
            rows.images[0, 0, 0, 0] > 0.99, jnp.nan, 0.0
        )
        return total, ({}, {})

    trainer = Trainer(config=dataclasses.replace(CONFIG, max_skipped=1), loss=loss)
    good = batch()
    good.images[0, 0, 0, 0] = 0
    bad = RawBatch(np.full_like(good.images, 255), good.labels, good.index)
    trainer.run(good)
    before = kept(trainer.state)
    (first,) = trainer.run(bad)
    jax.tree.map(np.testing.assert_array_equal, before, kept(trainer.state))
    assert (first["skipped"], first["bad_step"]) == (1, -1)
    assert [m["bad_step"] for m in trainer.run(good, bad, bad)] == [-1, 3, 3]
    assert int(trainer.state.step) == 5


def kept(state: State):
    return jax.device_get((state.variables, state.opt, state.ema))


def test_the_running_mean_follows_its_formula():
    trainer = Trainer()
    start = jax.device_get(trainer.state.variables["params"]["head"]["bias"])
    trainer.run(batch())
    after = jax.device_get(trainer.state.variables["params"]["head"]["bias"])
    mean = trainer.state.ema["params"]["head"]["bias"]
    np.testing.assert_allclose(mean, 0.1 * start + 0.9 * after, rtol=1e-5)


def test_a_rising_decay_stops_at_its_value_and_a_constant_one_does_not_rise():
    for fields, step, decay in [({}, 0, 0.1), ({}, 500, 0.9), ({"ema_warmup": False}, 0, 0.9)]:
        state = State(jnp.int32(step), {}, (), {"w": jnp.float32(2)}, 0, 0)
        found = _averaged(state, {"w": jnp.float32(5)}, OptimConfig(ema=0.9, **fields))
        assert float(found["w"]) == pytest.approx(2 * decay + 5 * (1 - decay))


def test_random_numbers_of_the_loss_and_of_mixup_depend_on_step_and_part():
    def loss(variables, teacher, rows, rng):
        drawn = jax.random.uniform(rng)
        metrics = {"drawn": drawn, "squared": drawn**2, "labels": rows.labels[0, 0]}
        return variables["params"]["head"]["bias"].sum(), ({}, metrics)

    config = dataclasses.replace(with_optim(accumulate=2), augment=AugmentConfig(mixup=0.8))
    trainer = Trainer(config=config, loss=loss)
    one = batch()
    one.labels[:] = np.arange(8) // 4  # every image has a partner of the other class
    found = trainer.run(*[one] * 4)
    for name in ("drawn", "labels"):
        assert len({float(figures[name]) for figures in found}) == 4
    for figures in found:  # were both parts given the same number, its square would be the mean of squares
        assert float(figures["squared"]) > float(figures["drawn"]) ** 2 + 1e-6
    trainer.state = trainer.state.replace(step=sharding.replicate(jnp.int32(2), trainer.mesh))
    assert trainer.run(one)[0]["drawn"] == found[2]["drawn"]


def test_the_teacher_computes_in_its_own_type():
    model = models.build("dynamicvit_deit_tiny_patch16_224", **SMALL)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    theirs = jax.eval_shape(dense(model).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    rows = Batch(jnp.zeros((2, 8, 8, 3)), jnp.ones((2, 3)) / 3, jnp.arange(2))

    def text(model, **fields) -> str:
        loss = make_loss(model, SparsifyConfig(**fields))
        return str(jax.make_jaxpr(loss)(variables, theirs, rows, jax.random.key(0)))

    assert "bf16" not in text(model) and "bf16" not in text(model, teacher_dtype="float32")
    assert "bf16" in text(model, teacher_dtype="bfloat16")
    half = model.clone(dtype="bfloat16")
    assert text(half).count("bf16") > text(half, teacher_dtype="float32").count("bf16") > 0


def test_an_evaluation_counts_real_images_only():
    trainer = Trainer()
    images = np.asarray(PIXELS(jnp.asarray(batch().images)))
    logits = jax.jit(trainer.model.apply)(trainer.state.evaluated, images).logits
    best = np.asarray(logits).argmax(-1).astype(np.int32)
    labels = best.copy()
    labels[0] = (labels[0] + 1) % 3
    valid = np.array([True] * 6 + [False] * 2)
    none = np.zeros(3, np.int32)  # of each class
    zero = sharding.replicate({"correct": none, "count": none}, trainer.mesh)
    parts = sharding.shard_batch((images, labels, valid), trainer.mesh)
    found = trainer.check(zero, trainer.state.evaluated, *parts)
    np.testing.assert_array_equal(found["count"], np.bincount(labels[:6], minlength=3))
    np.testing.assert_array_equal(found["correct"], np.bincount(labels[1:6], minlength=3))


@pytest.mark.parametrize(
    ("loss", "lr"),
    [
        ("margin", 1e-2),
        pytest.param("multi_similarity", 1e-3, marks=pytest.mark.slow),
        pytest.param("proxy_anchor", 1e-3, marks=pytest.mark.slow),
    ],
)
def test_a_metric_is_learned_with_the_transport_score_in_the_loss(loss, lr):
    metric = MetricConfig(loss=loss, structural=0.5, iterations=10)
    config = dataclasses.replace(with_optim(lr=lr), task="metric", metric=metric)
    model = models.build("deit_tiny_patch16_224", **SMALL)
    extra = metric_start(metric, 3, 3, jax.random.key(0))
    trainer = Trainer(config=config, loss=make_metric_loss(model, metric), extra=extra)
    one = batch()
    one.labels[:] = np.arange(8) // 3
    metrics = trainer.run(*[one] * 6)
    assert np.isfinite([m["loss"] for m in metrics]).all()
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert trainer.traces == 1
    assert metrics[0]["structural"] > 0


@pytest.mark.parametrize("kind", ["vectors", pytest.param("model", marks=pytest.mark.slow)])
def test_embeddings_become_those_of_the_teacher_and_classes_keep_apart(kind):
    config = dataclasses.replace(CONFIG, task="distill")
    model = models.build("deit_tiny_patch16_224", **SMALL)
    teacher, theirs = None, jax.random.normal(jax.random.key(5), (8, 3))
    if kind == "model":
        teacher, theirs = model, jax.jit(model.init)(jax.random.key(5), jnp.zeros((1, 8, 8, 3)))
    same = Renormalise(PIXELS, PIXELS)
    trainer = Trainer(config=config, loss=make_distill_loss(model, teacher, same, DistillConfig()))
    trainer.teacher = sharding.replicate(theirs, trainer.mesh)
    one = batch()
    one.labels[:] = np.arange(8) // 3
    metrics = trainer.run(*[one] * 8)
    assert metrics[-1]["distill"] < metrics[0]["distill"]
    for figures in metrics:
        assert figures["loss"] == pytest.approx(10 * figures["distill"] + figures["triplet"], rel=1e-5)


def test_pixels_of_one_model_become_those_of_another():
    images = jnp.asarray(batch().images)
    other = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(Renormalise(PIXELS, other)(PIXELS(images)), other(images), atol=1e-5)


def test_weights_that_were_trained_load_again(tmp_path):
    from vitjax.weights import load_weights
    from vitjax.weights.write import write_weights

    model = models.build("dynamicvit_deit_tiny_patch16_224", **SMALL)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    write_weights(tmp_path / "w.safetensors", variables, {"step": "0"})
    found = load_weights(tmp_path / "w.safetensors", model)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
