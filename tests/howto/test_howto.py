"""What docs/howto shows works: each file adds one thing from outside of the package."""

import ast
import json
import re
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import eval as program
import vitjax
from tests import ROOT
from tests.ot.problems import problem
from tests.photos import image, write_folder
from vitjax import ot
from vitjax.cli import flags
from vitjax.config import EvalConfig, ModelConfig, validate
from vitjax.config.train_config import TrainConfig
from vitjax.config.train_config import validate as validate_training
from vitjax.data.sources.base import align_labels
from vitjax.data.sources.open import SOURCES
from vitjax.evaluation.page_fields import SECTIONS
from vitjax.evaluation.protocols import open_protocol
from vitjax.ot import SOLVERS
from vitjax.pretrained import MODELS
from vitjax.sparsify.reducers import StepInput
from vitjax.sparsify.token_map import TokenMap
from vitjax.training.data import open_sources

FOLDER = ROOT / "tests" / "howto"
TABLES = (MODELS, SOURCES, SECTIONS, SOLVERS)
FILES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith(("test_", "__init__")))


@pytest.fixture
def run():
    """Runs a file of this folder; tables that it adds to are as before afterwards."""
    before = [dict(table) for table in TABLES]
    yield lambda name: runpy.run_path(str(FOLDER / name))
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_shows_the_file(path):
    page = (ROOT / "docs" / "howto" / "README.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"`(tests/howto/\w+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL))
    assert set(blocks) == {f"tests/howto/{file.name}" for file in FILES}
    assert blocks[f"tests/howto/{path.name}"] == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_short_and_uses_public_names(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    names = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not [name for name in names if name.startswith("_") and not name.startswith("__")]


def test_a_reducer_is_an_object(run, rng):
    given = run("reducer.py")
    tokens = jnp.arange(1.0, 9.0).reshape(1, 8, 1) * jnp.array([1, -9, 2, 8, -7, 3, 4, 6.0])[None, :, None]
    reducer = given["LargestNorm"](keep_ratio=0.5, blocks=(1,))
    kept, token_map = reducer.step(tokens, TokenMap.all(1, 8), StepInput())
    largest = np.sort(np.argsort(-np.abs(np.asarray(tokens)[0, :, 0]))[:4])
    np.testing.assert_array_equal(kept[0], tokens[0, largest])
    np.testing.assert_array_equal(token_map.index[0], largest)

    model = given["model"](img_size=48, depth=4, num_classes=0)
    images = jax.random.normal(rng, (2, 48, 48, 3))
    output = jax.jit(lambda images: model.init_with_output(rng, images)[0])(images)
    assert [index.shape[1] for index in output.keep_index] == [4, 2, 1]  # of 9 patches
    assert output.tokens.shape[:2] == (2, 1) and np.isfinite(output.tokens).all()


def test_a_backbone_is_an_entry_of_a_dictionary(run):
    run("backbone.py")
    assert "patchnet" in vitjax.list_models("patch*")
    assert vitjax.build("patchnet").embed_dim == 48
    assert vitjax.preprocess("patchnet").image_size == 64
    config = EvalConfig(model=ModelConfig(name="patchnet", patch_size=8, center="position"))
    reranker = vitjax.Reranker.from_config(config)
    assert reranker.token_grid == (8, 8)
    gallery = [image(kind, variant, 64) for kind in range(3) for variant in (1, 2)]
    hits = reranker.rank(image(1, 0, 64), gallery, return_matches=True)
    assert {hit.corpus_id for hit in hits[:2]} == {2, 3} and hits[0].matches


def test_eval_runs_a_backbone_that_a_config_file_adds(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    added = (FOLDER / "backbone.py").read_text(encoding="utf-8")
    mine = tmp_path / "mine.py"
    mine.write_text(
        f"""{added}
from vitjax.config import EvalConfig, ModelConfig


def get_config(arg=""):
    config = EvalConfig(batch_size=2, model=ModelConfig(name="patchnet"))
    config.rerank.method, config.figures.count = "chamfer", 0
    return config
""",
        encoding="utf-8",
    )
    photos, out = write_folder(tmp_path / "shop", kinds=2, variants=2), tmp_path / "out"
    argv = ["eval.py", f"--config={mine}", f"--config.data.gallery={photos}", "--config.model.img_size=32"]
    monkeypatch.chdir(tmp_path)
    assert flags._run(program.main, EvalConfig, "", [*argv, f"--workdir={out}"]) == 0, capsys.readouterr().err
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["config"]["model"]["name"] == "patchnet"
    assert results["metrics"]["reranked"]["recall_at_1"] > 0 and (out / "report.html").is_file()

    MODELS.pop("patchnet")  # without the entry the name is unknown
    mine.write_text(mine.read_text(encoding="utf-8").replace('MODELS["patchnet"] =', "card ="), "utf-8")
    assert flags._run(program.main, EvalConfig, "", [*argv, f"--workdir={out}"]) == 1
    assert "'patchnet'" in capsys.readouterr().err


def write_split(folder, split, rows):
    """Photos of 40 x 40 and the CSV file that lists them; `rows` are names of classes."""
    lines = []
    for i, name in enumerate(rows):
        Image.fromarray(image(len(name) % 3, i, 40)).save(folder / f"{split}{i}.png")
        lines.append(f"{split}{i}.png,{name}\n")
    (folder / f"{split}.csv").write_text("".join(lines), encoding="utf-8")


def test_a_data_source_is_an_entry_of_a_dictionary(run, tmp_path):
    run("data_source.py")
    write_split(tmp_path, "gallery", ["tea", "rice", "salt", "rice"])
    write_split(tmp_path, "query", ["salt", "rice"])
    config = EvalConfig()
    config.data.source, config.data.images = "csv", str(tmp_path)
    validate(config)
    gallery, query = open_protocol(config.data)
    assert [len(gallery), len(query)] == [4, 2] and gallery.read(3).size == (40, 40)
    of_query, of_gallery = align_labels(query, gallery)
    assert (of_query[:, None] == of_gallery).tolist() == [
        [False, False, True, False],
        [False, True, False, True],
    ]

    write_split(tmp_path, "train", ["tea", "rice", "tea"])
    write_split(tmp_path, "test", ["rice"])
    training = TrainConfig()
    training.data.source, training.data.dir = "csv", str(tmp_path)
    validate_training(training)
    assert [source.names for source in open_sources(training)] == [
        ["train0.png", "train1.png", "train2.png"],
        ["test0.png"],
    ]


def test_a_field_of_the_page_is_an_entry_of_a_dictionary(run):
    changed = run("page_field.py")["changed"]
    before, after = np.array([[2, 0], [1, 2], [0, 1]]), np.array([[0, 2], [1, 2], [1, 0]])
    ranking = types.SimpleNamespace(before=before, after=types.SimpleNamespace(index=after))
    assert SECTIONS["First hits that changed"] is changed
    assert changed(ranking, {"queries": 3}) == [
        ["query", "first hit before", "after"],
        [0, 2, 0],
        [2, 0, 1],
    ]
    ranking.after.index = before
    assert changed(ranking, {"queries": 3}) == "none of 3 queries"


def test_the_page_shows_the_field(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    run("page_field.py")
    config = EvalConfig(batch_size=2, model=ModelConfig("vit_small_patch14_dinov2", img_size=28))
    config.model.embed_dim, config.model.depth, config.model.num_heads = 8, 1, 2
    config.data.gallery = str(write_folder(tmp_path / "shop", kinds=2, variants=2))
    config.rerank.method, config.figures.count = "chamfer", 0
    program.evaluate(config, str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    sections = json.loads(page.split('id="data">')[1].split("</script>")[0])["sections"]
    assert [section[0] for section in sections] == ["First hits that changed"]


def test_a_transport_solver_is_an_entry_of_a_dictionary(run):
    cost, a, b = problem(3, 3, 6, 5, zeros=True)
    settings = {"epsilon": 0.1, "iterations": 300}
    wanted = ot.sinkhorn(cost, a, b, **settings)
    given = run("solver.py")
    config = EvalConfig()
    config.rerank.solver = "log"
    validate(config)
    for solver in ("log", ot.Solver(given["solve"])):
        found = ot.sinkhorn(cost, a, b, solver=solver, **settings)
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
    with pytest.raises(ValueError, match="moves all mass"):
        ot.partial_sinkhorn(cost, a, b, mass=0.5, solver="log", **settings)
