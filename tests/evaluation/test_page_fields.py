"""A field of the report page is one entry in a dictionary, or one argument of a run."""

import json
import pathlib

import pytest

import eval as program
from tests import ROOT
from tests.photos import write_folder
from vitjax.config import DataConfig, EvalConfig, FiguresConfig, ModelConfig, RerankConfig
from vitjax.evaluation import page_fields
from vitjax.evaluation.search_run import Ranking


def moved(ranking: Ranking, results: dict) -> list:
    """Rows of a table: how many queries have another first hit after reranking."""
    changed = ranking.before[:, 0] != ranking.after.index[:, 0]
    return [["queries", "first hit changed"], [results["queries"], int(changed.sum())]]


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Runs the program on three images of two classes and returns the data of its page."""
    monkeypatch.setenv("VITJAX_CACHE", str(ROOT / "runs" / "test-cache"))
    config = EvalConfig(
        batch_size=2,
        model=ModelConfig("vit_small_patch14_dinov2", img_size=28, embed_dim=8, depth=1, num_heads=2),
        data=DataConfig(gallery=str(write_folder(tmp_path / "shop", kinds=2, variants=2))),
        rerank=RerankConfig(method="pooled"),
        figures=FiguresConfig(count=0, report=1),
    )

    def evaluate(**options) -> dict:
        program.evaluate(config, str(tmp_path / "out"), **options)
        page = pathlib.Path(tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        return json.loads(page.split('id="data">')[1].split("</script>")[0])

    return evaluate


def test_sections_come_from_the_table_and_from_the_run(evaluate, monkeypatch):
    monkeypatch.setitem(page_fields.SECTIONS, "Note", lambda ranking, results: "<b>as text</b>")
    monkeypatch.setitem(page_fields.SECTIONS, "Nothing", lambda ranking, results: None)
    monkeypatch.setitem(page_fields.SETTINGS, "images", lambda ranking, results: len(ranking.run.gallery))
    sections = {"Moved": moved, "Sizes": lambda ranking, results: {"depth": ranking.run.depth, "share": 0.25}}
    page = evaluate(sections=sections)
    changed = page["sections"][1][2][1][1]  # random weights: scores all but equal, so any number may have
    assert changed in "01234"
    assert page["sections"] == [
        ["Note", "text", "<b>as text</b>"],
        ["Moved", "table", [["queries", "first hit changed"], ["4", changed]]],
        ["Sizes", "pairs", [["depth", "10"], ["share", "0.25"]]],
    ]
    assert dict(map(tuple, page["settings"])) | {"images": "4", "method": "pooled", "centre": "none"} == dict(
        map(tuple, page["settings"])
    )


def test_a_field_of_another_kind_is_one_line_that_names_it(evaluate):
    with pytest.raises(ValueError, match="section 'Wrong' is a int; give text, a dictionary"):
        evaluate(sections={"Wrong": lambda ranking, results: 3})
