import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiled import on_host
from vitjax.sparsify import reducers
from vitjax.sparsify.reducers import REDUCERS, StepInput, make_reducer
from vitjax.sparsify.reduction import diffrate, groups, mctf, pitome, tofu, tome
from vitjax.sparsify.reduction.base import LearnedTokens
from vitjax.sparsify.token_map import ReducedAttention, TokenMap, restore

B, N, D = 2, 12, 5
OF_TOKENS = [name for name, kind in REDUCERS.items() if not issubclass(kind, LearnedTokens)]
merge = jax.jit(functools.partial(reducers.merge, prefix=1), static_argnums=3)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("grid", "prefix"))
def reduce(reducer, stage, tokens, token_map, grid=None, prefix=0, **given):
    return reducer.step(tokens, token_map, StepInput(stage=stage, grid=grid, prefix=prefix, **given))


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(B, N, D)).astype("f")


def _settings(seed: int = 1) -> dict:
    chance = np.random.default_rng(seed)
    scores, received, significance = chance.random((3, B, N)).astype("f")
    keys = chance.normal(size=(B, N, 3)).astype("f")
    return {"scores": scores, "keys": keys, "received": received, "significance": significance}


@pytest.mark.parametrize("name", OF_TOKENS)
def test_every_reducer_says_for_each_cell_which_token_stands_for_it(name, tokens):
    reducer = make_reducer(name, blocks=(1, 2), keep_ratio=0.6, r=3)
    out, token_map = reduce(reducer, 0, tokens, TokenMap.all(B, N), **_settings())
    kept = reducer.count(0, alive=N, total=N)
    assert out.shape == (B, kept + (name == "evit"), D)
    owner, index, size = map(np.asarray, (token_map.owner, token_map.index, token_map.size))
    assert (np.diff(index, axis=1) > 0).all(), "raster order"
    for image in range(B):
        for row, place in enumerate(index[image]):
            if place < N:
                assert owner[image, place] == row
            assert size[image, row] == (owner[image] == row).sum()
        assert ((owner[image] < 0).sum() == 0) == reducer.keeps_all_patches
    if not (reducer.keeps_all_patches or reducer.merges):
        np.testing.assert_array_equal(out, np.take_along_axis(np.asarray(tokens), index[:, :, None], axis=1))
        dense = restore(out, token_map.owner, fill=jnp.asarray(tokens))
        np.testing.assert_array_equal(dense, tokens)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_two_steps_keep_the_books_right(name, tokens):
    reducer = make_reducer(name, blocks=(1, 2), keep_ratio=0.7, r=3)
    token_map, out = TokenMap.all(B, N), tokens
    for stage in range(2):
        given = {k: v[:, : out.shape[1]] for k, v in _settings(stage).items()}
        out, token_map = reduce(reducer, stage, out, token_map, **given)
    assert out.shape[1] == token_map.index.shape[1] == token_map.size.shape[1]
    rows = np.asarray(token_map.owner)
    assert rows.max() == out.shape[1] - 1 or name == "evit"
    np.testing.assert_array_equal(token_map.size.sum(axis=1), (rows >= 0).sum(axis=1))


@pytest.mark.parametrize(("grid", "kept"), [((14, 14), (98, 49)), ((8, 20), (80, 40)), ((7, 10), (35, 20))])
def test_evenly_kept_tokens_lie_in_every_row_and_column_of_patches(grid, kept):
    cells = grid[0] * grid[1]
    reducer = make_reducer("uniform", blocks=(1, 2), keep_ratio=tuple(count / cells for count in kept))
    out, token_map = np.zeros((1, cells, D), "f"), TokenMap.all(1, cells)
    for stage, size in zip((0, 1), (1, 2), strict=True):
        out, token_map = reduce(reducer, stage, out, token_map, grid=grid)
        there = np.asarray(token_map.owner >= 0).reshape(grid)
        assert there.sum() == kept[stage]
        for row in range(0, grid[0] - size + 1, size):  # a half: checkerboard; a quarter: one of 2 x 2
            for column in range(0, grid[1] - 1, 2):
                assert there[row : row + size, column : column + 2].sum() == 1


def test_the_fused_token_is_the_sum_of_the_rest_by_attention(tokens):
    scores = _settings()["scores"] / N
    evit = make_reducer("evit", blocks=(0,), keep_ratio=0.5)
    out, token_map = on_host(reduce(evit, 0, tokens, TokenMap.all(B, N), scores=scores))
    for image in range(B):
        rest = np.setdiff1d(np.arange(N), token_map.index[image])
        wanted = (scores[image, rest][:, None] * tokens[image, rest]).sum(axis=0)
        np.testing.assert_allclose(out[image, -1], wanted, rtol=1e-5, atol=1e-6)
        assert (np.asarray(token_map.owner)[image, rest] == out.shape[1] - 1).all()


def test_merged_tokens_are_means_by_size_and_the_total_is_kept(tokens):
    keys = _settings()["keys"]
    token_map, out = TokenMap.all(B, N), tokens
    for _ in range(3):
        out, token_map = on_host(merge(out, token_map, keys[:, : out.shape[1]], 2))
    total = (out * token_map.size[..., None]).sum(axis=1)
    np.testing.assert_allclose(total, tokens.sum(axis=1), rtol=1e-5, atol=1e-5)
    owner = np.asarray(token_map.owner)
    for row in range(out.shape[1]):
        np.testing.assert_allclose(out[0, row], tokens[0, owner[0] == row].mean(axis=0), rtol=1e-5, atol=1e-6)


def _tome(tokens, keys, sizes, prefix, r):
    """ToMe's first step over a whole sequence, written out: what every patch becomes."""
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    sources, targets = (np.arange(start, len(keys), 2) for start in (0, 1))
    sources, targets = sources[sources >= prefix], targets[targets >= prefix]
    alike = unit[sources] @ unit[targets].T
    group = np.arange(len(keys))
    for i in np.argsort(-alike.max(1))[:r]:
        group[sources[i]] = targets[alike[i].argmax()]
    weighed = [sum(sizes[j] * tokens[j] for j in np.flatnonzero(group == g)) for g in group]
    total = [sizes[group == g].sum() for g in group]
    return (np.array(weighed) / np.array(total)[:, None])[prefix:], np.array(total)[prefix:]


@pytest.mark.parametrize(("prefix", "count"), [(0, 9), (0, 8), (1, 9), (1, 8), (2, 9), (5, 8)])
def test_of_even_places_of_the_whole_sequence_the_most_alike_leave(prefix, count):
    rng = np.random.default_rng(prefix)
    tokens, keys = (rng.normal(size=(3, prefix + count, 5)) for _ in range(2))
    sizes = rng.integers(1, 4, (3, prefix + count)).astype(float)
    token_map = TokenMap.all(3, count).replace(size=jnp.asarray(sizes[:, prefix:], jnp.float32))
    step = jax.jit(functools.partial(reducers.merge, prefix=prefix), static_argnums=3)
    found, after = on_host(step(tokens[:, prefix:].astype("f"), token_map, keys[:, prefix:].astype("f"), 3))
    for i in range(3):
        wanted, total = _tome(tokens[i], keys[i], sizes[i], prefix, 3)
        np.testing.assert_allclose(found[i][after.owner[i]], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after.size[i][after.owner[i]], total)


def test_the_most_alike_pair_merges_first():
    keys = np.eye(6, dtype="f")[None]
    keys[0, 3] = keys[0, 0] + 0.1  # token 3 (odd) is nearly token 0 (even)
    out, token_map = on_host(merge(np.arange(6, dtype="f")[None, :, None], TokenMap.all(1, 6), keys, 1))
    np.testing.assert_array_equal(token_map.index, [[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(token_map.owner, [[0, 1, 2, 0, 3, 4]])
    np.testing.assert_allclose(out[0, :, 0], [1.5, 1, 2, 4, 5])


def test_published_token_traces_are_met():
    def trace(reducer, steps: int, extra: int) -> list[int]:
        counts = [196]
        reducer = reducer.bound(12)
        for stage in range(steps):
            counts.append(reducer.count(stage, alive=counts[-1], total=196, prefix=1) + extra)
        return [c + 1 for c in counts]

    assert trace(make_reducer("topk", blocks=(3, 6, 9), keep_ratio=0.7), 3, 0) == [197, 139, 98, 69]
    assert trace(make_reducer("evit", blocks=(3, 6, 9), keep_ratio=0.7), 3, 1) == [197, 140, 100, 72]
    assert trace(make_reducer("tome", blocks=(), r=13), 12, 0)[-1] == 41
    assert trace(make_reducer("dynamicvit", blocks=(3, 6, 9), keep_ratio=0.7), 3, 0) == [197, 138, 97, 68]


def test_tome_merges_at_most_half():
    assert make_reducer("tome", blocks=(), r=100).count(0, alive=11, total=11) == 6


def test_attention_of_fewer_tokens_lies_on_the_whole_grid_again():
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(0), (1, 2, 4, 4)))
    maps = ReducedAttention(weights, jnp.array([[0, -1, 2, 1, 2]]), prefix=1)
    full = jax.jit(ReducedAttention.on_grid)(maps)
    assert full.shape == (1, 2, 6, 6)
    np.testing.assert_allclose(full.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(full[0, :, 0, 1], weights[0, :, 0, 1])
    np.testing.assert_allclose(full[0, :, 1, 3], weights[0, :, 1, 3] / 2)
    np.testing.assert_array_equal(full[0, :, 3], full[0, :, 5])
    np.testing.assert_array_equal(full[0, 0, 2], np.eye(6)[2])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"blocks": (5, 3)}, "ascending"),
        ({"blocks": (12,)}, "0 to 11"),
        ({"keep_ratio": 1.5}, "keep_ratio is 1.5"),
        ({"name": "tome", "blocks": None, "r": -1}, "r is -1"),
        ({"round_to": 0}, "round_to is 0"),
    ],
)
def test_fields_that_do_not_go_together_are_named(fields, words):
    (wrong,) = make_reducer(**{"name": "topk", "blocks": (3, 6, 9)} | fields).field_errors(12)
    assert words in wrong


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'topk'"):
        make_reducer("best")


def test_missing_scores_or_keys_are_asked_for(tokens):
    for name in ("topk", "dynamicvit", "tome", "ats", "pitome", "tofu", "diffrate", "mctf", "sit"):
        with pytest.raises(ValueError, match="give `"):
            reduce(make_reducer(name, blocks=(0,), keep_ratio=0.5), 0, tokens, TokenMap.all(B, N))


def test_a_token_as_likely_kept_as_dropped_is_kept():
    scores = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.75, 0.25], [0.5, 0.5]]]))
    wanted = reducers.DynamicViT(budget="own", blocks=(1, 2, 3)).wanted(
        0, scores, jnp.array([[1.0, 1, 1, 0]]), total=4
    )
    assert wanted.tolist() == [[1, 0, 1, 0]]


def test_a_step_that_keeps_all_tokens_fuses_none():
    evit = reducers.EViT(keep_ratio=(1.0, 0.5), blocks=(0, 1))
    assert [evit.tokens_after(stage, alive=9, total=9) for stage in (0, 1)] == [9, 6]


@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_step_of_one_image_does_not_depend_on_the_others(name, tokens):
    reducer, given = make_reducer(name, blocks=(1, 2), keep_ratio=0.6, r=3), _settings()
    whole, _ = reduce(reducer, 0, tokens, TokenMap.all(B, N), **given)
    other = {k: np.concatenate([v[:1, ::-1] * 2, v[1:]]) for k, v in (given | {"tokens": tokens}).items()}
    again, _ = reduce(reducer, 0, other.pop("tokens"), TokenMap.all(B, N), **other)
    np.testing.assert_allclose(again[1:], whole[1:], rtol=1e-5, atol=1e-6)


def _of_sequence(name: str, x, keys, heard, sizes, prefix: int, r: int):
    """A published step over a whole sequence: tokens and where each went."""
    if name == "mctf":
        match = mctf.multi_criteria_match(x, heard, r, sizes=sizes, protected=prefix)
        return mctf.pool(x, match, heard, sizes=sizes)
    if name == "pitome":
        found = pitome.energy_match(keys, r, margin=0.45, class_token=prefix == 1)
        return groups.merged(x, found.source, found.count, sizes)
    if name == "diffrate":
        return diffrate.prune_and_merge(x, heard[:, 1:], prune_kept=10, merge_kept=8, sizes=sizes).groups
    source, count = tome.alternating_match(keys, r, class_token=prefix > 0, distill_token=prefix > 1)
    return tofu.fuse(x, source, count)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("tofu", 0),
        ("tofu", 1),
        ("tofu", 2),
        ("mctf", 0),
        ("mctf", 1),
        ("pitome", 0),
        ("pitome", 1),
        ("diffrate", 1),
    ],
)
def test_a_step_over_patches_is_the_published_one_over_the_sequence(name, prefix):
    rng, r = np.random.default_rng(prefix), 4
    x, keys = (rng.normal(size=(3, prefix + 11, 5)).astype("f") for _ in range(2))
    heard = rng.uniform(0.5, 1, (3, prefix + 11)).astype("f")
    heard[:, :prefix] = 1
    sizes = rng.integers(1, 4, (3, prefix + 11)).astype("f")
    if name == "diffrate":
        sizes[:] = 1
    want, _, source = on_host(
        jax.jit(_of_sequence, static_argnums=(0, 5, 6))(name, x, keys, heard, sizes, prefix, r)
    )
    token_map = TokenMap.all(3, 11).replace(size=jnp.asarray(sizes[:, prefix:]))
    blocks = (0,) if name == "diffrate" else tuple(range(2))
    reducer = make_reducer(name, blocks=blocks, r=r, keep_ratio=0.6)
    stage = 0 if name == "diffrate" else 1
    given = {"scores": heard, "received": heard, "keys": keys}
    given = {field: value[:, prefix:] for field, value in given.items()}
    found, after = on_host(reduce(reducer, stage, x[:, prefix:], token_map, prefix=prefix, **given))
    for i in range(3):
        rows, theirs = after.owner[i], source[i, prefix:]
        np.testing.assert_array_equal(rows < 0, theirs < 0)
        there = rows >= 0
        np.testing.assert_allclose(found[i][rows[there]], want[i][theirs[there]], rtol=1e-4, atol=1e-5)


def test_sampling_fills_what_doubles_leave_free_with_the_next_best(tokens):
    share = np.array([[0.02, 0.6, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.01, 0.01, 0.02, 0.01]] * B, "f")
    ats = make_reducer("ats", blocks=(0,), keep_ratio=0.5)
    _, token_map = reduce(ats, 0, tokens, TokenMap.all(B, N), scores=share, significance=share)
    assert token_map.index.tolist() == [[0, 1, 4, 5, 6, 7]] * B  # 0, 1, 4, 7 are sampled


def test_a_patch_belongs_to_the_learned_token_it_weighs_most_in():
    weights = np.array([[[0.6, 0.1, 0.2, 0.3], [0.3, 0.1, 0.6, 0.1]]], "f")
    made = np.ones((1, 2, 3), "f")
    sit = make_reducer("sit", blocks=(0,), keep_ratio=0.5)
    empty = np.zeros((1, 4, 3), "f")
    _, after = on_host(reduce(sit, 0, empty, TokenMap.all(1, 4), made=(made, weights)))
    assert after.owner.tolist() == [[0, 0, 1, 0]] and after.index.tolist() == [[4, 4]]
    np.testing.assert_allclose(
        after.size, [[2 / 3 + 0.5 + 0.25 + 0.75, 1 / 3 + 0.5 + 0.75 + 0.25]], rtol=1e-6
    )
