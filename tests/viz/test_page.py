import pytest

from tests.viz import browser
from tests.viz.example import candidate, photos, report
from vitjax.viz.report import QueryView, write_report

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason=f"needs one of {', '.join(browser.NAMES)} on PATH"
)

TITLE = "document.querySelector('#q1 .pane h3').textContent"
LIT = "[...document.querySelectorAll('#q1 .pane .lit')].map((e) => e.tagName.toLowerCase()).sort().join(' ')"
SHOWN = "[...document.querySelectorAll('.query:not([hidden])')].map((e) => e.id).join(' ')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def show(tab, tmp_path):
    """Writes a report, opens it, and demands a silent console at the end of the test."""
    tab.problems.clear()

    def open_report(shown, **window):
        write_report(tmp_path / "report.html", shown)
        tab.open(tmp_path / "report.html", **window)
        tab.wait("document.querySelector('#q1 .pane h3')")
        return tab

    yield open_report
    assert tab.problems == []


def test_page_draws_metrics_rankings_and_the_sum(show):
    tab = show(report())
    assert (
        tab.evaluate("document.querySelector('.metrics tbody').textContent")
        == "Precision@150.0 %100.0 %+50.0 pts"
    )
    assert tab.evaluate("document.querySelectorAll('#q1 .row.before .thumb').length") == 3
    assert "corrected" in tab.evaluate("document.querySelector('#q1 .verdict').textContent")
    rows = "[...document.querySelectorAll('#q1 .matches tr')].slice(1)"
    column = tab.evaluate(f"{rows}.map((r) => r.cells[r.cells.length - 2].textContent)")
    *adds, structural, pooled, final = (float(text) for text in column)
    assert sum(adds) == pytest.approx(structural, abs=5e-4)
    assert structural + pooled == pytest.approx(final, abs=2e-4)


def test_right_and_wrong_carry_signs_and_words(show):
    tab = show(report())
    marks = "[...document.querySelectorAll('#q1 .row.after .mark')].map((e) => e.textContent).join('')"
    assert tab.evaluate(marks) == "✓✕✕"
    assert "right" in tab.evaluate(
        "document.querySelector('#q1 .row.after .thumb').getAttribute('aria-label')"
    )
    moves = "[...document.querySelectorAll('#q1 .row.after .move')].map((e) => e.textContent).join(' ')"
    assert tab.evaluate(moves) == "▲2 ▼1 ▼1"


def test_clicking_or_entering_another_candidate_shows_its_matches(show):
    tab = show(report())
    assert tab.evaluate(TITLE) == "Rank 1 after reranking, was 3"
    tab.point("#q1 .row.after .thumb:nth-child(2)", "click")
    assert tab.evaluate(TITLE) == "Rank 2 after reranking, was 1"
    assert tab.evaluate("document.querySelectorAll('#q1 .thumb[aria-pressed=true]').length") == 2
    tab.press("ArrowRight")
    tab.press("Enter")
    assert tab.evaluate(TITLE) == "Rank 3 after reranking, was 2"


def test_pointing_at_a_match_lights_its_row_line_and_boxes(show):
    tab = show(report())
    assert tab.evaluate(LIT) == ""
    tab.point("#q1 .matches tbody tr:nth-child(2)")
    assert tab.evaluate(LIT) == "g g tr"
    assert tab.evaluate("document.querySelector('#q1 g.lit').dataset.match") == "2"
    tab.point("h1")
    assert tab.evaluate(LIT) == ""
    tab.evaluate("document.querySelector('#q1 .matches tbody tr').focus()")
    tab.press("ArrowDown")
    assert tab.evaluate("document.activeElement.cells[0].textContent") == "2"
    assert tab.evaluate(LIT) == "g g tr"


def test_filters_and_search_choose_queries(show):
    tab = show(report())
    assert tab.evaluate(SHOWN) == "q1 q2"
    tab.point(".choices button:nth-child(3)", "click")  # wrong before
    assert tab.evaluate(SHOWN) == "q1"
    tab.point(".choices button:nth-child(4)", "click")  # wrong after
    assert tab.evaluate(SHOWN) == ""
    assert tab.evaluate("document.querySelector('.empty').hidden") is False
    tab.point(".choices button:nth-child(1)", "click")
    tab.evaluate("document.querySelector('input').value = 'B.JPG'")
    tab.evaluate("document.querySelector('input').dispatchEvent(new Event('input'))")
    assert tab.evaluate(SHOWN) == "q2"


def test_unlabelled_queries_without_matches_have_neither_marks_nor_wrong_filters(show):
    bare = candidate(1, 1, 1, matches=[], remaining_contribution=0.78, remaining_pairs=256)
    late = candidate(
        2, 2, 2, structural=None, score=None, matches=[], remaining_pairs=0, remaining_contribution=0.0
    )
    shown = report(queries=[QueryView("photo0", "q", [bare, late])], metrics_before={}, metrics_after={})
    tab = show(shown)
    assert tab.evaluate("document.querySelectorAll('.mark, .verdict').length") == 0
    assert tab.evaluate("document.querySelectorAll('.choices button').length") == 2
    assert "remaining 256 patch pairs" in tab.evaluate("document.querySelector('.matches').textContent")
    tab.point("#q1 .row.after .thumb:nth-child(2)", "click")
    assert "Not reranked" in tab.evaluate("document.querySelector('#q1 .pane').textContent")


def test_hostile_names_stay_text_in_the_browser(show):
    code = "document.title='broken in'"
    name = f'<img src=x onerror="{code}"></script><script>{code}</script>'
    tab = show(
        report(
            title=name,
            notes=[name],
            queries=[QueryView("photo0", name, [candidate(1, 1, 1, name=name)], name)],
        )
    )
    assert tab.evaluate("document.title") == name
    assert tab.evaluate("document.querySelector('#q1 h2').textContent") == name
    assert tab.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert tab.evaluate("document.scripts.length") == 2


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_hangs_over_the_edge(show, width):
    long = "x" * 300
    tab = show(
        report(
            queries=[QueryView("photo0", long, [candidate(i, i, 6 - i, name=long) for i in range(1, 5)])],
            settings={"weights": long},
            subtitle=long,
        ),
        width=width,
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_match_panes_are_drawn_only_near_the_screen(show):
    queries = [QueryView("photo0", f"q{i}", [candidate(1, 1, 1)]) for i in range(40)]
    tab = show(report(images=photos(2), queries=queries))
    assert tab.evaluate("document.querySelectorAll('.stage').length") < 10
    tab.evaluate("document.querySelector('#q40').scrollIntoView()")
    tab.wait("document.querySelector('#q40 .stage')")
