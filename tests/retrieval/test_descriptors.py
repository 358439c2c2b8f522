import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import sharding
from vitjax.retrieval import Descriptors, describe_batches, make_describe, token_center
from vitjax.retrieval.descriptors import pool_grid, pool_weights, smooth_grid


def pooled_by_loops(x, size):
    """The written definition of adaptive average pooling, cell by cell."""
    h, w, d = x.shape
    out = np.zeros((size, size, d))
    for i in range(size):
        for j in range(size):
            rows = slice(i * h // size, -(-(i + 1) * h // size))
            columns = slice(j * w // size, -(-(j + 1) * w // size))
            out[i, j] = x[rows, columns].mean(axis=(0, 1))
    return out.reshape(size * size, d)


@pytest.mark.parametrize(
    ("grid", "size"), [((16, 16), 8), ((14, 14), 7), ((16, 16), 7), ((5, 9), 4), ((3, 2), 5)]
)
def test_pooling_is_the_mean_of_each_adaptive_cell(grid, size):
    x = np.random.default_rng(0).normal(size=(2, *grid, 3)).astype(np.float32)
    got = pool_grid(x.reshape(2, -1, 3), grid, size)
    np.testing.assert_allclose(got, [pooled_by_loops(each, size) for each in x], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("grid", "size"), [((16, 16), 8), ((16, 16), 7), ((5, 9), 4), ((3, 2), 5)])
def test_pooled_weights_keep_their_total(grid, size):
    x = np.random.default_rng(0).random((2, grid[0] * grid[1])).astype(np.float32)
    got = pool_weights(x, grid, size)
    assert (got >= 0).all()
    np.testing.assert_allclose(got.sum(1), x.sum(1), rtol=1e-5)


@pytest.mark.parametrize(("grid", "size"), [((4, 5), 3), ((4, 5), 5), ((2, 3), 7), ((3, 3), 1)])
def test_smoothing_is_the_mean_of_the_neighbours_that_are_there(grid, size):
    x = np.random.default_rng(0).normal(size=(2, *grid, 3)).astype(np.float32)
    want = np.zeros_like(x)
    reach = size // 2
    for i, j in np.ndindex(grid):
        near = x[:, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
        want[:, i, j] = near.mean(axis=(1, 2))
    got = smooth_grid(x.reshape(2, -1, 3), grid, size)
    np.testing.assert_allclose(got, want.reshape(2, -1, 3), rtol=1e-5, atol=1e-6)


def ranked(variables, images):
    """Six of the 16 tokens of `forward` are left; the last stands for two cells, the fifth for none."""
    out = forward(variables, images)
    places = np.tile([1, 3, 4, 9, 16, 15], (len(images), 1))
    owner = np.full((len(images), 16), -1)
    owner[:, [1, 3, 4, 9, 15, 14]] = [0, 1, 2, 3, 5, 5]
    return Ranked(
        pooled=out.pooled,
        tokens=out.tokens[:, [1, 3, 4, 9, 0, 15]],
        grid=(4, 4),
        owner=(jnp.asarray(owner),),
        keep_index=(jnp.asarray(places),),
        sizes=jnp.asarray(np.tile([1.0, 1, 1, 1, 0, 2], (len(images), 1))),
        kept_scores=jnp.asarray(np.tile([0.1, 0.2, 0.3, 0.4, 0.0, 1.0], (len(images), 1))),
    )


class Ranked(types.SimpleNamespace):
    """What a model that drops and merges tokens returns."""


def test_kept_tokens_weigh_their_kept_scores(images, variables):
    found, _ = describe_batches(make_describe(ranked, keep=True), variables, batches_of(images, 7))
    np.testing.assert_allclose(found.weights[3], [0.05, 0.1, 0.15, 0.2, 0.0, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(found.valid[3], [True, True, True, True, False, True])


def test_dropped_patches_have_exactly_no_weight_on_the_grid(images, variables):
    found, _ = describe_batches(make_describe(ranked, keep=True, grid=4), variables, batches_of(images, 7))
    want = np.zeros(16)
    want[[1, 3, 4, 9, 14, 15]] = [0.05, 0.1, 0.15, 0.2, 0.25, 0.25]
    np.testing.assert_allclose(found.weights[0], want, rtol=1e-6)
    assert (found.weights[:, want == 0] == 0).all() and not found.valid[:, want == 0].any()


def test_what_a_model_cannot_give_is_named(images, variables):
    with pytest.raises(ValueError, match="ranks its tokens"):
        describe_batches(make_describe(forward, keep=True), variables, batches_of(images, 7))
    with pytest.raises(ValueError, match="neighbours are gone"):
        describe_batches(make_describe(ranked, smooth=3), variables, batches_of(images, 7))


def test_pooling_pruned_tokens_is_refused():
    with pytest.raises(ValueError, match="5 tokens on a 2x3 grid"):
        pool_grid(np.zeros((1, 5, 3), np.float32), (2, 3), 2)


def test_arrays_become_unit_vectors_and_shares():
    rng = np.random.default_rng(0)
    tokens, weights = rng.normal(size=(3, 4, 5)), rng.random((3, 4))
    tokens[0, 1] = 0
    valid = np.ones((3, 4), bool)
    valid[1, 2:] = False
    tokens[1, 2] = np.nan  # padding may hold anything
    found = Descriptors.from_arrays(rng.normal(size=(3, 6)), tokens, weights, valid)
    lengths = np.linalg.norm(found.tokens, axis=-1)
    assert lengths[0, 1] == 0 and (lengths[1, 2:] == 0).all()
    np.testing.assert_allclose(lengths[2], 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.pooled, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-6)
    assert (found.weights[1, 2:] == 0).all() and found.tokens.dtype == np.float32 and len(found) == 3


@pytest.mark.parametrize("size", [1e38, 1e20, 1e-15])
def test_no_array_is_too_large_to_be_normalised_nor_weights_too_small(size):
    pooled, tokens = np.eye(2, 4, dtype=np.float32), np.ones((2, 3, 4), np.float32)
    scale = max(size, 1.0)
    found = Descriptors.from_arrays(scale * pooled, scale * tokens, size * np.ones((2, 3)))
    np.testing.assert_allclose(found.pooled, pooled, rtol=1e-6)
    np.testing.assert_allclose(found.tokens, tokens / 2, rtol=1e-6)
    np.testing.assert_allclose(found.weights, np.full((2, 3), 1 / 3), rtol=1e-6)


def test_bad_arrays_are_refused_by_name():
    good, tokens = np.ones((3, 2)), np.ones((3, 4, 2))
    with pytest.raises(ValueError, match="expected \\(n, d\\) and \\(n, tokens, d\\)"):
        Descriptors.from_arrays(good, np.ones((2, 4, 2)))
    with pytest.raises(ValueError, match="weights has shape \\(3, 5\\)"):
        Descriptors.from_arrays(good, tokens, weights=np.ones((3, 5)))
    tokens[2, 1, 0] = np.nan
    with pytest.raises(ValueError, match="not finite in 1 of 3 rows: 2"):
        Descriptors.from_arrays(good, tokens)
    with pytest.raises(ValueError, match="weights below zero in 1 of 3 rows: 1"):
        Descriptors.from_arrays(good, np.ones((3, 2, 2)), weights=[[1, 1], [1, -1], [1, 1]])


def forward(variables, images):
    """A model whose tokens are the pixels of a 4 x 4 image, seen through a matrix."""
    tokens = images.reshape(images.shape[0], 16, 3) @ variables["w"]
    attention = jax.nn.softmax(jnp.einsum("bnd,bmd->bnm", tokens, tokens), axis=-1)[:, None]
    attention = jnp.pad(attention, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=0.1)
    return types.SimpleNamespace(
        pooled=tokens.mean(1), tokens=tokens, grid=(4, 4), attention=(attention, attention)
    )


def batches_of(images, size):
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield types.SimpleNamespace(
            images=sharding.pad_rows(part, size),
            index=sharding.pad_rows(np.arange(start, start + len(part)), size),
            valid=sharding.pad_rows(np.ones(len(part), bool), size),
        )


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(size=(7, 4, 4, 3)).astype(np.float32)


@pytest.fixture
def variables():
    return {"w": np.random.default_rng(6).normal(size=(3, 5)).astype(np.float32)}


@pytest.mark.parametrize("rollout", [False, True])
@pytest.mark.parametrize("grid", [0, 2])
def test_batches_and_devices_do_not_change_a_description(images, variables, grid, rollout):
    whole, index = describe_batches(
        make_describe(forward, grid=grid, rollout=rollout), variables, batches_of(images, 7)
    )
    mesh = sharding.make_mesh()
    parts, same = describe_batches(
        make_describe(forward, grid=grid, rollout=rollout, mesh=mesh),
        variables,
        batches_of(images, 3),
        mesh=mesh,
    )
    np.testing.assert_array_equal(index, np.arange(7))
    np.testing.assert_array_equal(same, index)
    assert whole.tokens.shape == (7, grid * grid or 16, 5) and whole.valid.all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, parts)
    np.testing.assert_allclose(whole.weights.sum(1), 1, rtol=1e-5)
    assert rollout == bool(np.ptp(whole.weights) > 1e-3)


def test_tokens_are_averaged_before_they_are_normalised(images, variables):
    found, _ = describe_batches(make_describe(forward, grid=2), variables, batches_of(images, 7))
    raw = images.reshape(7, 16, 3) @ variables["w"]
    want = np.stack([pooled_by_loops(each.reshape(4, 4, 5), 2) for each in raw])
    np.testing.assert_allclose(found.tokens, want / np.linalg.norm(want, axis=-1, keepdims=True), atol=1e-5)


def test_a_center_is_taken_out_between_averaging_and_normalising(images, variables):
    raw, _ = describe_batches(
        make_describe(forward, grid=2, normalise=False), variables, batches_of(images, 7)
    )
    center = token_center(raw.tokens, "position")
    np.testing.assert_allclose(center, raw.tokens.mean(0), atol=1e-6)
    describe = make_describe(forward, grid=2, center=center)
    found, _ = describe_batches(describe, variables, batches_of(images, 3))
    want = raw.tokens - center[None]
    np.testing.assert_allclose(found.tokens, want / np.linalg.norm(want, axis=-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.pooled, axis=-1), 1, atol=1e-5)


def test_centers_by_hand():
    tokens = np.array([[[1.0, 0.0], [3.0, 2.0]], [[3.0, 0.0], [5.0, 2.0]]])
    np.testing.assert_allclose(token_center(tokens, "position"), [[2, 0], [4, 2]])
    np.testing.assert_allclose(token_center(tokens, "mean"), [[3, 1], [3, 1]])
    np.testing.assert_allclose(token_center(tokens, "position", photos=False), [[-1, -1], [1, 1]])
    with pytest.raises(ValueError, match="not that of photos"):
        token_center(tokens, "mean", photos=False)
    with pytest.raises(ValueError, match="known: 'mean', 'position'"):
        token_center(tokens, "place")


def test_what_tokens_owe_to_their_place_is_found_on_images_without_content_in_common():
    # Tokens = content + place; the contents are drawn anew for each image.
    rng = np.random.default_rng(0)
    place = rng.normal(size=(9, 16))
    made, photos = rng.normal(size=(400, 9, 16)) + 2.0, rng.normal(size=(2, 9, 16)) + rng.normal(size=16)
    center = token_center(made + place[None], "position", photos=False)
    np.testing.assert_allclose(center, place - place.mean(0), atol=0.25)

    def same_place(tokens):
        unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
        return np.trace(unit[0] @ unit[1].T) / 9 - (unit[0] @ unit[1].T).mean()

    assert abs(same_place(photos + place - center)) < 0.2 * same_place(photos + place)


def test_all_batches_share_one_compilation(images, variables):
    traces = []

    def counted(variables, images):
        traces.append(1)
        return forward(variables, images)

    describe_batches(make_describe(counted), variables, batches_of(images, 3))
    assert len(traces) == 1


def test_images_the_model_cannot_describe_are_named(images, variables):
    images[4, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"not finite for images \[4\]; check"):
        describe_batches(make_describe(forward), variables, batches_of(images, 3))


def test_no_image_at_all_is_an_error(variables):
    with pytest.raises(ValueError, match="no image"):
        describe_batches(make_describe(forward), variables, [])


def reduced(variables, images):
    """A model that merged patches 0 and 1 of a 2 x 2 image, dropped 2, and has a token of no place."""
    del variables
    count = len(images)
    rows = lambda x: jnp.broadcast_to(jnp.asarray(x)[None], (count, *np.shape(x)))  # noqa: E731
    return types.SimpleNamespace(
        pooled=rows(np.ones(3, np.float32)),
        tokens=rows(np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 5]], np.float32)),
        grid=(2, 2),
        owner=(rows(np.zeros(4, np.int32)), rows(np.array([0, 0, -1, 1], np.int32))),
        sizes=rows(np.array([2.0, 1, 1], np.float32)),
        keep_index=(None, rows(np.array([0, 3, 4], np.int32))),
        attention=(rows(np.eye(5, dtype=np.float32)[None]),),
    )


IMAGES = np.zeros((2, 4, 4, 3), np.float32)


def test_fewer_tokens_keep_their_places_and_weigh_as_much_as_their_patches():
    found = make_describe(reduced)({}, IMAGES, np.array([True, False]))
    assert found.tokens.shape == (2, 3, 3)
    assert found.positions.tolist() == [[0, 3, -1]] * 2
    assert found.owner.tolist() == [[0, 0, -1, 1]] * 2
    np.testing.assert_allclose(found.tokens[0], np.eye(3))
    np.testing.assert_allclose(found.weights[0], [2 / 3, 1 / 3, 0])
    assert found.valid.tolist() == [[True] * 3, [False] * 3]


def test_the_center_of_a_merged_token_is_the_mean_over_its_patches():
    center = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = make_describe(reduced, center=center)({}, IMAGES, np.ones(2, bool))
    wanted = np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 5]]) - [center[:2].mean(0), center[3], np.zeros(3)]
    np.testing.assert_allclose(
        found.tokens[0], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-6
    )


def test_on_a_coarser_grid_a_cell_averages_the_patches_that_are_there():
    found = make_describe(reduced, grid=1)({}, IMAGES, np.ones(2, bool))
    wanted = np.array([4.0, 3, 0]) / 3
    np.testing.assert_allclose(found.tokens[0, 0], wanted / np.linalg.norm(wanted), rtol=1e-6)
    assert found.positions is None and found.valid.all()
    assert found.owner.tolist() == [[0, 0, -1, 1]] * 2  # of the model's own patches
    whole = make_describe(reduced, grid=2)({}, IMAGES, np.ones(2, bool))
    assert whole.valid[0].tolist() == [True, True, False, True]
    np.testing.assert_allclose(whole.weights[0], [1 / 3, 1 / 3, 0, 1 / 3])


def test_a_center_is_measured_on_every_place_from_what_is_there():
    raw = make_describe(reduced, normalise=False)({}, IMAGES, np.ones(2, bool))
    center = token_center(raw.tokens, "position", valid=raw.valid)
    mean = np.array([4.0, 3, 0]) / 3
    np.testing.assert_allclose(center, [[2, 0, 0], [2, 0, 0], mean, [0, 3, 0]], rtol=1e-6)


def test_descriptions_come_in_the_order_of_their_images_whatever_the_batches(images, variables):
    describe = make_describe(forward)
    want, _ = describe_batches(describe, variables, batches_of(images, 3))
    found, index = describe_batches(describe, variables, reversed(list(batches_of(images, 3))))
    assert index.tolist() == list(range(7))
    np.testing.assert_array_equal(found.tokens, want.tokens)
