"""Text queries: their files, and the whole program on a tiny model with random weights."""

import json

import numpy as np
import pytest

import eval as program
from tests.text import towers
from tests.text.towers import tokenizer_file
from vitjax.config import FiguresConfig, validate
from vitjax.errors import UserError
from vitjax.evaluation.text_queries import read_text_queries

__all__ = ["tokenizer_file"]


def test_files_hold_texts_with_or_without_relevant_images(tmp_path):
    listed = {"red dress": ["a.jpg", "b.jpg"], "a hat": []}
    for name, text, found in (
        ("a.json", json.dumps(listed), listed),
        ("b.json", '["red dress", "a hat"]', ["red dress", "a hat"]),
        ("c.txt", "red dress\n\na hat\n", ["red dress", "a hat"]),
        ("d.tsv", "red dress\ta.jpg\na hat\nred dress\tb.jpg\n", listed),
    ):
        (tmp_path / name).write_text(text)
        assert read_text_queries(tmp_path / name) == found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"red": ["a.jpg"], "red": []}', "'red' comes twice"),
        ("a.json", '{"red": "a.jpg"}', "is no list of names"),
        ("a.json", '["red", 3]', "3 is no text"),
        ("a.json", "[]", "'nothing' is no text"),
        ("a.json", "red dress", "expected JSON like"),
        ("a.txt", "red\nred\n", "comes twice"),
        ("a.txt", "\n", "is no text"),
    ],
)
def test_other_files_are_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_text_queries(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "model"}, r"config\.model\.space='joint'"),
        ({"query": "x"}, "by images or by texts"),
        ({"source": "cub"}, r"config\.data\.source 'folder'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        validate(towers.config("", text_queries="q.json", **change))


def test_a_price_measured_between_images_is_not_used_for_texts():
    config = towers.config("", text_queries="q.json")
    config.rerank.mass, config.rerank.tau = "auto", 1.0
    with pytest.raises(UserError, match="measured between images"):
        validate(config)


@pytest.fixture(scope="module")
def found(tokenizer_file, tmp_path_factory):
    """Results of a run of the program with three text queries, and its folder."""
    folder = tmp_path_factory.mktemp("program")
    gallery = towers.images(folder)
    names = sorted(path.relative_to(gallery).as_posix() for path in gallery.rglob("*.png"))
    queries = {"a red cat": names[:2], "cat": [names[2]], "red dön <script> and so on": []}
    (folder / "q.json").write_text(json.dumps(queries))
    config = towers.config(tokenizer_file, gallery=str(gallery), text_queries=str(folder / "q.json"))
    config.index.path, config.figures = str(folder / "index"), FiguresConfig(count=1, candidates=3)
    return program.evaluate(config, str(folder / "out")), folder, config


def test_the_program_searches_by_texts_and_judges_both_orders(found):
    results, folder, _ = found
    assert (results["queries"], results["gallery"], results["queries_counted"]) == (3, 6, 2)
    assert 0 <= results["metrics"]["reranked"]["recall_at_1"] <= 1
    assert results["explanations"]["largest_additivity_error"] < 1e-4
    run = (folder / "out/run.trec").read_text().splitlines()
    assert len(run) == 3 * 6
    assert (folder / "out/figures/0000_matches.png").exists()


def test_the_page_says_which_words_were_matched(found):
    page = (found[1] / "out/report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [query["name"] for query in data["queries"]] == [
        "a red cat", "cat", "red dön <script> and so on",
    ]  # fmt: skip
    assert data["queries"][0]["words"] == ["a", "red", "cat"]
    first = data["queries"][0]["candidates"][0]
    boxes = np.array([match[:4] for match in first["matches"]])
    rows, columns = data["patches"]["q0"]["grid"]
    assert rows * columns >= 3 and (boxes[:, 2] - boxes[:, 0] == pytest.approx(1 / columns, abs=1e-3))


def test_a_gallery_of_the_models_own_space_is_refused(found, tokenizer_file):
    _, folder, config = found
    own = towers.config(tokenizer_file, "model", gallery=config.data.gallery)
    own.index.path = config.index.path
    with pytest.raises(UserError, match="space is 'joint' there, 'nothing' here"):
        program.evaluate(own, str(folder / "other"))


def test_a_relevant_image_that_is_not_there_is_named(found, tokenizer_file, tmp_path):
    (tmp_path / "q.tsv").write_text("a cat\tnot-there.png\n")
    config = towers.config(
        tokenizer_file, gallery=found[2].data.gallery, text_queries=str(tmp_path / "q.tsv")
    )
    with pytest.raises(UserError, match=r"text 'a cat': 'not-there\.png' is none of the 6 gallery images"):
        program.evaluate(config, str(tmp_path / "out"))
