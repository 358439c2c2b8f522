import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vitjax
from tests import QUICK
from tests.compiled import compiled
from tests.data.corpus import encoded
from tests.photos import image, write_folder
from vitjax import reranker as front
from vitjax.config import DataConfig, EvalConfig, ModelConfig, ReduceConfig, RerankConfig, validate_rerank
from vitjax.data.images import ImageError
from vitjax.data.sources.base import FolderSource
from vitjax.data.sources.synthetic import KINDS, SyntheticSource
from vitjax.errors import UserError
from vitjax.retrieval import calibrate_gate, judge_gate, match_price, rerank
from vitjax.retrieval.metrics import retrieval_metrics

CONFIG = EvalConfig(model=ModelConfig(name="vit_tiny_patch16_224", img_size=48, depth=4, block=3))


@pytest.fixture(scope="module")
def reranker() -> vitjax.Reranker:
    return vitjax.Reranker.from_config(CONFIG)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [image(kind, variant) for kind in range(3) for variant in range(3)]


def test_images_of_the_querys_kind_come_first(reranker, images):
    hits = reranker.rank(image(1, 3), images)
    assert {hit.corpus_id for hit in hits[:2]} <= {3, 4, 5}
    assert [hit.rank for hit in hits] == list(range(9))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_score_lies_in_the_stated_range_and_a_image_matches_itself_best(reranker, images):
    (same,) = reranker.rank(images[0], [images[0]])
    others = reranker.rank(images[0], images[1:])
    assert same.pooled == pytest.approx(1.0, abs=1e-5)
    assert all(-2.0 <= hit.score < same.score <= 2.0 for hit in others)
    assert same.score == pytest.approx(same.structural + same.pooled, abs=1e-6)


def test_a_score_does_not_depend_on_the_other_candidates_or_the_batch(reranker, images):
    whole = {hit.corpus_id: hit.score for hit in reranker.rank(images[0], images)}
    for i in (2, 7):
        (alone,) = reranker.rank(images[0], [images[i]])
        assert alone.score == pytest.approx(whole[i], abs=2e-6)
    small = {hit.corpus_id: hit.score for hit in reranker.rank(images[0], images, batch_size=2)}
    np.testing.assert_allclose([small[i] for i in range(9)], [whole[i] for i in range(9)], atol=2e-6)


def test_paths_pil_images_and_arrays_give_the_same_score(reranker, images, tmp_path: pathlib.Path):
    path = tmp_path / "a.png"
    Image.fromarray(images[1]).save(path)
    forms = [images[1], Image.fromarray(images[1]), path, str(path)]
    scores = [hit.score for hit in reranker.rank(images[0], forms)]
    assert max(scores) - min(scores) < 1e-6


def test_ids_name_the_hits_and_top_k_cuts_them(reranker, images):
    hits = reranker.rank(images[0], images, top_k=2, ids=list("abcdefghi"))
    assert len(hits) == 2
    assert hits[0].corpus_id == "a"
    with pytest.raises(ValueError, match="rank: id 'b' is given twice"):
        reranker.rank(images[0], images[:3], ids=["a", "b", "b"])


class Series:
    """As pandas has it: indexed by labels, not by positions."""

    def __init__(self, values):
        self.values = np.array(values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def tolist(self):
        return self.values.tolist()


@pytest.mark.parametrize(
    ("ids", "want"),
    [
        (np.array([11, 12, 13]), [11, 12, 13]),
        (np.array([11, 12, 13], np.uint8), [11, 12, 13]),
        ([np.int64(11), np.int32(12), 13], [11, 12, 13]),
        (np.array(["a", "b", "c"]), ["a", "b", "c"]),
        (np.array(["a", 7, np.int64(8)], object), ["a", 7, 8]),
        (jnp.arange(3), [0, 1, 2]),
        (Series([11, 12, 13]), [11, 12, 13]),
        ([pathlib.Path("x") / "y", "b", "c"], [os.path.join("x", "y"), "b", "c"]),
        (iter("abc"), ["a", "b", "c"]),
        (None, [0, 1, 2]),
    ],
)
def test_a_hit_is_plain_data_whatever_library_ids_are_of(reranker, images, ids, want):
    hits = reranker.rank(images[0], images[:3], ids=ids, return_matches=True)
    assert sorted((hit.corpus_id for hit in hits), key=want.index) == want
    assert {type(hit.corpus_id) for hit in hits} <= {int, str}
    again = json.loads(json.dumps([dataclasses.asdict(hit) for hit in hits]))
    assert again[0]["matches"] and again[0]["corpus_id"] == hits[0].corpus_id


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ("abc", "rank: ids is one text, 'abc'"),
        ([1.0, 2.0, 3.0], r"rank: an id is 1\.0, a float; give texts"),
        (np.array([True, False, True]), "an id is True, a bool"),
        ([None, "b", "c"], "an id is None"),
        (np.array([[1], [2], [3]]), r"an id is \[1\], a list"),
    ],
)
def test_ids_that_are_no_names_are_refused(reranker, images, ids, told):
    with pytest.raises(ValueError, match=told):
        reranker.rank(images[0], images[:3], ids=ids)


def with_numbers(**numbers) -> RerankConfig:
    """A rule with numbers that its annotations do not know, set where no type checker looks."""
    rule = RerankConfig()
    for name, value in numbers.items():
        setattr(rule, name, value)
    return rule


def test_public_records_are_plain_data(reranker, images, tmp_path):
    same = vitjax.similarity(images[0], images[1], reranker=reranker)
    _, _, skipped = reranker.describe([images[0], b"no image"], on_bad_image="skip")
    json.dumps([dataclasses.asdict(same), dataclasses.asdict(skipped[0])])
    rng = np.random.default_rng(0)
    before = np.stack([rng.permutation(4) for _ in range(6)])
    described = reranker.describe(images[:6])[0]
    rule = with_numbers(weight=np.float32(0.5))
    after = rerank(described, described, before, config=rule)
    right = before == np.arange(6)[:, None] % 4
    gate = calibrate_gate(before, after, right, rule, weights=[0.25, 1.0])
    judged = judge_gate(gate, before, after, right, rule)
    metrics = retrieval_metrics(
        before, np.arange(6) % 2, np.arange(4) % 2, ref_includes_query=False, ks=np.array([1, 2]).tolist()
    )
    json.dumps([dataclasses.asdict(gate), judged._asdict(), metrics])


@pytest.mark.parametrize("number", [np.float32, np.float64, jnp.float32])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", -1.0), ("epsilon", 0.0), ("epsilon", np.nan), ("epsilon", np.inf), ("epsilon", 1e-60),
        ("mass", 0.0), ("mass", 1.5), ("mass", np.nan), ("tau", 2.0), ("tau", -0.5), ("tau", np.nan),
        ("weight", -1.0), ("weight", np.inf), ("tolerance", -1.0), ("tolerance", np.nan),
        ("iterations", 2.5), ("top_k", 0.5), ("held_out", 1.0),
    ],
)  # fmt: skip
def test_ranges_hold_for_numbers_of_any_library(number, name, value):
    with pytest.raises(ValueError, match=rf"config\.rerank\.{name} is "):
        validate_rerank(with_numbers(**{name: number(value)}))


@pytest.mark.parametrize("of", [np.float32, jnp.float32])
def test_a_rule_of_numbers_of_any_library_is_the_rule_of_plain_ones(reranker, images, of):
    described = reranker.describe(images[:4])[0]
    index = np.array([[0, 1, 2, 3]] * 4)
    whole = {np.float32: np.int32, jnp.float32: jnp.int32}[of]
    plain = RerankConfig(epsilon=0.1, tau=0.5, weight=0.25, iterations=7, tolerance=0.125, top_k=3)
    other = with_numbers(
        epsilon=of(0.1),
        tau=of(0.5),
        weight=of(0.25),
        iterations=whole(7),
        tolerance=of(0.125),
        top_k=whole(3),
    )
    one, two = (rerank(described, described, index, config=config) for config in (plain, other))
    np.testing.assert_array_equal(one.score, two.score)


def test_matches_add_up_to_less_than_the_score_and_lie_on_the_image(reranker, images):
    hits = reranker.rank(images[0], images[:3], top_k=1, return_matches=True)
    assert len(hits[0].matches) == CONFIG.figures.matches
    assert all(0 <= share <= 1 for match in hits[0].matches for share in match.query_box)
    assert sum(match.contribution for match in hits[0].matches) <= hits[0].structural + 1e-5
    assert reranker.rank(images[0], images[:3])[0].matches == ()


def test_described_candidates_give_the_same_hits(reranker, images):
    described, index, skipped = reranker.describe(images)
    assert index.tolist() == list(range(9))
    assert skipped == []
    assert reranker.rank(images[4], described) == reranker.rank(images[4], images)


def test_equal_images_keep_their_order(reranker, images):
    hits = reranker.rank(images[0], [images[5]] * 4)
    assert [hit.corpus_id for hit in hits] == [0, 1, 2, 3]


def test_more_candidates_compile_nothing_new(reranker, images):
    reranker.rank(images[0], images, batch_size=4)
    counted = []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda event, duration_secs, **_: counted.append(event)
    )
    try:
        reranker.rank(images[3], images[:5], batch_size=4)
        reranker.rank(images[3], images * 3, batch_size=4)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert [event for event in counted if "backend_compile" in event] == []


def test_a_few_images_are_not_padded_to_a_full_batch_and_many_compile_one_shape(images):
    fresh = vitjax.Reranker.from_config(CONFIG)
    sizes, describe = [], fresh._describe
    fresh.__dict__["_describe"] = lambda variables, images, valid: (
        sizes.append(len(images)) or describe(variables, images, valid)
    )
    for count, batch in ((2, 32), (3, 32), (9, 4)):
        described, *_ = fresh.describe(images[:count], batch_size=batch)
        assert len(described) == count
    assert sizes == [2, 4, 4, 4, 4]
    assert describe._cache_size() == 2
    assert [fresh._compiled_size(32, count) for count in (1, 9, 17, 20, 29, 99)] == [2, 10, 20, 20, 32, 32]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
        ("cvt_13", {"depths": (1, 1, 1)}),
    ],
)
def test_a_grid_may_be_the_models_own_but_not_finer(name, fields):
    model = vitjax.build(name, num_classes=0, **fields)
    config = EvalConfig(model=ModelConfig(name=name, block=-1))
    blank = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), blank)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    own, _ = vitjax.Reranker(model, variables, config).patch_grid
    config.model.grid = own
    assert vitjax.Reranker(model, variables, config).token_grid == (own, own)
    config.model.grid = own + 1
    with pytest.raises(ValueError, match=f"grid is {own + 1}; this model has {own} x {own}"):
        vitjax.Reranker(model, variables, config)


def test_similarity_is_one_number_with_its_matches(reranker, images):
    like = vitjax.similarity(image(0, 0), image(0, 1), reranker=reranker)
    unlike = vitjax.similarity(image(0, 0), image(2, 1), reranker=reranker)
    assert like.score > unlike.score
    assert like.score == pytest.approx(like.structural + like.pooled, abs=1e-6)
    assert len(like.matches) == CONFIG.figures.matches


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"candidates": []}, "no candidates"),
        ({"ids": ["a"]}, "ids"),
        ({"top_k": 0}, "top_k"),
        ({"candidates": ["missing.jpg"]}, "missing.jpg"),
        ({"query": "missing.png"}, "missing.png"),
    ],
)
def test_a_mistake_is_named(reranker, images, arguments, words):
    given = {"query": images[0], "candidates": images[:2]} | arguments
    with pytest.raises((ValueError, ImageError), match=words):
        reranker.rank(**given)


MISTAKES = """
import pathlib
import jax, numpy as np, vitjax
from PIL import Image
from vitjax.evaluation.index_images import index_images
small = {"img_size": 32, "depth": 1, "num_classes": 0}
model = vitjax.build("vit_tiny_patch16_224", **small)
init = lambda model: jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
variables, image = init(model), np.zeros((40, 40, 3), np.uint8)
reranker = vitjax.Reranker(model, variables, preprocess=vitjax.preprocess("vit_tiny_patch16_224"))
other = init(vitjax.build("vit_small_patch16_224", **small))
for call in (
    lambda: reranker.rank(image, "a.jpg"),
    lambda: reranker.rank(image, image),
    lambda: reranker.describe(b"bytes"),
    lambda: reranker.rank(image, 3),
    lambda: reranker.describe(Image.fromarray(image)),
    lambda: index_images(reranker, pathlib.Path("a.jpg"), "gallery"),
    lambda: index_images(reranker, [], "gallery"),
    lambda: reranker.rank(image, [image], top_k="1"),
    lambda: vitjax.Reranker(model, {}),
    lambda: vitjax.Reranker(model, other),
    lambda: vitjax.Reranker(model, None),
    lambda: vitjax.Reranker(model, variables, {"rerank": {}}),
    lambda: vitjax.build(None),
    lambda: vitjax.build("vit_tiny_patch16_224", num_classes=-1),
    lambda: vitjax.build("vit_tiny_patch16_224", num_class=3),
    lambda: vitjax.build("vit_tiny_patch16_224", pretrained=True),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        print(error)
"""


def test_a_mistake_of_another_type_is_one_plain_line():
    # Without the checks of types that the other tests run under.
    env = os.environ | QUICK | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", MISTAKES], capture_output=True, text=True, env=env, check=True
    )
    expected = (
        "rank: candidates is one str; give a list",
        "rank: candidates is one ndarray; give a list",
        "describe: images is one bytes; give a list",
        "rank: candidates is one int; give a list",
        "describe: images is one Image; give a list",
        "index_images: images is one PosixPath; give a list",
        "index_images: there are no images; give at least one image",
        "rank: top_k is '1'; give 1 or more",
        *["Reranker: these variables are not of this VisionTransformer; give what vitjax.load_weights("] * 2,
        "Reranker: variables is a NoneType; give what vitjax.load_weights(source, model) returns",
        "Reranker: config is a dict; give an EvalConfig",
        "model is None; give a name",
        "model 'vit_tiny_patch16_224': num_classes is -1; give 0",
        "model 'vit_tiny_patch16_224' has no field 'num_class'; did you mean 'num_classes'?",
        "build makes a model without weights; vitjax.load_weights(source, model) loads them",
    )
    for line, start in zip(done.stdout.splitlines(), expected, strict=True):
        assert line.startswith(start) and "http" not in line


def test_a_model_that_the_config_does_not_name_needs_its_own_input():
    model = vitjax.build(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=3, num_classes=0
    )
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(ValueError, match=r"give preprocess=vitjax.preprocess\(NAME\)"):
        vitjax.Reranker(model, variables)
    recipe = vitjax.preprocess("vit_tiny_patch16_224").replace(image_size=32)
    assert vitjax.Reranker(model, variables, preprocess=recipe).preprocess == recipe


def test_images_that_the_model_cannot_take_are_refused_and_all_others_are_not():
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0}
    model = vitjax.build("vit_small_patch16_dinov3", img_size=32, **small)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    for side in (48, 224):  # of any size: positions rotate; a table of positions is resampled
        recipe = vitjax.preprocess("vit_small_patch16_dinov3", img_size=side)
        assert vitjax.Reranker(model, variables, preprocess=recipe).patch_grid == (side // 16, side // 16)
    with pytest.raises(ValueError, match="are 518x518 pixels; both sides must be multiples of patch_size 16"):
        vitjax.Reranker(model, variables, preprocess=vitjax.preprocess("vit_small_patch14_dinov2"))
    config = EvalConfig(model=ModelConfig(name="vit_small_patch16_dinov3"))
    wide = vitjax.build("vit_small_patch16_dinov3", img_size=(32, 64), **small)
    with pytest.raises(ValueError, match="built for images of 32 x 64 pixels"):
        vitjax.Reranker(wide, variables, config)
    config.model.img_size = 64
    assert vitjax.Reranker(wide, variables, config).patch_grid == (4, 4)


def test_candidates_may_come_one_by_one_as_bytes_and_with_a_bar(reranker, images, capsys):
    files = [encoded(Image.fromarray(image), "PNG") for image in images[:3]]
    hits = reranker.rank(images[0], (file for file in files), progress=True)
    assert "describing" in capsys.readouterr().err
    assert hits == reranker.rank(images[0], images[:3])


@pytest.mark.slow
def test_a_rerank_config_alone_is_enough(reranker, images):
    model = vitjax.build("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    plain = vitjax.Reranker(model, variables, vitjax.RerankConfig(mass=0.5))
    (hit,) = plain.rank(images[0], [images[1]])
    assert plain.preprocess.image_size == 32
    assert -1.5 <= hit.score <= 1.5


@pytest.mark.parametrize(
    ("name", "grid", "marginals"),
    [
        ("topk", 0, "keep"),
        pytest.param("tome", 0, "rollout", marks=pytest.mark.slow),
        pytest.param("topk", 2, "uniform", marks=pytest.mark.slow),
    ],
)
def test_fewer_tokens_are_matched_where_they_lie(images, name, grid, marginals):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, depth=0, block=11, grid=grid, center="position"),
        reduce=ReduceConfig(name=name, keep_ratio=0.6, r=1),
        rerank=vitjax.RerankConfig(marginals=marginals),
    )
    reranker = vitjax.Reranker.from_config(config)
    described, *_ = reranker.describe(images)
    assert described.tokens.shape[1] == (4 if grid else 1 if name == "tome" else 3)
    hits = reranker.rank(images[0], images, return_matches=True)
    assert hits[0].corpus_id == 0 and hits[0].structural > 0.95
    places = np.arange(4) if grid else described.positions[0]
    found = {match.query_patch for match in hits[0].matches}
    assert found <= set(places.tolist()) and len(found) == len(places)


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value"), [("facet", "value"), ("smooth", 3), ("rollout_start", 9)])
def test_options_of_the_descriptor_change_it(images, field, value):
    rule = vitjax.RerankConfig(marginals="rollout")
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, block=11), rerank=rule)
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, **{field: value}))
    one, two = (vitjax.Reranker.from_config(c).describe(images[:1])[0] for c in (config, changed))
    part = "weights" if field == "rollout_start" else "tokens"
    assert np.abs(getattr(one, part) - getattr(two, part)).max() > 1e-4
    np.testing.assert_allclose(one.pooled, two.pooled, atol=1e-5)


def of_blocks(block, **fields) -> vitjax.Reranker:
    model = dataclasses.replace(CONFIG.model, block=block, **fields)
    return vitjax.Reranker.from_config(dataclasses.replace(CONFIG, model=model), keep_measured=False)


def test_tokens_of_several_blocks_lie_side_by_side_each_without_its_own_bias(images):
    blocks, fields = (3, 1), {"grid": 2, "center": "position+subspace"}
    both, *alone = (of_blocks(block, **fields) for block in (blocks, *blocks))
    found, *apart = (each.describe(images[:3])[0] for each in (both, *alone))
    want = np.concatenate([each.tokens for each in apart], axis=2) / np.sqrt(2)
    np.testing.assert_allclose(found.tokens, want, atol=2e-5)
    np.testing.assert_allclose(found.pooled, apart[1].pooled, atol=1e-6)  # of the last named
    assert both.token_length == 2 * alone[0].token_length and both.pooled_length == alone[0].pooled_length
    assert both.recipe["model"]["block"] == [3, 1]
    pixels = jnp.zeros((1, 48, 48, 3))
    costs: list[Any] = [
        jax.jit(each._forward).lower(each.variables, pixels).compile().cost_analysis()
        for each in (both, alone[0])
    ]
    assert costs[0]["flops"] < 1.02 * costs[1]["flops"]  # what the blocks share is computed once


@pytest.mark.parametrize(
    ("block", "fields", "words"),
    [
        ((), {}, "at least one"),
        ((1, 1), {}, "each block once"),
        ((3, -1), {}, "named twice"),
        ((1, 9), {}, "block is 9; this model has 4 blocks"),
        ((1, 3), {"reduce": ReduceConfig("tome")}, "give one block"),
        ((1, 3), {"data": DataConfig(text_queries="texts.txt")}, "blocks: give one"),
    ],
)
def test_blocks_that_cannot_lie_side_by_side_are_refused(block, fields, words):
    model = dataclasses.replace(CONFIG.model, block=block)
    with pytest.raises(UserError, match=words):
        vitjax.Reranker.from_config(dataclasses.replace(CONFIG, model=model, **fields))


def test_blocks_of_different_grids_are_refused():
    outputs = [types.SimpleNamespace(grid=(n, n), tokens=jnp.zeros((1, n * n, 4))) for n in (4, 2)]
    with pytest.raises(UserError, match="leave 16, 4 tokens"):
        front._side_by_side(outputs)


def test_a_facet_is_asked_of_models_that_have_one():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, facet="key"))
    with pytest.raises(ValueError, match="SwinTransformer cannot give"):
        vitjax.Reranker(vitjax.build("swin_tiny_patch4_window7_224"), {}, config)


@pytest.mark.slow
def test_rollout_marginals_change_the_score(images):
    config = dataclasses.replace(CONFIG, rerank=vitjax.RerankConfig(marginals="rollout"))
    rolled = vitjax.Reranker.from_config(config).rank(images[0], [images[1]])[0]
    assert np.isfinite(rolled.score)


@pytest.mark.slow
def test_the_center_is_what_images_of_leaves_or_of_a_folder_have_in_common(images, tmp_path):
    photos = images
    folder = write_folder(tmp_path / "photos", kinds=2, variants=2)
    plain = vitjax.Reranker.from_config(CONFIG)
    for kind, where in (("position", ""), ("position", str(folder)), ("mean", str(folder))):
        config = dataclasses.replace(
            CONFIG, model=dataclasses.replace(CONFIG.model, center=kind), data=DataConfig(center=where)
        )
        centred = vitjax.Reranker(plain.model, plain.variables, config)
        source = FolderSource(folder) if where else SyntheticSource("leaves", front.SYNTHETIC_IMAGES)
        images = np.stack([centred.preprocess(source.read(i)) for i in range(len(source))])
        apply = compiled(plain.model.apply)
        raw = apply(plain.variables, images, block=3).tokens
        wanted = raw.mean(0) if kind == "position" else np.broadcast_to(raw.mean((0, 1)), raw.shape[1:])
        wanted = wanted if where else wanted - wanted.mean(0, keepdims=True)
        np.testing.assert_allclose(centred.center, wanted, atol=2e-4)
        token = apply(plain.variables, plain.preprocess(Image.fromarray(photos[0]))[None], block=3)
        moved = token.tokens[0] - wanted
        unit = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
        np.testing.assert_allclose(centred.describe(photos[:1])[0].tokens[0], unit, atol=2e-4)
    assert plain.center is None


def test_input_follows_the_weights_unless_told(monkeypatch):
    config = vitjax.demo_config()
    recipe = front.model_input(config)
    assert (recipe.image_size, recipe.interpolation, recipe.resize) == (224, "bicubic", "crop")
    config.data.resize, config.data.interpolation, config.model.img_size = "squash", "bilinear", 98
    recipe = front.model_input(config)
    assert (recipe.image_size, recipe.interpolation, recipe.resize) == (98, "bilinear", "squash")


def test_the_price_belongs_to_the_model_and_not_to_the_candidates(reranker, images, tmp_path):
    config = dataclasses.replace(CONFIG, rerank=vitjax.RerankConfig(mass="auto"))
    priced = vitjax.Reranker(reranker.model, reranker.variables, config)
    leaves, clouds = (reranker.describe(SyntheticSource(kind, front.SYNTHETIC_IMAGES))[0] for kind in KINDS)
    assert priced.rule.price == pytest.approx(match_price(leaves, clouds), abs=1e-5)
    assert priced.config.rerank.price == 0, "the config stays what it was"
    whole = priced.rank(images[0], images[1:4], return_matches=True)
    (alone,) = priced.rank(images[0], [images[2]])
    assert alone.score == pytest.approx({hit.corpus_id: hit.score for hit in whole}[1], abs=2e-6)
    told = dataclasses.replace(config, rerank=vitjax.RerankConfig(mass="auto", price=0.3))
    assert vitjax.Reranker(reranker.model, reranker.variables, told).rule.price == 0.3


KEPT = EvalConfig(
    model=ModelConfig(
        "vit_small_patch14_dinov2", img_size=28, embed_dim=8, depth=1, num_heads=2, center="position+subspace"
    ),
    rerank=RerankConfig(mass="auto", tau=1.0),
)


@pytest.fixture
def cache(monkeypatch, tmp_path) -> pathlib.Path:
    """An empty folder of measured values, and few images to measure on."""
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(front, "SYNTHETIC_IMAGES", 2)
    return tmp_path / "cache" / "measured"


def never(*_):
    raise AssertionError("measured again")


def test_values_out_of_the_cache_give_the_same_hits_to_the_last_bit(cache, images, monkeypatch):
    without = vitjax.Reranker.from_config(KEPT, keep_measured=False)
    model, variables = without.model, without.variables
    want = without.rank(images[0], images[1:4])
    assert not cache.exists()
    first = vitjax.Reranker(model, variables, KEPT)
    assert first.rank(images[0], images[1:4]) == want
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(front, "SyntheticSource", never)
    again = vitjax.Reranker(model, variables, KEPT)
    assert again.rank(images[0], images[1:4]) == want
    assert again.measured.digest == first.measured.digest == without.measured.digest
    assert again.rule.price == without.rule.price > 0


def test_whatever_decides_a_value_is_part_of_its_key(cache, monkeypatch, tmp_path):
    plain = vitjax.Reranker.from_config(KEPT)
    model, variables, _ = plain.model, plain.variables, plain.center

    def differ(config=KEPT, variables=variables, **options) -> bool:
        """Whether the centre is measured and not read."""
        before = set(cache.iterdir())
        _ = vitjax.Reranker(model, variables, config, **options).center
        return set(cache.iterdir()) > before

    def changed(name, **new) -> EvalConfig:
        return dataclasses.replace(KEPT, **{name: dataclasses.replace(getattr(KEPT, name), **new)})

    assert not differ()
    assert not differ(changed("rerank", tau=0.5, mass=1.0)), "how tokens are matched does not move them"
    assert differ(
        variables={"params": variables["params"] | {"cls_token": variables["params"]["cls_token"] + 1}}
    )
    assert differ(changed("model", grid=1)) and differ(changed("data", interpolation="bilinear"))
    assert differ(changed("model", smooth=3))
    photos = write_folder(tmp_path / "photos", kinds=2, variants=1)
    assert differ(changed("data", center=str(photos)))
    copied = tmp_path / "copied"
    shutil.copytree(photos, copied)
    assert not differ(changed("data", center=str(copied))), "the photos count, not when they were copied"
    file = next(copied.rglob("*.png"))
    status = file.stat()
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert differ(changed("data", center=str(copied)))
    monkeypatch.setattr(front.disk_cache, "code_version", lambda package: "later")
    assert differ() and not differ()
    monkeypatch.setattr(front, "SYNTHETIC_IMAGES", 3)
    assert differ()


def test_values_of_a_model_of_ones_own_are_not_kept(cache):
    plain = vitjax.Reranker.from_config(KEPT)

    class Mine(type(plain.model)):
        pass

    fields = {x.name: getattr(plain.model, x.name) for x in dataclasses.fields(plain.model)}
    mine = Mine(**{name: x for name, x in fields.items() if name != "parent"})
    own = vitjax.Reranker(mine, plain.variables, KEPT, preprocess=plain.preprocess)
    np.testing.assert_array_equal(own.center, plain.center)
    assert len(list(cache.iterdir())) == 1, "of the package's own"
