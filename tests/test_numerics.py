"""Of every public function of arrays: no NaN arises inside of a program, and float32 stays float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from tests.photos import image
from tests.retrieval.cases import filled_gallery, random_descriptors
from vitjax import ot, sparsify
from vitjax.config import METHODS, RerankConfig
from vitjax.ot import marginals
from vitjax.retrieval import match_pairs, pair_plans, rerank, search
from vitjax.sparsify import losses
from vitjax.sparsify.decisions import sample
from vitjax.training import metric_losses

RERANKS = {
    **{method: RerankConfig(method=method) for method in METHODS},
    "partial": RerankConfig(mass=0.7),
    "relaxed": RerankConfig(tau=0.6),
    "priced": RerankConfig(mass="auto", price=0.5),
    "mutual mass": RerankConfig(mass="mutual", price=0.5, marginals="cross_correlation"),
}


def _problem(dtype):
    """Three problems: one with tokens of no mass on both sides, one without any mass, one of equal costs."""
    rng = np.random.default_rng(0)
    cost = rng.uniform(0, 2, (3, 4, 5))
    cost[2] = 1.0
    a, b = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(5), 3)
    a[0, 0], b[0, -1] = 0, 0
    a, b = (x / x.sum(-1, keepdims=True) for x in (a, b))
    a[1], b[1] = 0, 0
    return tuple(jnp.asarray(x, dtype) for x in (cost, a, b))


def _transports(dtype):
    problem = _problem(dtype)
    for tolerance in (0.0, 1e-4):
        rest = {"epsilon": 0.05, "iterations": 20, "tolerance": tolerance}
        yield "sinkhorn", functools.partial(ot.sinkhorn, **rest), problem
        yield "partial", functools.partial(ot.partial_sinkhorn, mass=0.5, **rest), problem
        yield "relaxed", functools.partial(ot.relaxed_sinkhorn, tau_a=0.8, tau_b=0.0, **rest), problem
        yield "relaxed match", functools.partial(ot.relaxed_match, tau_a=0.8, tau_b=0.5, **rest), problem
        yield "priced", functools.partial(ot.priced_match, price=0.5, **rest), problem
        yield "mutual mass", functools.partial(ot.mutual_mass_match, price=0.5, **rest), problem
    yield "chamfer", ot.chamfer_match, problem
    yield "mutual", ot.mutual_match, problem


def _of_ot(dtype):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, 9, 8))
    tokens = jnp.asarray(tokens / np.linalg.norm(tokens, axis=-1, keepdims=True), dtype)
    other = tokens[:, 3]
    valid = jnp.asarray(np.arange(9)[None] < np.array([[5], [0]]))
    for kind in ("cross_correlation", "inverse", "complement", "softmax"):
        call = getattr(marginals, kind)
        yield kind, lambda t, o, call=call: call(t, o, valid=valid), (tokens, other)
    third = jnp.full((2, 9), 1 / 9, dtype)
    yield "rollout marginal", lambda w: marginals.from_rollout(w, valid=valid), (jnp.zeros_like(third),)
    yield (
        "keep marginal",
        lambda x: marginals.from_keep_scores(x, valid=valid),
        (jnp.stack([jnp.log(third)] * 2, -1),),
    )
    yield "structural", lambda t, a: ot.structural_match(t, t[:, ::-1], a, a, iterations=20), (tokens, third)
    maps = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 2, 3, 10, 10)), dtype), -1)
    for heads in ("mean", "min", "max"):
        yield (
            f"rollout {heads}",
            lambda *x, heads=heads: ot.attention_rollout(x, heads=heads, discard=0.2),
            tuple(maps),
        )
    yield "rollout matrix", lambda *x: ot.rollout_matrix(x), tuple(maps)
    yield "rollout on grids", lambda *x: ot.attention_rollout(x, grid=(3, 3)), tuple(maps)
    bare = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 3, 36, 9)), dtype), -1), maps[0, :, :, 1:, 1:]
    yield "rollout without prefix", lambda *x: ot.attention_rollout(x, grid=(3, 3)), bare
    yield "released rollout", lambda *x: ot.released.cvt_rollout(x, grid=(3, 3), pool=3).marginal, tuple(maps)


def _of_sparsify(dtype):
    rng = np.random.default_rng(2)
    tokens = jnp.asarray(rng.normal(size=(2, 9, 8)), dtype)
    third = jnp.full((2, 9), 1 / 9, dtype)
    keep = jnp.asarray([[1.0] * 4 + [0.0] * 5, [0.0] * 9], dtype)
    logits = jnp.asarray(rng.normal(size=(2, 3, 9, 9)) * 30, dtype)
    for compat in (None, "released"):
        yield "masked softmax", lambda x, k, c=compat: sparsify.masked_softmax(x, k, compat=c), (logits, keep)
    yield "sample", lambda x: sample(jax.random.key(0), x), (jnp.asarray(rng.normal(size=(2, 9, 2)), dtype),)
    scores = jnp.asarray(rng.normal(size=(2, 5)) * 100, dtype)
    hard = jnp.asarray(np.eye(5)[[1, 2]], dtype)
    yield "cross entropy", losses.soft_cross_entropy, (scores, hard)
    yield "distillation", losses.distill_kl, (scores, scores[::-1])
    yield "ratio", losses.ratio_loss, (keep[:, None], jnp.asarray([0.5], dtype))
    yield "token loss", losses.token_mse, (tokens, tokens[::-1], keep)
    token_map = sparsify.TokenMap.all(2, 9)
    for name in sorted(sparsify.REDUCERS.keys() - {"patchmerger", "sit", "sinkhorn"}):  # learned tokens
        reducer = sparsify.make_reducer(name, blocks=(0,), keep_ratio=0.5, r=3)

        def call(t, s, r=reducer):
            return r.step(
                t, token_map, sparsify.StepInput(s, t, prefix=1, received=jnp.exp(s), significance=jnp.exp(s))
            )

        yield name, call, (tokens, jnp.log(third))
    labels = jnp.asarray([0, 0])
    yield "triplet", lambda x: metric_losses.triplet_loss(x, labels, margin=0.2), (tokens[:, 0],)
    yield "restore", lambda t: sparsify.restore(t, token_map.owner), (tokens,)


@functools.cache
def _cases(dtype, x64=False):
    """All functions and their arrays, for programs with or without types of 64 bits."""
    return [*_transports(dtype), *_of_ot(dtype), *_of_sparsify(dtype)]


NAMES = [name for name, _, _ in _cases(np.float32)]


@pytest.mark.parametrize("i", range(len(NAMES)), ids=NAMES)
def test_no_value_and_no_gradient_is_nan_inside_of_a_program(i):
    _, call, arrays = _cases(np.float32)[i]

    def total(*arrays):
        found = jax.tree.leaves(call(*arrays))
        return sum((x.sum() for x in found if jnp.issubdtype(x.dtype, jnp.floating)), jnp.float32(0))

    with jax.debug_nans(True):
        value, gradients = jax.jit(jax.value_and_grad(total, argnums=tuple(range(len(arrays)))))(*arrays)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("i", range(len(NAMES)), ids=NAMES)
def test_float32_stays_float32_where_float64_is_allowed(i):
    with jax.enable_x64(True):
        _, call, arrays = _cases(np.float32, x64=True)[i]
        found = jax.eval_shape(lambda *x: jax.tree.leaves(call(*x)), *arrays)
    assert {x.dtype for x in found if jnp.issubdtype(x.dtype, jnp.floating)} <= {np.dtype(np.float32)}


def test_transport_of_float64_is_not_cut():
    with jax.enable_x64(True):
        for name, call, arrays in [*_transports(np.float64), *_of_ot(np.float64)]:
            found = jax.eval_shape(lambda *x, call=call: jax.tree.leaves(call(*x)), *arrays)
            assert any(x.dtype == np.float64 for x in found), name


@pytest.fixture(scope="module")
def images():
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(7, tokens=6, seed=2)
    gallery.valid[2], gallery.valid[3, 2:], queries.valid[1] = False, False, False
    return queries, gallery


@pytest.mark.parametrize("config", RERANKS.values(), ids=RERANKS)
def test_every_method_reranks_without_a_nan_inside_of_a_program(config, images):
    queries, gallery = images
    order = np.tile(np.r_[np.arange(7), -1], (3, 1))
    with jax.debug_nans(True):
        found = rerank(queries, gallery, order, config=config)
        matches = match_pairs(queries, gallery, np.arange(3), np.arange(3), config=config)
    lost = (found.index == 2) | (found.index < 0) | (np.arange(3)[:, None] == 1)
    np.testing.assert_array_equal(np.isnan(found.structural), lost)
    np.testing.assert_array_equal(np.isnan(matches.structural), [False, True, True])


def test_search_describe_and_plans_run_without_a_nan_inside_of_a_program(images, tmp_path):
    queries, gallery = images
    stored = filled_gallery(tmp_path / "g", dtype="int8")
    with jax.debug_nans(True):
        assert search(queries.pooled, gallery.pooled, 4)[1].shape == (3, 4)
        assert len(list(pair_plans(queries, gallery, np.arange(3), np.arange(3)))) == 3
        assert np.isfinite(rerank(queries, stored, np.tile(np.arange(4), (3, 1))).score).all()
        model = vitjax.build("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=3)
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        recipe = vitjax.preprocess("vit_tiny_patch16_224").replace(image_size=32)
        config = RerankConfig(marginals="rollout", mass=0.5)
        reranker = vitjax.Reranker(model, variables, config, preprocess=recipe)
        assert len(reranker.rank(image(0, 0), [image(0, 1), image(1, 0)])) == 2
