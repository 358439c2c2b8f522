"""What docs/howto shows works: each file adds one thing from outside of the package."""

import ast
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from tests import ROOT
from tests.photos import image
from vitjax import pretrained
from vitjax.config import EvalConfig, ModelConfig
from vitjax.sparsify.reducers import StepInput
from vitjax.sparsify.token_map import TokenMap

FOLDER = ROOT / "tests" / "howto"
FILES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith(("test_", "__init__")))


@pytest.fixture
def run():
    """Runs a file of this folder; tables that it adds to are as before afterwards."""
    before = dict(pretrained.MODELS)
    yield lambda name: runpy.run_path(str(FOLDER / name))
    pretrained.MODELS.clear()
    pretrained.MODELS.update(before)


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
