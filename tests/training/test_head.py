"""A head that is learned through transport plans: its gradient, its run, and where it is used."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import train
from configs import train_rerank
from vitjax.config import EvalConfig, ModelConfig, RerankConfig
from vitjax.config.train_config import HeadConfig, TrainConfig, validate
from vitjax.data.sources.base import FolderSource
from vitjax.errors import UserError
from vitjax.models.token_head import TokenHead
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors
from vitjax.training.batch import Batch
from vitjax.training.data import open_sources
from vitjax.training.head import HeadOnRows, pack
from vitjax.training.losses import make_rerank_loss
from vitjax.training.preemption import Stop
from vitjax.weights import load_weights

EXACT = {"epsilon": 0.1, "iterations": 300, "tolerance": 1e-6, "temperature": 0.2}
RULES = {
    "relaxed": HeadConfig(tau=0.8, weight=0.25, **EXACT),
    "partial": HeadConfig(mass=0.7, **EXACT),
    "priced": HeadConfig(mass="auto", **EXACT),
}


@pytest.fixture(scope="module")
def task():
    """Descriptors of six images of three classes, packed, and a head that is not untrained."""
    draw = np.random.default_rng(0)
    tokens = draw.normal(size=(3, 1, 5, 6)) + 0.8 * draw.normal(size=(3, 2, 5, 6))
    found = Descriptors.from_arrays(draw.normal(size=(6, 8)), tokens.reshape(6, 5, 6))
    model = HeadOnRows(TokenHead(local_dim=6, hidden=4), pooled=8)
    params = model.head.init(jax.random.key(0), found.tokens)["params"]
    params = jax.tree.map(lambda x: x + 0.3 * draw.normal(size=x.shape).astype(np.float32), params)
    return model, params | {"price": np.float32(0.6)}, found


def test_rows_hold_pooled_vectors_of_any_length_and_which_tokens_are_there(task):
    model, params, found = task
    valid = found.valid.copy()
    valid[1, 3:] = False
    again, _ = model.apply({"params": params}, jnp.asarray(pack(found.replace(valid=valid))))
    np.testing.assert_array_equal(again.pooled, found.pooled)
    np.testing.assert_array_equal(again.valid, valid)
    np.testing.assert_array_equal(again.tokens[valid], found.tokens[valid])


@pytest.mark.parametrize("kind", RULES)
def test_the_gradient_through_plans_is_that_of_finite_differences(task, kind):
    model, params, found = task
    batch = Batch(jnp.asarray(pack(found)), jax.nn.one_hot(np.repeat(np.arange(3), 2), 3), jnp.arange(6))
    loss = make_rerank_loss(model, RULES[kind])
    exact = jax.jit(jax.value_and_grad(lambda p: loss({"params": p}, {}, batch, jax.random.key(0))[0]))
    value, found = exact(params)
    assert np.isfinite(value) and (float(np.abs(found["price"])) > 1e-3) == (kind == "priced")
    draw, step = np.random.default_rng(1), 1e-2
    for _ in range(3):
        way = jax.tree.map(lambda x: draw.normal(size=np.shape(x)).astype(np.float32), params)
        ends = [exact(jax.tree.map(lambda p, w, s=s: p + s * w, params, way))[0] for s in (step, -step)]
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: float(np.sum(g * w)), found, way)))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.03, abs=2e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes of four images: a mark of the class's hue somewhere on noise."""
    root, chance = tmp_path_factory.mktemp("objects"), np.random.default_rng(0)
    hues = {"ant": (250, 0, 0), "bass": (0, 250, 0), "crab": (0, 0, 250), "dog": (250, 250, 0)}
    for name, hue in hues.items():
        (root / name).mkdir()
        for i in range(4):
            pixels = chance.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            x, y = chance.integers(0, 16, 2)
            pixels[y : y + 16, x : x + 16] = hue
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def _config(folder, **head) -> TrainConfig:
    config = train_rerank.get_config("smoke")
    config.data.source, config.data.train, config.metric.held_out = "folder", str(folder), 0.5
    config.batch_size, config.steps, config.eval_every, config.checkpoint.every = 4, 4, 2, 2
    for name, value in head.items():
        setattr(config.head, name, value)
    return config


def _run(config: TrainConfig, out) -> dict:
    out.mkdir(exist_ok=True)
    return train.train(config, out, Stop())


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, _run(_config(folder), out)


def test_a_run_learns_weights_and_reports_the_reranked_search(run):
    out, results = run
    figures = {f"{x}{name}" for x in ("", "reranked_") for name in ("precision_at_1", "r_precision")}
    assert results["task"] == "rerank" and figures < results["metrics"].keys()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    pooled = {line["precision_at_1"] for line in lines if "reranked_precision_at_1" in line}
    assert len(pooled) == 1  # pooled search is the frozen model's
    head = TokenHead(24)
    params = load_weights(out / "last.safetensors", head)["params"]
    assert np.asarray(params["token_gain_fc2"]["kernel"]).any()


def test_the_same_command_continues_on_the_same_descriptors(folder, run, tmp_path):
    out, _ = run
    kept = [out / "frozen" / name for name in ("train.npy", "test.npy")]
    before = [path.stat().st_mtime_ns for path in kept]
    longer = _config(folder)
    longer.steps = 6
    assert _run(longer, out)["step"] == 6
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert [np.load(path).shape for path in kept] == [(8, 4 + 1, 24), (8, 4 + 1, 24)]


def test_a_trained_head_weighs_the_tokens_that_a_reranker_describes(folder, run):
    out, _ = run
    config = EvalConfig(
        model=ModelConfig(name="deit_small_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2),
        rerank=RerankConfig(marginals="learned", head=str(out / "last.safetensors")),
    )
    config.data.resize = "squash"
    reranker = Reranker.from_config(config)
    found = reranker.describe(FolderSource(folder))[0]
    head = TokenHead(24)
    variables = load_weights(out / "last.safetensors", head)
    weighed: Any = head.apply(variables, found.tokens)
    np.testing.assert_allclose(found.weights, weighed.weights, atol=1e-6)
    assert np.ptp(found.weights) > 0
    query, *others = sorted(folder.rglob("*.png"))[:3]
    hits = reranker.rank(query, others, return_matches=True)
    assert all(hit.matches and np.isfinite(hit.structural) for hit in hits)
    config.rerank.mass = "auto"
    assert Reranker.from_config(config).rule.price == pytest.approx(float(variables["params"]["price"]))
    assert "learned, " in reranker.recipe["tokens_weighed"]


def test_without_labels_each_image_is_a_class_of_its_views(folder):
    learn, held_out = open_sources(_config(folder, views=3))
    assert (len(learn), len(held_out)) == (3 * 8, 3 * 8)
    assert np.asarray(learn.labels).tolist() == np.repeat(np.arange(8), 3).tolist()
    assert learn.read(1).size == (32, 32) and not set(learn.names) & set(held_out.names)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("head.tau", 0.5, "both leave mass unmatched"),
        ("head.views", 1, "a view needs another"),
        ("augment.flip", True, "only head.views augments images"),
    ],
)
def test_what_a_head_cannot_be_learned_through_is_refused(folder, field, value, reason):
    config = _config(folder)
    config.head.mass = 0.5
    section, name = field.split(".")
    setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=reason):
        validate(config)


def test_learned_marginals_and_the_head_go_together():
    with pytest.raises(UserError, match="'learned' and the file of a trained head go together"):
        Reranker.from_config(EvalConfig(rerank=RerankConfig(marginals="learned")))
