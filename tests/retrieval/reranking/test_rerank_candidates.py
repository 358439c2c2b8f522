import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import compiled
from tests.retrieval.cases import random_descriptors, rankings
from vitjax import ot, sharding
from vitjax.config import MARGINALS, METHODS, RerankConfig
from vitjax.ot import structural_similarity
from vitjax.retrieval import Descriptors, rerank
from vitjax.retrieval.reranking import matching

FIELDS = ("index", "score", "structural", "pooled", "error", "fallback", "mass")


def scores_by_pair(found):
    """{(query, gallery row): (score, structural)} of a result."""
    return {
        (q, int(g)): (found.score[q, j], found.structural[q, j])
        for q, row in enumerate(found.index)
        for j, g in enumerate(row)
        if g >= 0
    }


def test_two_tokens_each_have_the_score_of_the_closed_form():
    # Cost 0 on the diagonal, 1 off it, equal weights: the plan is p on the diagonal and 1/2 - p off it with
    # p / (1/2 - p) = exp(1 / epsilon).
    corners = Descriptors.from_arrays(np.eye(2)[:1], np.eye(2)[None])
    config = RerankConfig(epsilon=0.5, weight=0.25)
    found = rerank(corners, corners, np.array([[0]]), config=config)
    ratio = np.exp(1 / 0.5)
    np.testing.assert_allclose(found.structural, ratio / (1 + ratio), rtol=1e-6)
    np.testing.assert_allclose(found.score, found.structural + 0.25, rtol=1e-6)
    assert found.error[0, 0] < 1e-5 and not found.fallback[0, 0]


@pytest.mark.parametrize("mass", [1.0, 0.7])
def test_structural_is_the_structural_similarity_of_the_two_images(mass):
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(5, tokens=7, seed=2)
    config = RerankConfig(epsilon=0.1, mass=mass, marginals="rollout")
    found = rerank(queries, gallery, np.array([[0, 1, 2, 3, 4]] * 2), config=config)
    q, g = np.repeat(np.arange(2), 5), found.index.ravel()
    one, two = (jax.tree.map(jnp.asarray, x) for x in (queries.take(q), gallery.take(g)))
    score = compiled(structural_similarity)
    want = score(one.tokens, two.tokens, one.weights, two.weights, epsilon=0.1, mass=mass)
    np.testing.assert_allclose(found.structural.ravel(), want, rtol=0, atol=1e-6)


METHOD_CONFIGS = {
    "transport": RerankConfig(mass=0.7, epsilon=0.1),
    "relaxed": RerankConfig(tau=0.6, epsilon=0.1),
    "priced": RerankConfig(mass="auto", price=0.5, epsilon=0.1),
    **{method: RerankConfig(method=method) for method in METHODS if method != "transport"},
}
every_method = pytest.mark.parametrize("config", METHOD_CONFIGS.values(), ids=METHOD_CONFIGS)
RANGES = {
    "transport": (-0.7, 0.7),
    "relaxed": (-1, 1),
    "priced": (-1, 1),
    "chamfer": (-1, 1),
    "mutual": (0, 1),
    "pooled": (0, 0),
}


@pytest.mark.parametrize("name", ["relaxed", "priced", "mutual_mass", "chamfer", "mutual"])
def test_methods_score_as_their_functions_do(name):
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(5, tokens=7, seed=2)
    config = {"mutual_mass": RerankConfig(mass="mutual", price=0.5, epsilon=0.1)} | METHOD_CONFIGS
    found = rerank(queries, gallery, rankings(2, 5, 5), config=config[name])
    similarity = np.einsum("qnd,gmd->qgnm", queries.tokens, gallery.tokens)
    a, b = np.full((2, 5, 9), 1 / 9, np.float32), np.full((2, 5, 7), 1 / 7, np.float32)
    function = {
        "relaxed": lambda *x: ot.relaxed_match(*x, tau_a=0.6, tau_b=0.6, epsilon=0.1),
        "priced": lambda *x: ot.priced_match(*x, price=0.5, epsilon=0.1),
        "mutual_mass": lambda *x: ot.mutual_mass_match(*x, price=0.5, epsilon=0.1),
        "chamfer": ot.chamfer_match,
        "mutual": ot.mutual_match,
    }[name]
    want = jax.jit(function)(similarity, a, b)
    for ours, theirs in ((found.structural, want.score), (found.mass, want.transport.mass)):
        in_order = np.take_along_axis(np.asarray(theirs), found.index, axis=1)
        np.testing.assert_allclose(ours, in_order, rtol=0, atol=1e-6)


@every_method
def test_scores_lie_in_the_stated_range_and_fall_along_the_whole_row(config, request):
    low, high = RANGES[request.node.callspec.id]
    queries, gallery = random_descriptors(6, seed=1), random_descriptors(40, seed=2)
    index = np.argsort(-(queries.pooled @ gallery.pooled.T), axis=1, kind="stable")
    found = rerank(queries, gallery, index, config=dataclasses.replace(config, top_k=9))
    assert (np.diff(found.score, axis=1) <= 1e-6).all()
    matched = found.structural[:, :9]
    assert (matched >= low - 1e-5).all() and (matched <= high + 1e-5).all()
    assert ((found.mass[:, :9] >= 0) & (found.mass[:, :9] <= 1 + 1e-5)).all()
    np.testing.assert_allclose(found.score[:, 9:], found.pooled[:, 9:] + low, atol=1e-6)


@every_method
def test_every_method_leaves_padded_tokens_out_and_scores_pairs_alone(config):
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(8, tokens=9, seed=2)
    keep = np.arange(9)[None, :] < np.full((8, 1), 5)
    padded = Descriptors.from_arrays(gallery.pooled, gallery.tokens, gallery.weights, keep)
    removed = Descriptors.from_arrays(gallery.pooled, gallery.tokens[:, :5], gallery.weights[:, :5])
    index = rankings(3, 8, 8)
    whole = scores_by_pair(rerank(queries, padded, index, config=config))
    other = scores_by_pair(rerank(queries, removed, index[:, ::-1], config=config))
    for pair, value in other.items():
        np.testing.assert_allclose(value, whole[pair], rtol=0, atol=2e-6)


@every_method
def test_every_method_says_which_pairs_it_could_not_match(config):
    queries, gallery = random_descriptors(1, seed=1), random_descriptors(4, seed=2)
    gallery.tokens[1], gallery.valid[2] = np.nan, False
    found = rerank(queries, gallery, np.arange(4)[None, :], config=config)
    lost = np.isin(found.index, (1, 2) if config.method != "pooled" else 2)
    np.testing.assert_array_equal(np.isnan(found.structural), lost)
    np.testing.assert_array_equal(np.isnan(found.mass), lost)
    assert np.isfinite(found.score).all()


def test_pooled_keeps_the_order_of_a_pooled_search_and_orders_any_other():
    queries, gallery = random_descriptors(6, seed=1), random_descriptors(40, seed=2)
    index = np.argsort(-(queries.pooled @ gallery.pooled.T), axis=1, kind="stable")[:, :20]
    for given in (index, index[:, ::-1]):
        found = rerank(queries, gallery, given, config=RerankConfig(method="pooled"))
        np.testing.assert_array_equal(found.index, index)


def test_order_is_by_score_and_the_rest_keeps_its_place():
    queries, gallery = random_descriptors(4, seed=1), random_descriptors(20, tokens=5, seed=2)
    index = rankings(4, 20, 12)
    found = rerank(queries, gallery, index, config=RerankConfig(top_k=7, mass=0.8))
    assert (np.diff(found.score[:, :7], axis=1) <= 0).all()
    np.testing.assert_array_equal(np.sort(found.index[:, :7], axis=1), np.sort(index[:, :7], axis=1))
    np.testing.assert_array_equal(found.index[:, 7:], index[:, 7:])
    cosine = np.take_along_axis(queries.pooled @ gallery.pooled.T, found.index, axis=1)
    np.testing.assert_allclose(found.pooled, cosine, atol=1e-6)
    np.testing.assert_allclose(found.score[:, :7], (found.structural + found.pooled)[:, :7], atol=1e-6)
    assert np.isnan(found.structural[:, 7:]).all() and np.isnan(found.error[:, 7:]).all()
    np.testing.assert_allclose(found.score[:, 7:], cosine[:, 7:] - 0.8, atol=1e-6)


def test_scores_fall_along_the_whole_row_after_a_pooled_search():
    queries, gallery = random_descriptors(6, seed=1), random_descriptors(40, seed=2)
    index = np.argsort(-(queries.pooled @ gallery.pooled.T), axis=1, kind="stable")
    for weight in (0.0, 1.0, 3.0):
        found = rerank(queries, gallery, index, config=RerankConfig(top_k=9, weight=weight, iterations=20))
        assert (np.diff(found.score, axis=1) <= 1e-6).all()


def test_equal_scores_keep_their_order():
    gallery = random_descriptors(1, seed=3).take(np.zeros(6, int))
    index = np.array([[3, 0, 5, 1, 4, 2]])
    found = rerank(random_descriptors(1), gallery, index)
    np.testing.assert_array_equal(found.index, index)


@pytest.mark.parametrize("marginals", ["uniform", "cross_correlation"])
def test_a_score_depends_on_its_pair_alone(marginals, monkeypatch):
    """Other candidates, their order, other queries and the size of a block change no score."""
    queries, gallery = random_descriptors(5, seed=1), random_descriptors(30, tokens=7, seed=2)
    config = RerankConfig(top_k=20, epsilon=0.1, mass=0.7, marginals=marginals, iterations=60, tolerance=1e-4)
    index = rankings(5, 30, 20)
    whole = scores_by_pair(rerank(queries, gallery, index, config=config))
    shuffled = scores_by_pair(rerank(queries, gallery, index[:, ::-1], config=config))
    fewer = scores_by_pair(rerank(queries.take([2]), gallery, index[2:3, 4:7], config=config))
    fewer = {(2, g): value for (_, g), value in fewer.items()}
    monkeypatch.setattr(matching, "_CPU_PAIRS", 3)
    small_blocks = scores_by_pair(rerank(queries, gallery, index, config=config))
    assert len(fewer) == 3 and len(small_blocks) == 100
    for other in (shuffled, fewer, small_blocks):
        for pair, value in other.items():
            np.testing.assert_allclose(value, whole[pair], rtol=0, atol=1e-6, err_msg=str(pair))


@pytest.mark.parametrize("marginals", MARGINALS)
def test_every_kind_of_marginals_is_used(marginals):
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(6, seed=2)
    index, config = rankings(2, 6, 6), RerankConfig(marginals=marginals, iterations=50)
    found = rerank(queries, gallery, index, config=config)
    assert np.isfinite(found.score).all() and not found.fallback.any() and (found.error < 1e-2).all()
    if marginals != "uniform":
        alike = rerank(queries, gallery, index, config=dataclasses.replace(config, marginals="uniform"))
        gap = np.sort(found.structural, axis=1) - np.sort(alike.structural, axis=1)
        assert np.abs(gap).max() > 1e-4


def test_padded_tokens_equal_removed_tokens():
    queries, gallery = random_descriptors(3, tokens=6, seed=1), random_descriptors(8, tokens=9, seed=2)
    padded = Descriptors.from_arrays(
        gallery.pooled, gallery.tokens, gallery.weights, np.arange(9)[None, :] < np.full((8, 1), 5)
    )
    removed = Descriptors.from_arrays(gallery.pooled, gallery.tokens[:, :5], gallery.weights[:, :5])
    config = RerankConfig(marginals="softmax", epsilon=0.1)
    one, two = (rerank(queries, x, rankings(3, 8, 8), config=config) for x in (padded, removed))
    np.testing.assert_allclose(one.score, two.score, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(one.index, two.index)


def test_partial_transport_of_all_mass_is_balanced_transport():
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(8, seed=2)
    index = rankings(3, 8, 8)
    whole = rerank(queries, gallery, index, config=RerankConfig(iterations=300))
    almost = rerank(queries, gallery, index, config=RerankConfig(iterations=300, mass=1 - 1e-6))
    np.testing.assert_allclose(almost.score, whole.score, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"mass": 0.6}, {"tau": 0.6}])
def test_both_solvers_agree(changes):
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(5, seed=2)
    config = RerankConfig(epsilon=0.1, iterations=400, **changes)
    fused = rerank(queries, gallery, rankings(2, 5, 5), config=config)
    ott = rerank(queries, gallery, rankings(2, 5, 5), config=dataclasses.replace(config, solver="ott"))
    np.testing.assert_allclose(fused.score, ott.score, atol=1e-5)


def test_padding_stays_last_and_says_so():
    queries, gallery = random_descriptors(3, seed=1), random_descriptors(6, seed=2)
    index = np.array([[3, -1, 1, -1, 5], [-1, -1, -1, -1, -1], [0, 1, 2, 3, -1]])
    found = rerank(queries, gallery, index, config=RerankConfig(top_k=3))
    assert sorted(found.index[0, :2]) == [1, 3] and found.index[0, 2:].tolist() == [5, -1, -1]
    assert (found.index[1] == -1).all() and found.index[2, 3:].tolist() == [3, -1]
    padding = found.index < 0
    assert np.isneginf(found.score[padding]).all() and np.isfinite(found.score[~padding]).all()
    for x in (found.structural, found.pooled, found.error):
        assert np.isnan(x[padding]).all()
    assert not found.fallback.any()


def test_pairs_that_cannot_be_matched_are_said_and_harm_nobody():
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(5, seed=2)
    index = np.tile(np.arange(5), (2, 1))
    clean = scores_by_pair(rerank(queries, gallery, index))
    gallery.tokens[1] = np.nan
    gallery.valid[3] = False
    gallery.weights[4] = 0
    found = rerank(queries, gallery, index, config=RerankConfig())
    broken = scores_by_pair(found)
    for (q, g), (score, structural) in broken.items():
        if g in (1, 3):
            assert np.isnan(structural) and np.isnan(found.error[q, list(found.index[q]).index(g)])
            np.testing.assert_allclose(score, queries.pooled[q] @ gallery.pooled[g] - 1, atol=1e-6)
        else:
            np.testing.assert_allclose((score, structural), clean[q, g], atol=1e-6)
    rolled = rerank(queries, gallery, index, config=RerankConfig(marginals="rollout"))
    assert rolled.fallback[rolled.index == 4].all() and not rolled.fallback[rolled.index == 0].any()


def test_any_number_of_queries_and_galleries_of_like_size_compile_once(monkeypatch):
    traces, original = [], matching.partial_match

    def counted(*args, **kwargs):
        traces.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(matching, "partial_match", counted)
    gallery = random_descriptors(50, tokens=4, d=11)
    for q, n in ((1, 50), (7, 50), (23, 41), (2, 64)):
        gallery = random_descriptors(n, tokens=4, d=11)
        config = RerankConfig(top_k=13, epsilon=0.05 + q / 100, iterations=7)
        rerank(random_descriptors(q, tokens=3, d=11), gallery, rankings(q, n, 13), config=config)
    assert len(traces) == 1


@pytest.mark.parametrize("marginals", ["cross_correlation", "inverse"])
def test_tokens_orthogonal_to_the_other_images_pooled_vector_are_weighed_uniformly_and_flagged(marginals):
    rng = np.random.default_rng(0)
    tokens, pooled = rng.normal(size=(2, 5, 9, 16)), rng.normal(size=(2, 5, 16))
    tokens[..., 8:], pooled[..., :8] = 0.0, 0.0
    pooled[1, 3] = tokens[0, :, 0].mean(axis=0)  # gallery row 3 alone looks like the queries
    queries, gallery = (Descriptors.from_arrays(*part) for part in zip(pooled, tokens, strict=True))
    index = np.tile(np.arange(5), (5, 1))
    found = rerank(queries, gallery, index, config=RerankConfig(marginals=marginals))
    even = scores_by_pair(rerank(queries, gallery, index, config=RerankConfig()))
    assert np.isfinite(found.score).all()
    # Every row of relu(0) is all zero; exp(-relu(0)) is uniform by itself, which is nothing to flag.
    zero = marginals == "cross_correlation"
    assert (found.fallback == zero).all()
    for (q, g), score in scores_by_pair(found).items():
        if g != 3:
            np.testing.assert_allclose(score, even[q, g], rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{"mass": 0.8, "tolerance": 1e-5}, {"tau": 0.7}, {"method": "mutual"}])
def test_two_devices_equal_one(changes):
    queries, gallery = random_descriptors(5, seed=1), random_descriptors(30, seed=2)
    index, config = rankings(5, 30, 25), RerankConfig(top_k=20, **changes)
    one = rerank(queries, gallery, index, config=config)
    for given in (gallery, jax.tree.map(jnp.asarray, gallery)):
        two = rerank(queries, given, index, config=config, mesh=sharding.make_mesh())
        np.testing.assert_array_equal(two.index, one.index)
        for name in FIELDS[1:]:
            np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=0, atol=1e-6)


EIGHT = """
import json, jax
import numpy as np
from tests.retrieval.cases import filled_gallery, random_descriptors, rankings
from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.retrieval import rerank, search
assert jax.device_count() == 8
queries, gallery = random_descriptors(5, seed=1), random_descriptors(30, seed=2)
mesh = sharding.make_mesh()
found = rerank(queries, gallery, rankings(5, 30, 25), config=RerankConfig(top_k=20, mass=0.8), mesh=mesh)
index = search(queries, gallery, 9, mesh=mesh)[1]

stored = filled_gallery("memory://eight", 30, dtype="int8")
whole, config = stored.take(slice(None)), RerankConfig(top_k=20, method="chamfer")
here = rerank(queries, whole, rankings(5, 30, 25), config=config)
streamed = rerank(queries, stored, rankings(5, 30, 25), config=config, mesh=mesh)
np.testing.assert_array_equal(streamed.index, here.index)
np.testing.assert_allclose(streamed.score, here.score, rtol=0, atol=1e-6)
one, eight = search(queries, whole, 9), stored.search(queries, 9, mesh=mesh)
np.testing.assert_array_equal(eight[1], one[1])
np.testing.assert_allclose(eight[0], one[0], rtol=0, atol=1e-6)
print(json.dumps([found.index.tolist(), found.score.tolist(), index.tolist()]))
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run(
        [sys.executable, "-c", EIGHT], env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr
    index, score, nearest = (np.array(x) for x in json.loads(run.stdout.splitlines()[-1]))
    queries, gallery = random_descriptors(5, seed=1), random_descriptors(30, seed=2)
    one = rerank(queries, gallery, rankings(5, 30, 25), config=RerankConfig(top_k=20, mass=0.8))
    np.testing.assert_array_equal(index, one.index)
    np.testing.assert_allclose(score, one.score, rtol=0, atol=1e-6)
    whole = np.argsort(-(queries.pooled @ gallery.pooled.T), axis=1, kind="stable")
    np.testing.assert_array_equal(nearest, whole[:, :9])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"index": np.array([[0, 6]])}, "holds rows 0 to 6, but the gallery has 6"),
        ({"index": np.array([[0, -2]])}, "-1 is padding"),
        ({"index": np.array([[0], [1]])}, "for 1 queries"),
        ({"gallery": random_descriptors(6, d=8)}, "describe both with the same model"),
        ({"gallery": random_descriptors(6).take(slice(0, 0))}, "the gallery is empty"),
        ({"config": RerankConfig(mass=1.5)}, "mass is 1.5; it must be in"),
    ],
)
def test_what_cannot_be_reranked_says_why(change, text):
    given = {"queries": random_descriptors(1), "gallery": random_descriptors(6), "index": np.array([[0, 1]])}
    with pytest.raises(ValueError, match=text):
        rerank(**(given | change))


def test_marginals_that_compare_pooled_with_tokens_need_one_length():
    rng = np.random.default_rng(0)
    x = Descriptors.from_arrays(rng.normal(size=(2, 3)), rng.normal(size=(2, 4, 5)))
    with pytest.raises(ValueError, match="use 'uniform' or 'rollout'"):
        rerank(x, x, np.array([[0], [1]]), config=RerankConfig(marginals="complement"))
    assert np.isfinite(rerank(x, x, np.array([[0], [1]])).score).all()


def test_an_empty_ranking_stays_empty():
    found = rerank(random_descriptors(2), random_descriptors(3), np.zeros((2, 0), int))
    assert found.index.shape == found.score.shape == (2, 0)
