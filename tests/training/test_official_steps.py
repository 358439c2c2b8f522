"""Whole training steps against those of the official code (tests/fixtures_scripts/make_official_steps.py)."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import models, sharding
from vitjax.config.train_config import AugmentConfig, OptimConfig, SparsifyConfig, TrainConfig
from vitjax.data.train_loader import RawBatch
from vitjax.models.outputs import dense
from vitjax.training import optim
from vitjax.training.batch import Pixels, make_mixer
from vitjax.training.losses import make_loss
from vitjax.training.state import create, shardings
from vitjax.training.step import make_train_step
from vitjax.weights import load_weights, load_with_report

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
UNKNOWN = 1e6


class Official:
    """A fixture, its arrays by group."""

    def __init__(self, kind: str) -> None:
        with np.load(GOLDEN / f"steps_{kind}.npz") as file:
            self.meta = json.loads(str(file["meta"]))
            self.groups: dict[str, dict[str, np.ndarray]] = {}
            for key in file.files:
                if key != "meta":
                    group, name = key.split("/", 1)
                    self.groups.setdefault(group, {})[name] = file[key]
        self.weights = {name: x.astype(np.float32) for name, x in self.groups["weights"].items()}

    def updated(self, group: str, model) -> dict:
        """Variables after the steps, in our layout; UNKNOWN where the fixture lacks a number."""
        state = {}
        for name, found in self.groups[group].items():
            start = self.weights.get(name)
            if start is None or start.shape == found.shape:
                state[name] = found if start is None else start + found
                continue
            after = np.full(start.size, UNKNOWN, np.float32)
            after[:: self.meta["every"]] = start.ravel()[:: self.meta["every"]] + found
            state[name] = after.reshape(start.shape)
        return load_weights(state, model)


@functools.cache
def ours(kind: str) -> tuple:
    """Our state after the official number of steps, and the losses on the way."""
    official = Official(kind)
    meta, recipe, noise = official.meta, official.meta["recipe"], official.groups["inputs"]["noise"]
    fields = {name: tuple(x) if isinstance(x, list) else x for name, x in meta["config"].items()}
    if kind == "swin":
        fields["compat"] = "released"
    model = models.build(meta["name"], **fields, num_classes=meta["num_classes"], keep_ratio=meta["keep"][0])
    variables = load_weights(official.weights | statistics(official), model)
    teacher = load_with_report(official.weights | statistics(official), dense(model), strict=False)[0]
    config = TrainConfig(
        batch_size=6,
        augment=AugmentConfig(smoothing=meta["smoothing"]),
        optim=OptimConfig(
            lr=recipe["lr"], min_lr=recipe["min_lr"], warmup_epochs=float(recipe["warmup_epochs"]),
            weight_decay=recipe["weight_decay"], eps=recipe["eps"], backbone_lr=recipe["lr_scale"],
            freeze_epochs=float(recipe["freeze_epochs"]), accumulate=meta["accumulate"], ema=recipe["ema"],
            ema_warmup=False, frozen=() if kind == "swin" else ("cls_token", "pos_embed"),
        ),
    )  # fmt: skip
    loss = make_loss(model, SparsifyConfig(ratio=meta["ratio"]))
    tx = optim.make_optimizer(config.optim)
    rate, rates = optim.make_rates(
        config.optim, variables["params"], steps=recipe["epochs"], steps_per_epoch=1
    )
    mesh = sharding.make_mesh()
    state = create(jax.tree.map(jnp.asarray, variables), tx, ema=True)
    places = shardings(state, mesh, "replicated")
    state = jax.device_put(state, places)
    pixels = Pixels((0.5,) * 3, (0.5,) * 3)
    mixer = make_mixer(config.augment, pixels, meta["num_classes"])
    step = make_train_step(config, loss, tx, rates, mixer, places)
    given = itertools.cycle(noise.astype(np.float32))

    def gumbel(rng, shape, dtype):
        drawn = next(given)
        assert drawn.shape == shape
        return jnp.asarray(drawn, dtype)

    terms, index = [], np.arange(6, dtype=np.int32)
    inputs = official.groups["inputs"]
    with pytest.MonkeyPatch.context() as patch, jax.default_matmul_precision("highest"):
        patch.setattr(jax.random, "gumbel", gumbel)
        for i in range(recipe["done"]):
            batch = RawBatch(inputs["images"][i % 2], inputs["labels"][i % 2], index)
            state, metrics = step(state, sharding.shard_batch(batch, mesh), sharding.replicate(teacher, mesh))
            terms.append([float(metrics[n]) for n in ("loss", "classify", "ratio", "distill", "token")])
    stages = len(meta["keep"])
    terms = np.array(terms) * [1, 1, stages, 1, 1]  # the official code prints the sum over stages
    return official, model, jax.device_get(state), terms, [float(rate(i)) for i in range(recipe["epochs"])]


def statistics(official: Official) -> dict[str, np.ndarray]:
    """Running statistics of batch norms before the first step."""
    found = {name: x for name, x in official.groups["params"].items() if "running" in name}
    return {name: np.full_like(x, float(name.endswith("var"))) for name, x in found.items()}


KINDS = ["deit", pytest.param("lvvit", marks=pytest.mark.slow), "swin"]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_rates_of_every_step_are_the_official_ones(kind):
    official, _, _, terms, rates = ours(kind)
    np.testing.assert_allclose(rates, official.groups["outputs"]["rates"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(terms, official.groups["outputs"]["losses"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("deit", "params"),
        pytest.param("lvvit", "params", marks=pytest.mark.slow),
        ("swin", "params"),
        ("deit", "ema"),
    ],
)
def test_parameters_after_the_steps_are_the_official_ones(kind, group):
    official, model, state, _, _ = ours(kind)
    found = state.variables if group == "params" else state.ema
    expected = jax.device_get(official.updated(group, model))
    compared = 0
    for path, theirs in jax.tree_util.tree_leaves_with_path(expected):
        mine = found
        for key in path:
            mine = mine[key.key]
        known = theirs != UNKNOWN
        np.testing.assert_allclose(
            np.asarray(mine)[known], theirs[known], rtol=1e-5, atol=1e-5, err_msg=str(path)
        )
        compared += known.sum()
    assert compared == sum(x.size for x in official.groups[group].values())
    assert len(jax.tree.leaves(expected)) == len(jax.tree.leaves(found))
