import urllib.parse

import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors, rankings
from vitjax.config import RerankConfig
from vitjax.retrieval import rerank
from vitjax.retrieval.metrics import runs


def read_as_tools_do(path):
    """Order of each query when lines are sorted by 32-bit score, ties by falling name, as trec_eval does."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        query, q0, name, _, score, tag = line.split()
        assert (q0, tag) == ("Q0", "vitjax")
        found.setdefault(query, []).append((np.float32(score), name))
    return {query: [name for _, name in sorted(rows, reverse=True)] for query, rows in found.items()}


def test_sorting_by_score_gives_back_the_order(tmp_path):
    names = [f"g{i:02d}.jpg" for i in range(20)]
    index = rankings(4, 20, 15)
    gallery = random_descriptors(20, seed=2).take(np.arange(20) // 4)  # four of each: many equal scores
    found = rerank(random_descriptors(4, seed=1), gallery, index, config=RerankConfig(top_k=8))
    runs.write_run(tmp_path / "run.trec", [f"q{i}" for i in range(4)], names, found.index, found.score)
    want = {f"q{i}": [names[j] for j in row] for i, row in enumerate(found.index)}
    assert read_as_tools_do(tmp_path / "run.trec") == want
    assert [path.name for path in tmp_path.iterdir()] == ["run.trec"]


@pytest.mark.parametrize(
    "scores",
    [
        [0.5, 0.5, 0.5, 0.5],
        [0.1, 0.9, 0.3, 0.2],
        [0.0, -0.0, 0.0, np.nan],
        [np.nan, np.nan, 1.0, -np.inf],
        [-np.inf, -np.inf, -np.inf, np.inf],
        [1.0, np.float32(1.0) - 1e-9, 0.9999999, 0.9999999],
    ],
)
def test_ties_and_gaps_do_not_reorder(tmp_path, scores):
    index = np.array([[2, 0, 3, 1]])
    runs.write_run(tmp_path / "run", ["q"], list("abcd"), index, np.array([scores]))
    assert read_as_tools_do(tmp_path / "run") == {"q": ["c", "a", "d", "b"]}
    assert "inf" not in (tmp_path / "run").read_text() and "nan" not in (tmp_path / "run").read_text()


def test_odd_names_stay_one_word_and_can_be_read_back(tmp_path):
    names = ["a b.jpg", "100%.png", "x\ty\n.jpg", "caf\u00e9\u00a0\u2028.jpg", "bad\udcff.jpg"]
    runs.write_run(tmp_path / "run", names[:1], names, np.array([[0, 1, 2, 3, 4, -1]]), np.zeros((1, 6)))
    lines = (tmp_path / "run").read_text(encoding="utf-8").splitlines()
    assert [len(line.split()) for line in lines] == [6] * 5
    back = [urllib.parse.unquote(line.split()[2], errors="surrogateescape") for line in lines]
    assert back == names


def test_right_answers_are_listed_once(tmp_path):
    runs.write_qrels(tmp_path / "q", ["p q", "r"], ["a", "b", "c"], [np.array([2, 0, 2]), []])
    assert (tmp_path / "q").read_text() == "p%20q 0 a 1\np%20q 0 c 1\n"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "q"
    runs.write_qrels(path, ["q"], ["a"], [[0]])
    with pytest.raises(IndexError):
        runs.write_qrels(path, ["q", "r"], ["a"], [[0], [7]])
    assert path.read_text() == "q 0 a 1\n" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("queries", "gallery", "text"),
    [
        (["q", "q"], ["a"], "query names must be unique"),
        (["q", "r"], ["a", ""], "not empty"),
        (["q", "r"], ["a"], "rows 0 to 1 in index, but 1 gallery names"),
        (["q"], ["a", "b"], "1 query names, index"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, queries, gallery, text):
    with pytest.raises(ValueError, match=text):
        runs.write_run(tmp_path / "run", queries, gallery, np.array([[0], [1]]), np.zeros((2, 1)))


def test_ranks_count_from_one_and_padding_has_none(tmp_path):
    runs.write_run(tmp_path / "run", ["q"], ["a", "b"], np.array([[1, 0, -1]]), np.array([[0.5, 0.25, 9]]))
    assert (tmp_path / "run").read_text() == "q Q0 b 1 0.5 vitjax\nq Q0 a 2 0.25 vitjax\n"
