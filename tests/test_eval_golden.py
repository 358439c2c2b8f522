"""The program's figures on given descriptors are those of the reference implementations (fixtures e1, e2)."""

import json
import pathlib
import re

import numpy as np
import pytest

import eval as program
from tests.conftest import GOLDEN
from tests.parity import fixture
from vitjax import sharding
from vitjax.config import DataConfig, EvalConfig, FiguresConfig, ModelConfig, RerankConfig
from vitjax.retrieval import Descriptors, metrics


class Given(program.Reranker):
    """Stands where the model would: the vector of an image is looked up by its file's name."""

    load_report = center = None
    token_grid = patch_grid = (1, 1)

    def __init__(self, config: EvalConfig, vectors: dict[str, np.ndarray]):
        self.rule, self.mesh, self.vectors = config.rerank, sharding.make_mesh(), vectors

    def describe(self, source, **_):
        pooled = np.stack([self.vectors[pathlib.Path(name).name] for name in source.names]).astype(np.float32)
        one = np.ones((len(pooled), 1), np.float32)
        return Descriptors(pooled, one[:, :, None], one, one > 0), np.arange(len(pooled)), []


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the program on a folder of empty files and returns its metrics of both orders."""
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))

    def run(vectors: dict[str, np.ndarray], **data: str) -> list[dict[str, float]]:
        config = EvalConfig(
            model=ModelConfig(center="none"),
            data=DataConfig(**data),
            rerank=RerankConfig(method="pooled", top_k=20),
            figures=FiguresConfig(count=0, report=0),
        )
        monkeypatch.setattr(program.Reranker, "from_config", lambda config: Given(config, vectors))
        found = program.evaluate(config, str(tmp_path / "out"))["metrics"]
        return [found["pooled"], found["reranked"]]

    return run


def touch(folder: pathlib.Path, names: list[str]) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


def of_classes(labels: np.ndarray, letter: str) -> list[str]:
    """File names in order of the fixture within each class."""
    return [f"class{label:02d}/{letter}{i:03d}.png" for i, label in enumerate(labels)]


@pytest.mark.parametrize("group", ["self", "separate", "subset"])
def test_classes_are_judged_as_pytorch_metric_learning_does(run, tmp_path, group):
    golden = fixture.load(GOLDEN / "e1_metric_learning.npz")
    given = golden.inputs
    names = of_classes(given["labels"], "g")
    vectors = {pathlib.Path(name).name: x for name, x in zip(names, given["embeddings"], strict=True)}
    gallery, query = touch(tmp_path / "gallery", names), ""
    asked = len(given["query_labels"])
    if group == "separate":
        files = of_classes(given["query_labels"], "q")
        vectors |= {pathlib.Path(name).name: x for name, x in zip(files, given["queries"], strict=True)}
        query = touch(tmp_path / "query", files)
    elif group == "subset":
        for name in names[:asked]:
            (tmp_path / "query" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "query" / name).symlink_to(tmp_path / "gallery" / name)
        query = str(tmp_path / "query")
    wanted = {key.split("/")[1]: x for key, x in golden.outputs.items() if key.startswith(group + "/")}
    wanted.pop("per_query", None)
    assert len(wanted) == 5
    for found in run(vectors, gallery=gallery, query=query):
        for name, value in wanted.items():
            fixture.assert_close(found[name], value, golden.tolerance, f"{group} {name}")


@pytest.mark.parametrize("places", ["city0", "city1", "pooled"])
def test_places_are_judged_as_mapillary_does(run, tmp_path, places):
    golden = fixture.load(GOLDEN / "e2_msls_recall.npz")
    given = golden.inputs
    cities = ["city0", "city1"] if places == "pooled" else [places]
    rows = sum(len(given[f"{city}/db_utm"]) for city in cities)
    vectors, truth, first, queries = {}, {}, 0, []
    for city in cities:
        base, ranking = given[f"{city}/db_utm"], given[f"{city}/ranking"]
        right = metrics.positives_within(given[f"{city}/query_utm"], base, 25.0)
        for order, positives in zip(ranking, right, strict=True):
            # A gallery of unit vectors is found in the order in which the query's numbers fall.
            asked = np.zeros(rows)
            asked[first + order] = np.arange(len(order), 0, -1)
            truth[len(queries)] = (first + positives).tolist()
            queries.append(f"q{len(queries):03d}.png")
            vectors[queries[-1]] = asked
        first += len(base)
    names = [f"g{i:03d}.png" for i in range(rows)]
    vectors |= dict(zip(names, np.eye(rows), strict=True))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    both = run(
        vectors, gallery=touch(tmp_path / "gallery", names), query=touch(tmp_path / "query", queries),
        ground_truth=str(tmp_path / "truth.json"),
    )  # fmt: skip
    for found in both:
        compared = 0
        for key, value in golden.outputs.items():
            name = re.sub("@", "_at_", key.removeprefix(places + "/"))
            if key.startswith(places + "/") and name in found:
                fixture.assert_close(found[name], value, golden.tolerance, key)
                compared += 1
        assert compared >= 6, "recall and MAP at 1, 5 and 10"
