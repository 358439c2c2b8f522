import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.viz import browser
from tests.viz.example import GRID, candidate, cell, each_for_itself, report, whole_plan
from vitjax.viz.plans import Patches, sparse_plan
from vitjax.viz.report import write_report
from vitjax.viz.views import MatchView, QueryView

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason=f"needs one of {', '.join(browser.NAMES)} on PATH"
)

TITLE = "document.querySelector('#q1 .pane h3').textContent"
LIT = "[...document.querySelectorAll('#q1 .pane .lit')].map((e) => e.tagName.toLowerCase()).sort().join(' ')"
LISTED = (
    "[...document.querySelectorAll('.entry:not([hidden])')]"
    ".map((e) => [...e.parentNode.children].indexOf(e) + 1).join(' ')"
)
SHOWN = "[...document.querySelectorAll('.shown:not([hidden]) .query')].map((e) => e.id).join(' ')"
HEAT = (
    "[...document.querySelectorAll('.heat rect[data-token]')]"
    ".map((e) => [Number(e.dataset.token), Number(e.dataset.mass)])"
)
THIN = 5e-3  # share of a patch's mass in entries too thin to be kept one by one, in these plans
READOUT = "document.querySelector('.readout').textContent"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def show(tab, tmp_path):
    """Writes a report, opens it, and demands a silent console and no request at the end of the test."""
    tab.problems.clear()
    tab.requests.clear()

    def open_report(shown, **window):
        write_report(tmp_path / "report.html", shown)
        tab.open(tmp_path / "report.html", **window)
        tab.wait("document.querySelector('#q1 .pane h3')")
        return tab

    yield open_report
    assert tab.problems == []
    assert {url.partition("#")[0] for url in tab.requests} <= {(tmp_path / "report.html").as_uri()}


def test_page_draws_metrics_rankings_and_the_sum(show):
    tab = show(report())
    assert (
        tab.evaluate("document.querySelector('.metrics tbody').textContent")
        == "Precision@150.0 %100.0 %+50.0 pts"
    )
    assert tab.evaluate("document.querySelectorAll('#q1 .row.before .thumb').length") == 3
    assert "relevant after reranking" in tab.evaluate("document.querySelector('#q1 .verdict').textContent")
    rows = "[...document.querySelectorAll('#q1 .matches tr')].slice(1)"
    column = tab.evaluate(f"{rows}.map((r) => r.cells[r.cells.length - 2].textContent)")
    *adds, structural, pooled, final = (float(text) for text in column)
    assert sum(adds) == pytest.approx(structural, abs=5e-4)
    assert structural + pooled == pytest.approx(final, abs=2e-4)


def test_intervals_stand_below_their_figures(show):
    ends = {"pooled": [0.25, 0.75], "reranked": [1.0, 1.0], "difference": [-0.004, 0.5]}
    tab = show(report(intervals={order: {"precision_at_1": pair} for order, pair in ends.items()}))
    assert tab.evaluate("[...document.querySelectorAll('.metrics .ends')].map((e) => e.innerText)") == [
        "25.0 to 75.0", "100.0 to 100.0", "−0.4 to 50.0",
    ]  # fmt: skip
    assert "95 %" in tab.evaluate("document.querySelector('p.ends').innerText")
    narrow = show(
        report(intervals={order: {"precision_at_1": pair} for order, pair in ends.items()}), width=360
    )
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360


def test_further_sections_are_shown_as_text_pairs_and_tables(show):
    tab = show(
        report(
            sections={
                "Said": "<b>not bold</b>",
                "Named": {"share": 0.25, "known": True},
                "Listed": [["city", "queries"], ["cph", 3], ["sf", None]],
            }
        )
    )
    titles = "[...document.querySelectorAll('.summary h2')].map((e) => e.textContent)"
    assert [title for title in tab.evaluate(titles) if title in ("Said", "Named", "Listed")] == [
        "Said", "Named", "Listed",
    ]  # fmt: skip
    assert "<b>not bold</b>" in tab.evaluate("document.querySelector('.summary').textContent")
    pairs = (
        "[...document.querySelectorAll('.summary .panel:first-child dl.pairs *')].map((e) => e.textContent)"
    )
    assert tab.evaluate(pairs) == ["share", "0.25", "known", "yes"]
    rows = (
        "[...document.querySelectorAll('table.rows tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    assert tab.evaluate(rows) == [["city", "queries"], ["cph", "3"], ["sf", "none"]]


def test_right_and_wrong_carry_signs_and_words(show):
    tab = show(report())
    marks = "[...document.querySelectorAll('#q1 .row.after .mark')].map((e) => e.textContent).join('')"
    assert tab.evaluate(marks) == "✓✕✕"
    assert ", relevant" in tab.evaluate(
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


def several() -> list[QueryView]:
    """Relevant images that rise, fall, stay away, and stay first."""
    places = [(3, 1), (1, 3), (2, 2), (1, 1)]
    return [
        QueryView(
            "photo0",
            f"query/{name}.jpg",
            [candidate(i, i, after[i - 1], relevant=i == before) for i in (1, 2, 3)],
        )
        for name, (before, now) in zip("abcd", places, strict=True)
        for after in [_order(before, now)]
    ]


def _order(before: int, now: int) -> list[int]:
    """New ranks of the candidates at ranks 1, 2, 3, of which one moves and the others fill up."""
    rest = iter([rank for rank in (1, 2, 3) if rank != now])
    return [now if rank == before else next(rest) for rank in (1, 2, 3)]


def test_filters_and_search_choose_queries(show):
    tab = show(report(queries=several()))
    assert tab.evaluate(LISTED) == "1 2 3 4"
    names = tab.evaluate("[...document.querySelectorAll('.choices button')].map((e) => e.textContent)")
    assert names == ["All4", "Got better1", "Got worse1", "Still wrong1", "First hit changed2"]
    for button, listed in ((2, "1"), (3, "2"), (4, "3"), (5, "1 2"), (1, "1 2 3 4")):
        tab.point(f".choices button:nth-child({button})", "click")
        assert tab.evaluate(LISTED) == listed
        assert tab.evaluate(SHOWN) == "q" + listed[0] or button == 1
    tab.evaluate("document.querySelector('input').value = 'D.JPG'")
    tab.evaluate("document.querySelector('input').dispatchEvent(new Event('input'))")
    assert tab.evaluate(SHOWN) == "q4"
    tab.evaluate("document.querySelector('input').value = 'nothing of that name'")
    tab.evaluate("document.querySelector('input').dispatchEvent(new Event('input'))")
    assert tab.evaluate(SHOWN) == ""
    assert tab.evaluate("document.querySelector('.empty').hidden") is False


def test_arrow_keys_buttons_and_the_list_go_through_the_queries_of_the_filter(show):
    tab = show(report(queries=several()))
    tab.press("ArrowLeft")
    assert tab.evaluate(SHOWN) == "q1"
    tab.press("ArrowRight")
    assert tab.evaluate(SHOWN) == "q2"
    assert tab.evaluate("document.querySelector('.place').textContent") == "2 / 4"
    tab.point(".step:last-child", "click")
    assert tab.evaluate(SHOWN) == "q3"
    tab.point(".entry:nth-child(4)", "click")
    assert tab.evaluate(SHOWN) == "q4"
    assert tab.evaluate("document.querySelector('.step:last-child').disabled") is True
    assert tab.evaluate("location.hash") == "#q4"
    tab.press("ArrowLeft")
    assert tab.evaluate("document.activeElement === document.querySelector('.entry:nth-child(3)')")
    tab.point(".choices button:nth-child(5)", "click")
    tab.press("ArrowRight")
    assert tab.evaluate(SHOWN) == "q2"
    assert tab.evaluate("document.querySelector('.place').textContent") == "2 / 2"


def test_a_swipe_goes_to_the_next_query_on_a_phone(show):
    tab = show(report(queries=several()), width=375, height=1400)
    for by, shown in ((-120, "q2"), (-30, "q2"), (120, "q1")):
        tab.swipe(".query > header", by)
        assert tab.evaluate(SHOWN) == shown


def test_arrow_keys_inside_a_row_of_thumbnails_stay_there(show):
    tab = show(report(queries=several()))
    tab.evaluate("document.querySelector('#q1 .row.after .thumb').focus()")
    tab.press("ArrowRight")
    assert tab.evaluate(SHOWN) == "q1"
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')").startswith("rank 2 after")


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


@pytest.mark.parametrize("width", [375, 1280])
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


def test_only_one_query_is_drawn_at_a_time(show):
    queries = [QueryView("photo0", f"q{i}", [candidate(1, 1, 1)]) for i in range(40)]
    tab = show(report(queries=queries))
    assert tab.evaluate("document.querySelectorAll('.stage').length") == 1
    tab.evaluate("location.hash = '#q40'")
    tab.wait("document.querySelector('#q40 .stage')")
    assert tab.evaluate(SHOWN) == "q40"


CELL = [((i % GRID + 0.5) / GRID, (i // GRID + 0.5) / GRID) for i in range(GRID**2)]


def drawn(show, **options):
    """A page of one pair whose whole plan is known, and that plan."""
    plan = whole_plan(0.78, 7)
    view = sparse_plan(plan, entries=options.pop("entries", 10**6))
    shown = candidate(1, 1, 1, True, plan=view, matches=[], remaining_contribution=0.78)
    patches = {
        "photo0": options.pop("query", each_for_itself()),
        "photo1": options.pop("found", each_for_itself()),
    }
    tab = show(report(queries=[QueryView("photo0", "q", [shown])], patches=patches), **options)
    return tab, plan


@pytest.mark.parametrize(("side", "patch"), [(0, 0), (0, 9), (1, 5)])
def test_pointing_at_a_patch_shows_where_its_mass_went_and_what_it_added(show, side, patch):
    tab, plan = drawn(show)
    tab.point(f".patches[data-side='{side}']", at=CELL[patch])
    mass, adds = ((x, x.T)[side][patch] for x in (plan.mass, plan.contribution))
    exact = 0.5001 * tab.evaluate(
        "JSON.parse(document.getElementById('data').textContent).queries[0].candidates[0].plan.unit"
    )
    heat = dict(tab.evaluate(HEAT))
    most = (plan.mass.max(axis=1)[list(heat)], mass.max())[1 - side]  # of the row that an entry is stored in
    np.testing.assert_allclose(list(heat.values()), mass[list(heat)], rtol=0, atol=0.004 * np.max(most))
    assert mass.sum() - sum(heat.values()) < THIN * mass.sum()
    value = "Number(document.querySelector('.readout [data-{}]').dataset.{})"
    np.testing.assert_allclose(tab.evaluate(value.format("mass", "mass")), mass.sum(), atol=exact)
    np.testing.assert_allclose(tab.evaluate(value.format("adds", "adds")), adds.sum(), atol=2e-5)
    text = tab.evaluate(READOUT)
    assert text.startswith(
        f"{('Query', 'Candidate')[side]} patch, row {patch // GRID + 1}, column {patch % GRID + 1}: "
    )
    assert f"{100 * mass.sum():.2f} %" in text and f"{abs(adds.sum()):.4f}" in text
    assert ("unmatched" in text) == (mass.sum() < 0.995 / GRID**2)
    tab.point("h1")
    assert tab.evaluate(HEAT) == []


def test_a_listed_match_reads_the_same_in_the_table_and_beside_the_photos(show):
    plan = whole_plan(0.78, 7)
    first = np.unravel_index(plan.contribution.argmax(), plan.mass.shape)
    boxes = [cell(*divmod(int(i), GRID)) for i in first]
    match = MatchView(*boxes, 0.5, float(plan.mass[first]), float(plan.contribution[first]))
    shown = candidate(
        1, 1, 1, plan=sparse_plan(plan, entries=99), matches=[match],
        remaining_contribution=0.78 - match.contribution,
    )  # fmt: skip
    tab = show(report(queries=[QueryView("photo0", "q", [shown])]))
    tab.point(".patches[data-side='0']", at=CELL[first[0]])
    assert dict(tab.evaluate(HEAT))[first[1]] == round(match.mass, 6)
    adds = tab.evaluate("document.querySelector('.matches tbody tr').cells[3].textContent")
    assert f"{100 * match.mass:.2f} %, adds {adds}" in tab.evaluate(READOUT)
    assert tab.evaluate(LIT) == "g g tr"


def test_a_patch_that_moves_nothing_says_so_and_is_darkened(show):
    tab, _ = drawn(show)
    tab.point(".patches[data-side='0']", at=CELL[-1])
    assert tab.evaluate(HEAT) == []
    assert "sends 0.00 % at a weight of 6.25 %, 6.25 % unmatched" in tab.evaluate(READOUT)
    opacity = "[...document.querySelectorAll('.rest')].map((e) => Number(e.getAttribute('fill-opacity')))"
    darkest = f"Math.max(...{opacity})"
    assert tab.evaluate(darkest) == pytest.approx(0.6)


def test_totals_of_a_patch_hold_what_the_page_leaves_out(show):
    tab, plan = drawn(show, entries=20)
    tab.point(".patches[data-side='0']", at=CELL[0])
    shown, whole = sum(mass for _, mass in tab.evaluate(HEAT)), plan.mass[0].sum()
    assert shown < 0.99 * whole
    assert f"{100 * (whole - shown):.2f} % elsewhere" in tab.evaluate(READOUT)


def test_arrow_keys_move_over_the_patches_and_escape_lets_go(show):
    tab, plan = drawn(show)
    tab.evaluate("document.querySelector('.patches').focus()")
    best = int(plan.contribution.sum(axis=1).argmax())
    assert tab.evaluate("Number(document.querySelector('.readout').dataset.token)") == best
    for key in ["ArrowUp"] * GRID + ["ArrowLeft"] * GRID + ["ArrowDown", "ArrowRight"]:
        tab.press(key)
    assert tab.evaluate("Number(document.querySelector('.readout').dataset.token)") == GRID + 1
    assert sum(mass for _, mass in tab.evaluate(HEAT)) == pytest.approx(plan.mass[GRID + 1].sum(), rel=THIN)
    tab.press("Escape")
    assert tab.evaluate(HEAT) == []
    assert tab.evaluate(SHOWN) == "q1"


def test_a_tap_keeps_its_patch_on_a_phone(show):
    tab, plan = drawn(show, width=375, height=800)
    tab.point(".patches[data-side='1']", "tap", at=CELL[5])
    tab.wait("document.querySelector('.readout').dataset.token === '5'")
    assert sum(mass for _, mass in tab.evaluate(HEAT)) == pytest.approx(plan.mass[:, 5].sum(), rel=THIN)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375


def test_dropped_patches_are_grey_and_merged_ones_are_one(show):
    owner = np.arange(GRID**2).reshape(GRID, GRID)
    owner[0, :2] = 0  # merged
    owner[3, 3] = -1  # dropped
    tab, plan = drawn(show, query=Patches(owner, owner < 0), found=Patches(owner, owner < 0))
    assert tab.evaluate("document.querySelectorAll('.dropped').length") == 2
    legend = tab.evaluate("document.querySelector('.pane').textContent")
    assert "grey: 1 of 16 patches dropped; outlined: merged, 14 tokens stand for 15 patches" in legend
    for place in (0, 1):
        tab.point(".patches[data-side='0']", at=CELL[place])
        assert "row 1, column 1 and 1 merged with it" in tab.evaluate(READOUT)
        assert f"sends {100 * plan.mass[0].sum():.2f} %" in tab.evaluate(READOUT)
    tab.point(".patches[data-side='0']", at=CELL[-1])
    assert "dropped by the model" in tab.evaluate(READOUT)
    assert tab.evaluate(HEAT) == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (375, False)])
def test_a_image_of_the_page_shows_something_everywhere(show, tmp_path, width, dark):
    tab, _ = drawn(show, width=width, dark=dark)
    tab.screenshot(tmp_path / "page.png", whole=True)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"), float)
    assert pixels.shape[1] == width
    assert (pixels.mean() < 90) == dark
    assert all(band.std() > 5 for band in np.array_split(pixels, 4))


def test_every_control_has_a_name_and_a_visible_focus(show):
    tab = show(report())
    unnamed = (
        "[...document.querySelectorAll('button, input, a, [tabindex]')].filter((e) => "
        "!(e.getAttribute('aria-label') || e.textContent.trim())).length"
    )
    assert tab.evaluate(unnamed) == 0
    for selector in (".entry", ".patches", ".matches tbody tr", ".choices button"):
        tab.evaluate(f"document.querySelector({selector!r}).focus()")
        tab.press("Shift")
        style = f"getComputedStyle(document.querySelector({selector!r}))"
        assert tab.evaluate(f"{style}.outlineStyle + parseFloat({style}.outlineWidth)") == "solid2", selector


def test_words_of_a_text_query_stand_in_cells_that_point_at_patches(show):
    shown, words = report(), [f"word{i}" for i in range(GRID**2)]
    words[0], words[5] = "<b>dön</b>", "日本"
    query = dataclasses.replace(shown.queries[0], words=words)
    tab = show(dataclasses.replace(shown, queries=[query, shown.queries[1]]))
    written = "[...document.querySelectorAll('#q1 .pane text.word')].map((e) => e.textContent)"
    assert tab.evaluate(written) == words
    assert tab.evaluate("document.querySelectorAll('#q1 .photo text.word').length") == len(words)
    assert tab.evaluate("document.querySelectorAll('#q1 .photo img').length") == 0
    first = "[...document.querySelectorAll('#q1 .matches tbody td:first-child')].map((e) => e.innerText)"
    assert tab.evaluate(first) == ["1 <b>dön</b>", "2 日本", "3 word10"]
    tab.point("#q1 .patches", at=(0.3, 0.3))
    assert tab.evaluate(READOUT).startswith("Query word, “日本”: sends")
