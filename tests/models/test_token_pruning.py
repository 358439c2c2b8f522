import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled, on_host
from tests.models.family import run
from vitjax import ot
from vitjax.layers.attention import Attention
from vitjax.models import build
from vitjax.sparsify import REDUCERS, make_reducer, restore

TINY = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 5}
LOC = {"pruning_loc": (1, 2, 3)}
LEARNED = ("patchmerger", "sit", "sinkhorn")  # tokens
DYNAMIC = {
    "dynamicvit_deit_small_patch16_224": {},
    "dynamicvit_lvvit_s": {},
    "vit_small_patch14_reg4_dinov2": {"reduce": "dynamicvit", "global_pool": "avg"},
}

IMAGES = np.random.default_rng(9).normal(size=(3, 32, 32, 3)).astype("f")


@pytest.fixture
def images() -> np.ndarray:
    return IMAGES


@functools.cache
def _made(name: str, **fields):
    """A model and weights that make scores and attention differ from token to token."""
    model = build(name, **TINY | LOC | fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])
    chance = np.random.default_rng(0)

    def value(path, leaf):
        noise = 0.1 * chance.normal(size=leaf.shape).astype("f")
        return jnp.asarray(1 + noise if path[-1].key in ("scale", "var") else noise)

    return model, jax.tree_util.tree_map_with_path(value, shapes)


def _with(model, reduce: str, **fields):
    """The same model with another reducer at the same blocks; "" = none."""
    return model.clone(reducer=make_reducer(reduce, blocks=(1, 2, 3), **fields) if reduce else None)


@functools.cache
def _evaluated(name: str, reduce: str | None = None):
    """What a model gives for the three images; with another reducer, or "" for the dense one."""
    model, variables = _made(name, **DYNAMIC.get(name, {}))
    return run(model if reduce is None else _with(model, reduce), variables, IMAGES)


@pytest.mark.parametrize("name", DYNAMIC)
def test_tokens_that_are_gone_and_tokens_that_are_masked_give_the_same(name, images):
    model, variables = _made(name, **DYNAMIC[name])
    out = _evaluated(name)
    counts = [int(64 * 0.7**s) for s in (1, 2, 3)]
    assert [i.shape[1] for i in out.keep_index] == counts == [int(d.sum()) for d in out.decisions[0]]
    masked = run(model, variables, images, decisions=out.decisions)
    last = np.asarray(out.keep_index[-1])[..., None]
    np.testing.assert_allclose(out.tokens, np.take_along_axis(masked.tokens, last, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.prefix, masked.prefix, rtol=1e-5, atol=1e-5)
    for stage in range(3):
        before = out.keep_index[stage - 1] if stage else np.arange(64)[None].repeat(3, 0)
        found = np.take_along_axis(np.asarray(masked.scores[stage]), np.asarray(before)[..., None], 1)
        np.testing.assert_allclose(out.scores[stage], found, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.pooled, masked.pooled, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.logits, masked.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["topk", "evit"])
def test_kept_scores_are_the_attention_of_cls_when_a_token_was_kept(name, images):
    model, variables = _made("vit_small_patch14_reg4_dinov2", reduce=name, pruning_loc=(1, 3), keep_ratio=0.5)
    out = run(model, variables, images, return_attention=True)
    seen = np.asarray(out.attention[3].weights)[:, :, 0, 5:].mean(axis=1)  # 32 tokens, and the fused one
    owner = np.asarray(out.owner[0])
    kept = np.asarray(out.keep_index[1])
    for image, (scores, places) in enumerate(zip(np.asarray(out.kept_scores), kept, strict=True)):
        own = places < 64
        rows = owner[image][places[own]]
        np.testing.assert_allclose(scores[own], seen[image][rows], rtol=1e-5)
        rest = np.setdiff1d(np.arange(seen.shape[1]), rows)
        if name == "evit":
            np.testing.assert_allclose(scores[~own], seen[image][rest].sum(), rtol=1e-5)
        assert scores[own].min() >= seen[image][rest].max()


@pytest.mark.parametrize("budget", ["fixed", "own"])
def test_kept_scores_are_the_last_predictors_probability_and_0_for_padding(budget, images):
    model, variables = _made("dynamicvit_deit_small_patch16_224", budget=budget)
    out = run(model, variables, images)
    first, last = (np.asarray(index) for index in out.keep_index[1:])
    for image in range(3):
        probability = {
            place: np.exp(score)
            for place, score in zip(first[image], np.asarray(out.scores[-1])[image, :, 0], strict=True)
        }
        for place, scores in zip(last[image], np.asarray(out.kept_scores)[image], strict=True):
            np.testing.assert_allclose(scores, probability[place] if place < 64 else 0.0, rtol=1e-5)


def test_merging_and_random_pruning_rank_nothing():
    found = [_evaluated("deit_small_patch16_224", name) for name in ("tome", "random")]
    assert [out.kept_scores for out in found] == [None, None]
    with pytest.deprecated_call(match="kept_scores"):
        assert found[0].worth is None


@pytest.mark.parametrize("name", DYNAMIC)
def test_keeping_all_is_the_dense_model(name, images):
    model, variables = _made(name, **DYNAMIC[name])
    dense = _evaluated(name, "")
    kept = run(model, variables, images, keep_ratio=1.0)
    for part in ("tokens", "pooled", "logits"):
        np.testing.assert_allclose(getattr(kept, part), getattr(dense, part), rtol=1e-6, atol=1e-6)
    program = str(jax.make_jaxpr(functools.partial(model.apply, keep_ratio=1.0))(variables, images[:1]))
    assert "top_k" not in program and "sort" not in program and "pjit[name=take" not in program
    masked = run(model, variables, images, decisions=np.ones((3, 3, 64), "f"))
    np.testing.assert_allclose(masked.logits, dense.logits, rtol=1e-5, atol=1e-5)


def test_the_ratio_is_chosen_at_call_time_and_each_compiles_once(images):
    model, variables = _made("dynamicvit_deit_small_patch16_224")
    traces = []

    @functools.partial(jax.jit, static_argnames="rho")
    def run(variables, images, rho):
        traces.append(rho)
        return model.apply(variables, images, keep_ratio=rho)

    for rho, kept in [(0.5, 8), ((0.9, 0.6, 0.5), 32), (0.5, 8)]:
        assert run(variables, images, rho).tokens.shape[1] == kept
    assert traces == [0.5, (0.9, 0.6, 0.5)]


def test_counts_round_to_whole_tiles(images):
    model, variables = _made("dynamicvit_deit_small_patch16_224", round_to=8)
    index = jax.eval_shape(lambda v, x: model.apply(v, x).keep_index, variables, images)
    assert [i.shape[1] + 1 for i in index] == [48, 32, 24]


def test_training_samples_masks_and_keeps_gradients_finite_over_100_seeds(images):
    model, variables = _made("dynamicvit_deit_small_patch16_224")

    def loss(params, rng):
        out = model.apply({"params": params}, images[:2], train=True, rngs={"gumbel": rng})
        return jnp.square(out.logits).sum() + jnp.square(out.decisions.mean(-1) - 0.5).sum(), out.decisions

    over_seeds = jax.jit(
        lambda rngs: jax.lax.map(lambda rng: jax.grad(loss, has_aux=True)(variables["params"], rng), rngs)
    )
    grads, decisions = on_host(over_seeds(jax.random.split(jax.random.key(3), 100)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert set(np.unique(decisions)) == {0.0, 1.0}
    assert (np.diff(decisions, axis=2) <= 0).all(), "a dropped token stays dropped"
    for stage in range(3):
        heads = grads[f"score_predictor_{stage}"]["out_conv_4"]["kernel"]
        assert (np.abs(heads).max(axis=(1, 2)) > 0).all()


def test_dropped_tokens_decisions_receive_gradient_and_all_may_be_dropped(images):
    model, variables = _made("dynamicvit_deit_small_patch16_224")

    @jax.jit
    def grad(raw):
        def total(raw):
            out = model.apply(variables, images, decisions=raw)
            return jnp.square(out.logits).sum(), out

        return jax.grad(total, has_aux=True)(raw)

    raw = (np.random.default_rng(1).random((3, 3, 64)) < 0.5).astype("f")
    found, _ = on_host(grad(raw))
    assert (np.abs(found[:, 0][raw[:, 0] == 0]) > 0).mean() > 0.9
    none, out = on_host(grad(np.zeros_like(raw)))
    assert np.isfinite(none).all() and np.isfinite(out.logits).all()


def test_an_image_does_not_depend_on_its_batch(images):
    model, variables = _made("dynamicvit_deit_small_patch16_224")
    whole, part = _evaluated("dynamicvit_deit_small_patch16_224"), run(model, variables, images[1:2])
    np.testing.assert_array_equal(part.keep_index[-1], whole.keep_index[-1][1:2])
    np.testing.assert_allclose(part.logits, whole.logits[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reduce"),
    [("vit_small_patch14_reg4_dinov2", name) for name in REDUCERS if name not in ("dynamicvit", *LEARNED)]
    + [("lvvit_s", "evit")],
)
def test_every_reducer_works_on_weights_of_a_plain_model(name, reduce, images):
    model, variables = _made(name, **({"num_classes": 5} if "lv" in name else {"num_classes": 0}))
    reduced = _with(model, reduce, r=5)
    out = run(reduced, variables, images, return_attention=True)
    assert out.tokens.shape[1] < 64 and np.isfinite(out.tokens).all()
    owner = np.asarray(out.owner[-1])
    sizes = [(owner == row).sum(axis=1) for row in range(out.tokens.shape[1])]
    np.testing.assert_array_equal(out.sizes, np.stack(sizes, axis=1))
    assert compiled(restore)(out.tokens, out.owner[-1]).shape == (3, 64, 24)
    assert len(out.attention) == 4
    weights = compiled(ot.attention_rollout)(out.attention, grid=out.grid)
    assert weights.shape == (3, 64) and np.isfinite(weights).all()


@pytest.mark.parametrize("reduce", ["evit", "tome"])
def test_a_reducer_with_nothing_to_do_is_the_dense_model(reduce, images):
    model, variables = _made("deit_small_patch16_224")
    same = run(_with(model, reduce, r=0, keep_ratio=1.0), variables, images)
    dense = _evaluated("deit_small_patch16_224")
    np.testing.assert_allclose(same.tokens, dense.tokens, rtol=1e-5, atol=1e-5)


def test_ranking_by_attention_keeps_what_cls_looks_at(images):
    model, variables = _made("deit_small_patch16_224")
    dense = run(model, variables, images, return_attention=True)
    out = run(_with(model, "topk", keep_ratio=0.5), variables, images)
    looked = np.asarray(dense.attention[1])[:, :, 0, 1:].mean(axis=1)
    best = np.sort(np.argsort(-looked, axis=1, kind="stable")[:, :32], axis=1)
    np.testing.assert_array_equal(out.keep_index[0], best)


def test_a_token_that_stands_for_two_gets_twice_the_attention():
    layer = Attention(3)
    tokens = np.random.default_rng(0).normal(size=(1, 4, 24)).astype("f")
    params, apply = jax.jit(layer.init)(jax.random.key(1), tokens), jax.jit(layer.apply)
    whole, *_ = apply(params, np.concatenate([tokens, tokens[:, 3:]], axis=1))
    merged, *_ = apply(params, tokens, None, np.array([[1.0, 1, 1, 2]], "f"))
    np.testing.assert_allclose(merged, whole[:, :4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduce", ["dynamicvit", "evit", "tome"])
def test_blocks_computed_again_give_the_same_gradient(reduce, images):
    model, variables = _made("deit_small_patch16_224", reduce=reduce, r=5, depth=2, pruning_loc=(1,))
    decisions = {"decisions": jnp.tile(np.array([0, 1], "f"), (3, 1, 32))} if reduce == "dynamicvit" else {}

    def grad(model):
        def total(params):
            return jnp.square(model.apply({"params": params}, images, **decisions).logits).sum()

        return jax.jit(jax.grad(total))(variables["params"])

    for a, b in zip(
        jax.tree.leaves(grad(model)), jax.tree.leaves(grad(model.clone(remat=True))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_nearly_the_same(images):
    model, variables = _made("dynamicvit_deit_small_patch16_224")
    exact = _evaluated("dynamicvit_deit_small_patch16_224")
    low = run(model.clone(dtype="bfloat16"), variables, images)
    assert low.logits.dtype == low.scores[0].dtype == jnp.float32
    common = (exact.decisions[:, 0] * low.decisions[:, 0]).sum() / exact.decisions[:, 0].sum()
    assert common > 0.9


def test_what_cannot_be_done_is_said_in_one_line(images):
    def call(model, **arguments):
        jax.eval_shape(functools.partial(model.apply, **arguments), variables, images)

    model, variables = _made("dynamicvit_deit_small_patch16_224")
    with pytest.raises(ValueError, match=r"rngs=\{'gumbel'"):
        call(model, train=True)
    with pytest.raises(ValueError, match=r"decisions have shape \(3, 3, 60\)"):
        call(model, decisions=jnp.ones((3, 3, 60)))
    with pytest.raises(ValueError, match=r"keep_ratio is 1\.5"):
        call(model, keep_ratio=1.5)
    plain, variables = _made("deit_small_patch16_224")
    with pytest.raises(ValueError, match="reduces by 'tome'"):
        call(_with(plain, "tome"), decisions=jnp.ones((3, 3, 64)))
    with pytest.raises(ValueError, match="leave both None"):
        call(plain, keep_ratio=0.5)
    for fields, words in [
        ({"reduce": "best"}, "'topk'"),
        ({"pruning_loc": (1, 99)}, "0 to 3"),
        ({"scan_layers": True}, "scan_layers"),
    ]:
        with pytest.raises(ValueError, match=words):
            build("dynamicvit_deit_small_patch16_224", **TINY | LOC | fields)


@functools.cache
def undecided(name: str):
    """The model of `_made` with predictors that would keep about two thirds of all tokens, not all alike."""
    model, variables = _made(name, **DYNAMIC[name])
    scores = run(model, variables, IMAGES, keep_ratio=1.0).scores
    params = dict(variables["params"])
    for stage, found in enumerate(scores):
        shift = np.quantile(found[..., 1] - found[..., 0], 0.66)
        predictor = dict(params[f"score_predictor_{stage}"])
        last = predictor["out_conv_4"]
        predictor["out_conv_4"] = last | {"bias": np.asarray(last["bias"]) + np.array([shift, 0.0], "f")}
        params[f"score_predictor_{stage}"] = predictor
    return model, variables | {"params": params}


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("dynamicvit_deit_small_patch16_224", "own"),
        ("dynamicvit_deit_small_patch16_224", "batch"),
        ("dynamicvit_lvvit_s", "own"),
        ("vit_small_patch14_reg4_dinov2", "batch"),
    ],
)
def test_images_that_keep_different_numbers_are_as_with_masks(name, budget, images):
    model, variables = undecided(name)
    out = run(
        _with(model, "dynamicvit", budget=budget), variables, images, keep_ratio=0.8, return_attention=True
    )
    counts = out.decisions.sum(-1)
    assert len(np.unique(counts[:, 0])) > 1, "the images differ"
    slack = 1.25 if budget == "batch" else 1
    assert out.tokens.shape[1] == int(64 * 0.8**3 * slack) >= counts[:, -1].max()
    if budget == "batch" and not out.overflow.any():
        assert counts.sum(0).tolist() == [int(3 * int(64 * 0.8**s)) for s in (1, 2, 3)]
    masked = run(model, variables, images, decisions=out.decisions)
    np.testing.assert_allclose(out.logits, masked.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.pooled, masked.pooled, rtol=1e-5, atol=1e-5)
    there = np.asarray(out.sizes) > 0
    assert there.sum(1).tolist() == counts[:, -1].tolist()
    places = np.asarray(out.keep_index[-1])
    assert ((places < 64) == there).all()
    full = np.take_along_axis(masked.tokens, np.where(there, places, 0)[..., None], 1)
    np.testing.assert_allclose(out.tokens[there], full[there], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(out.owner[-1]) >= 0, out.decisions[:, -1] > 0)
    rows = out.attention[-1].on_grid().sum(-1)
    np.testing.assert_allclose(rows, 1, atol=1e-5)


def test_an_image_keeps_what_its_predictor_wants_as_far_as_there_is_room(images):
    model, variables = undecided("dynamicvit_deit_small_patch16_224")
    free = run(_with(model, "dynamicvit", budget="own"), variables, images, keep_ratio=1.0)
    tight = run(_with(model, "dynamicvit", budget="own"), variables, images, keep_ratio=(0.3, 0.2, 0.1))
    want = np.asarray(free.scores[0][..., 0] >= free.scores[0][..., 1])
    np.testing.assert_array_equal(free.decisions[:, 0], want)
    assert not free.overflow.any()
    assert (tight.overflow >= want.sum(1) - 19).all() and tight.overflow.all()
    assert tight.decisions[:, 0].sum(1).tolist() == [19] * 3
    assert (np.asarray(tight.decisions[:, 0]) <= want).all()


@pytest.mark.parametrize("reduce", LEARNED)
def test_learned_tokens_stand_for_all_patches_and_receive_gradients(reduce, images):
    fields = {"depth": 2, "pruning_loc": (1,), "keep_ratio": 0.25}
    model, variables = _made("deit_small_patch16_224", reduce=reduce, **fields)
    pooled = variables["params"]["token_pool_0"]

    @jax.jit
    def run(pooled):
        out: Any = model.apply({"params": variables["params"] | {"token_pool_0": pooled}}, images)
        return jnp.square(out.logits).sum(), (out.tokens, out.owner[0], out.sizes)

    grads, (tokens, owner, sizes) = jax.jit(jax.grad(run, has_aux=True))(pooled)
    assert tokens.shape == (3, 16, 24) and owner.min() >= 0 and owner.max() < 16
    np.testing.assert_allclose(sizes.sum(axis=1), 64, rtol=1e-5)
    for leaf in jax.tree.leaves(grads):  # a bias that all tokens share moves no softmax over tokens
        assert np.isfinite(leaf).all() and (leaf.ndim < 2 or np.abs(leaf).max() > 0)


@pytest.mark.parametrize("reduce", REDUCERS)
def test_every_reducer_is_built_into_a_model_with_rotary_positions(reduce, images):
    share = {"keep_ratio": 0.5} if hasattr(REDUCERS[reduce], "keep_ratio") else {}
    model = build("vit_small_patch16_dinov3", **TINY | {"depth": 2}, reduce=reduce, **share)

    def run(key, images):
        out, _ = model.init_with_output(key, images)
        return out.tokens, out.sizes

    tokens, sizes = jax.eval_shape(run, jax.random.key(0), images)
    assert tokens.shape[1] == sizes.shape[1] < 64


@pytest.mark.parametrize("reduce", REDUCERS)
def test_a_model_that_stops_early_has_reduced_as_far_as_it_came(reduce, images):
    model = build("vit_small_patch14_dinov2", **TINY | LOC, reduce=reduce, r=5)

    def run(key, images):
        out, _ = model.init_with_output(key, images, block=1)
        return out.tokens, out.owner

    tokens, owner = jax.eval_shape(run, jax.random.key(0), images)
    left = {"evit": 46, "topk": 45, "ats": 45, "diffrate": 45}.get(reduce, 44)
    every = REDUCERS[reduce].in_every_block
    assert tokens.shape[1] == (64 - 2 * 5 if every else left) and len(owner) == (2 if every else 1)


def test_a_budget_of_its_own_needs_a_predictor():
    with pytest.raises(ValueError, match="budget 'own' needs a predictor, which reduce 'topk' has not"):
        build("deit_small_patch16_224", reduce="topk", budget="own")
    with pytest.raises(ValueError, match="budget 'mine' is unknown"):
        build("dynamicvit_deit_small_patch16_224", budget="mine")
