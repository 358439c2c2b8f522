"""What a person reads where there is little room."""

import io
import json
import sys
import types

import numpy as np
import pytest
from rich.console import Console

from vitjax.cli import console
from vitjax.evaluation import result_tables
from vitjax.retrieval.metrics.relevance import Truth, judge, shares
from vitjax.viz.rankings import NamedRanking

ORDER = np.arange(10)[None, :].repeat(4, axis=0)
JUDGED = judge(Truth([np.array([i]) for i in range(4)], None, np.full(4, -1)), ORDER, ORDER[:, ::-1])
SWEEP = [{"fields": {"rerank.tau": 0.7, "rerank.epsilon": 0.02}, "milliseconds_per_query": 7.1, **JUDGED}]


@pytest.fixture
def printed(monkeypatch):
    """What is printed on a console of so many columns."""

    def show(columns: int) -> str:
        file = io.StringIO()
        monkeypatch.setattr(result_tables, "console", Console(file=file, width=columns))
        result_tables.show_metrics("4 queries", JUDGED)
        result_tables.show_sweep(SWEEP)
        return file.getvalue()

    return show


def test_metrics_keep_their_names_where_there_is_no_room_for_intervals(printed):
    narrow, wide = printed(80), printed(160)
    for name in ("Recall@1", "MAP@1", "Recall@10", "gain in Recall@1", "epsilon"):
        assert name in narrow and name in wide
    assert " to " in wide and "\u2026" not in narrow + wide
    assert (
        JUDGED["metrics"]["pooled"]["recall_at_1"] == 0.25
        and JUDGED["metrics"]["reranked"]["recall_at_1"] == 0
    )
    assert "-25.0" in narrow and "+25.0" not in narrow + wide
    assert max(map(len, narrow.splitlines())) <= 80


def test_shares_of_all_queries_are_shown_only_where_some_have_no_answer(printed):
    assert "over all queries" not in printed(160)
    some = Truth([np.array([0]), np.array([], int)], None, np.full(2, -1))
    metrics = judge(some, ORDER[:2], ORDER[:2])["metrics"]["pooled"]
    assert "recall_at_1_over_all_queries" in shares(metrics)


@pytest.mark.parametrize("path", ["runs/[a]/x", "runs/[/x]", "runs/[red]x", "runs/:smile:/x", "runs/x\\"])
def test_a_path_is_printed_as_it_is_named(path, capsys):
    console.say(f"wrote {path}")
    console.warn(f"{path} cannot be read", path)
    assert capsys.readouterr().err.splitlines() == [f"wrote {path}", f"{path} cannot be read", path]


def test_a_few_queries_are_answered_in_the_terminal(capsys):
    after = types.SimpleNamespace(index=np.array([[2, 0, -1]]), score=np.array([[0.9, 0.25, -np.inf]]))
    ways = {"relevant": lambda q, r: None, "weight": 1.0, "ranks": 5}
    ways |= {"query_labels": None, "gallery_labels": None}
    result_tables.show_answers(
        NamedRanking(after.index, after, ["[a].png"], ["x.png", "y.png", "[z].png"], **ways)
    )
    assert capsys.readouterr().err.splitlines() == [
        "[a].png: rank, score, image", "   1  0.900  [z].png", "   2  0.250  x.png",
    ]  # fmt: skip
    many = NamedRanking(after.index, after, ["a", "b", "c", "d"], ["x.png"], **ways)
    result_tables.show_answers(many)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_the_line_of_results_is_for_pipes(monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    result_tables.print_results({"a": float("nan")})
    printed = capsys.readouterr().out
    assert printed == "" if terminal else json.loads(printed) == {"a": None}


def test_a_sweep_gives_up_metrics_before_it_gives_up_intervals(monkeypatch):
    both_would_fit = 0
    for columns in range(60, 161, 5):
        file = io.StringIO()
        monkeypatch.setattr(result_tables, "console", Console(file=file, width=columns))
        one, five = (
            result_tables.fits(result_tables.sweep_table(SWEEP, count, ends=ends))
            for count, ends in ((1, True), (5, False))
        )
        result_tables.show_sweep(SWEEP)
        assert (" to " in file.getvalue()) == one
        both_would_fit += one and five
    assert both_would_fit > 1
