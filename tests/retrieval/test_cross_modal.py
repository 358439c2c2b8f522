"""Words of captions against patches of photos: two token sets of different sizes, through the same calls."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest

from vitjax.config import RerankConfig
from vitjax.retrieval import Descriptors, Reranked, match_pairs, pair_plans, rerank, search
from vitjax.retrieval.explanation.matches import patch_box

D, WORDS, PATCHES = 32, 77, 49
CONFIG = RerankConfig(tau=0.5, epsilon=0.02, iterations=60)


def made(real: int = 12) -> tuple[Descriptors, Descriptors]:
    """Four captions whose first words name patches of one photo each; the rest of the 77 tokens pads."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(6, PATCHES, D))
    words, valid = rng.normal(size=(4, WORDS, D)), np.arange(WORDS)[None, :].repeat(4, 0) < real
    for caption in range(4):
        words[caption, :5] = patches[caption, 10:15] + 0.3 * rng.normal(size=(5, D))
    pooled = np.ones((6, D))  # says nothing: the words must tell
    captions = Descriptors.from_arrays(pooled[:4], words, valid=valid)
    return captions, Descriptors.from_arrays(pooled, patches)


ALL = np.tile(np.arange(6), (4, 1))


@pytest.fixture(scope="module")
def sides() -> tuple[Descriptors, Descriptors]:
    return made()


@pytest.fixture(scope="module")
def forth(sides) -> Reranked:
    """Photos for each caption."""
    captions, photos = sides
    _, index = search(captions, photos, 6)
    return rerank(captions, photos, index, config=CONFIG)


def test_captions_find_their_photos_by_their_words(forth):
    assert forth.index[:, 0].tolist() == [0, 1, 2, 3]
    assert (forth.structural[:, 0] > forth.structural[:, 1] + 0.1).all()
    assert np.isfinite(forth.error).all() and (np.abs(forth.structural) <= 1 + 1e-5).all()


def test_photos_find_their_captions_by_the_same_scores(sides, forth):
    captions, photos = sides
    back = rerank(photos, captions, np.tile(np.arange(4), (6, 1)), config=CONFIG)
    assert back.index[:4, 0].tolist() == [0, 1, 2, 3]
    scores = np.zeros((2, 4, 6))
    np.put_along_axis(scores[0], forth.index, forth.structural, axis=1)
    np.put_along_axis(scores[1].T, back.index, back.structural, axis=1)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_the_explanation_points_from_words_to_the_patches_they_name(sides):
    rows = np.arange(4)
    found = match_pairs(*sides, rows, rows, config=CONFIG, top=5)
    assert (np.sort(found.query_patch, axis=1) == np.arange(5)).all()
    np.testing.assert_array_equal(found.candidate_patch, found.query_patch + 10)
    parts = found.explanation(0, (1, WORDS), (7, 7))
    assert parts.additivity_error < 1e-6
    best = parts.matches[0]
    assert best.candidate_box == patch_box(best.query_patch + 10, (7, 7))
    assert best.query_box == patch_box(best.query_patch, (1, WORDS))


@pytest.mark.slow
def test_padding_moves_no_mass_and_how_much_there_is_changes_no_score(sides, forth):
    captions, photos = sides
    plan = next(pair_plans(captions, photos, np.array([2]), np.array([2]), config=CONFIG))
    assert plan.mass.shape == (WORDS, PATCHES)
    assert not plan.mass[12:].any() and not plan.query_weights[12:].any()
    np.testing.assert_allclose(plan.contribution.sum(), forth.structural[2, 0], atol=1e-6)
    fields = {name: getattr(captions, name)[:, :20] for name in ("tokens", "weights", "valid")}
    cut = rerank(dataclasses.replace(captions, **fields), photos, ALL, config=CONFIG)
    np.testing.assert_array_equal(forth.index, cut.index)
    np.testing.assert_allclose(forth.structural, cut.structural, atol=1e-5)


@pytest.mark.slow
def test_the_documented_block_runs(sides, capsys):
    captions, photos = sides
    page = pathlib.Path(__file__).parents[2] / "docs/cross_modal.md"
    block = re.search(r"```python\n(import numpy.*?)```", page.read_text(), re.DOTALL)
    assert block
    arrays = {"words": captions.tokens, "pooled": captions.pooled, "real": captions.valid}
    exec(block[1], arrays | {"patches": photos.tokens, "photos": photos.pooled})
    assert capsys.readouterr().out == "13\n"
