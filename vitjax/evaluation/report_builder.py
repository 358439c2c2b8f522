"""The report page and figures of a search, and the faithfulness of their explanations."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.cli.console import bar, count_of
from vitjax.evaluation import page_fields
from vitjax.evaluation.result_tables import searched
from vitjax.evaluation.search_run import Ranking, SearchRun
from vitjax.retrieval import Explanation, deletion, match_pairs, pair_plans
from vitjax.retrieval.metrics.relevance import shares
from vitjax.viz.figures import matches_figure, ranking_figure, save_figure
from vitjax.viz.plans import Patches, PlanView, entries_within, sparse_plan
from vitjax.viz.rankings import NamedRanking, Shown
from vitjax.viz.report import PLAN_BYTES, write_report
from vitjax.viz.views import QueryView, Report, SkippedView

DELETIONS = 32  # first hits on which the deletion test is run
# Random draws of the deletion test for each of four shares. Matched with the patches
# that add most and with all: 1 + (30 + 1) * 4 = 125 pairs, so they go through a CPU as one block (of 128).
DRAWS = 30


@dataclass(frozen=True, eq=False)
class PageContent:
    """The queries of the page, with the images and patches they speak of by key."""

    queries: Sequence[QueryView]
    images: Mapping[str, np.ndarray]
    patches: Mapping[str, Patches]


def draw(ranking: Ranking, results: dict[str, Any], out: pathlib.Path) -> dict[str, Any]:
    """Writes report.html, and PNG files of the queries whose first hit changed before the others.

    Returns:
        Faithfulness of the explanations; see `judge_explanations`.
    """
    run, named = ranking.run, name_ranking(ranking)
    figures, count = run.config.figures, len(run.queries)
    in_report = range(min(figures.report, count))
    drawn = [q for q in range(count) if named.shown(q)]  # an image alone in its gallery finds nothing
    as_png = sorted(drawn, key=lambda q: not named.first_hit_changed(q))[: figures.count]
    views = view_queries(run, named, list(dict.fromkeys([*in_report, *as_png])))
    judged = judge_explanations(ranking, views)
    images = view_images(run, images_of(named, views))
    for q in as_png:
        (out / "figures").mkdir(exist_ok=True)
        best = min(views[q].candidates, key=lambda candidate: candidate.rank_after or np.inf)
        figure = ranking_figure(images, views[q], ranks=figures.candidates)
        save_figure(out / "figures" / f"{q:04d}_ranking.png", figure)
        matches = matches_figure(images[views[q].image], images[best.image], best.matches)
        save_figure(out / "figures" / f"{q:04d}_matches.png", matches, limit=500_000)
    if in_report:
        listed = images_of(named, in_report)
        content = PageContent(
            [views[q] for q in in_report],
            {entry.key: images[entry.key] for entry in listed},
            view_patches(run, listed),
        )
        told = results | {"explanations": judged}
        write_report(out / "report.html", make_report(ranking, told, content))
    return judged


def name_ranking(ranking: Ranking) -> NamedRanking:
    """Both orders with the names, classes and relevance of the images, as tables and the page show them."""
    run = ranking.run
    return NamedRanking(
        ranking.before,
        ranking.after,
        query_names=run.queries.names(),
        gallery_names=run.gallery.names(),
        query_labels=run.queries.classes(),
        gallery_labels=run.gallery.classes(),
        relevant=run.truth.relevant,
        weight=run.config.rerank.weight,
        ranks=run.config.figures.candidates,
        words=run.queries.words,
    )


def images_of(named: NamedRanking, queries: Iterable[int]) -> list[Shown]:
    """The images shown of some queries, each once."""
    return list(dict.fromkeys(entry for q in queries for entry in named.images(q)))


def view_queries(run: SearchRun, named: NamedRanking, shown: list[int]) -> dict[int, QueryView]:
    """Each query as the page shows it: its first candidates in both orders, and their matches."""
    pairs = [(q, row) for q in shown for row in named.matched(q)]
    rows = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    queries, gallery, rule = run.queries.descriptors, run.gallery.descriptors, run.config.rerank
    matched = (queries, gallery, *rows)
    top, tokens = run.config.figures.matches, (queries.sizes.tokens, gallery.sizes.tokens)
    found = match_pairs(*matched, config=rule, top=top)
    budget = entries_within(PLAN_BYTES, tokens, len(pairs))
    explained: dict[int, dict[int, Explanation]] = {q: {} for q in shown}
    plans: dict[int, dict[int, PlanView]] = {q: {} for q in shown}
    for i, plan in enumerate(pair_plans(*matched, config=rule)):
        q, row = pairs[i]
        grids = run.queries.grid(q, run.reranker), run.gallery.grid(row, run.reranker)
        explained[q][row] = found.explanation(i, *grids)
        plans[q][row] = sparse_plan(plan, entries=budget, strongest=top)
    return {q: named.view(q, explained[q], plans[q], tokens[0] * tokens[1]) for q in shown}


def judge_explanations(ranking: Ranking, views: dict[int, QueryView]) -> dict[str, Any]:
    """Additivity error of the explanations, and the deletion test on first hits.

    Returns:
        Number of pairs, the largest gap between a score and its parts; and of up to `DELETIONS` first hits
        the mean structural score as it is, without the query patches that add most, and without as many
        random ones (an eighth to a half of them; see `vitjax.retrieval.deletion`).
    """
    run, after, rule = ranking.run, ranking.after, ranking.run.config.rerank
    gaps, found = [], []
    for q, view in views.items():
        for candidate in view.candidates:
            if candidate.plan is None or candidate.rank_after is None:
                continue
            rank = candidate.rank_after - 1
            score = after.structural[q, rank]
            gaps.append(abs(candidate.plan.structural - float(score)))
            if candidate.rank_after == 1 and len(found) < DELETIONS and rule.method != "pooled":
                row = int(after.index[q, rank])
                pair = run.queries.descriptors.take([q]), run.gallery.descriptors.take([row])
                if np.asarray(pair[0].valid).sum() > 1:
                    adds = candidate.plan.adds[0][None]
                    found.append(deletion(*pair, adds, config=rule, draws=DRAWS))
    judged: dict[str, Any] = {"pairs": len(gaps), "largest_additivity_error": max(gaps, default=None)}
    if found:
        gain = np.array([each.gain[0] for each in found])
        judged["deletion"] = {
            "pairs": len(found),
            "structural": float(np.mean([each.whole for each in found])),
            "without_first": float(np.mean([each.chosen for each in found])),
            "without_random": float(np.mean([each.random for each in found])),
            "gain": float(gain.mean()),
            "gain_standard_error": float(gain.std() / np.sqrt(len(gain))) if len(gain) > 1 else None,
        }
    return judged


def say_judged(judged: dict[str, Any]) -> str:
    """The same in one sentence; empty where nothing was explained."""
    if not judged["pairs"]:
        return ""
    gap = f"{judged['largest_additivity_error']:.0e}"
    scores = count_of(judged["pairs"], "score", "scores")
    text = f"The contributions of the patches add up to each of {scores}, to {gap}"
    if fell := judged.get("deletion"):
        error = fell["gain_standard_error"]
        sure = "" if error is None else f", standard error {error:.3f}"
        hits = count_of(fell["pairs"], "first hit", "first hits")
        text += (
            f"; without the query patches that add most, the structural score of {hits} "
            f"falls from {fell['structural']:.3f} to {fell['without_first']:.3f}, without as many random "
            f"ones to {fell['without_random']:.3f} (an eighth to a half taken away; difference "
            f"{fell['gain']:.3f}{sure})"
        )
    return text + "."


def view_patches(run: SearchRun, entries: Sequence[Shown]) -> dict[str, Patches]:
    """What became of the patches of each image on the page, by key."""
    found = {}
    for side, described in (("q", run.queries), ("g", run.gallery)):
        own = [entry for entry in entries if entry.side == side]
        patches = described.patches([each.row for each in own], run.reranker)
        found |= {entry.key: each for entry, each in zip(own, patches, strict=True)}
    return found


def view_images(run: SearchRun, entries: Sequence[Shown]) -> dict[str, np.ndarray]:
    """Images as the model sees them, by key."""
    sides = {"q": run.queries, "g": run.gallery}
    return {
        entry.key: sides[entry.side].model_input(entry.row, run.reranker)
        for entry in bar(entries, len(entries), "drawing")
    }


def make_report(ranking: Ranking, results: dict[str, Any], content: PageContent) -> Report:
    """Fills the page."""
    config, rule, count = ranking.run.config, ranking.run.config.rerank, results["queries"]
    shown = len(content.queries)
    some = f" (this page shows the first {shown} of {count})" if shown < count else ""
    sections = page_fields.SECTIONS | dict(ranking.run.sections)
    return Report(
        title="Pooled search and reranking",
        subtitle=f"{searched(results)}{some}; the first {rule.top_k} candidates of each were "
        "reranked by matching their patches",
        images=content.images,
        queries=content.queries,
        patches=content.patches,
        ranks=config.figures.candidates,
        weight=rule.weight,
        metrics_before=shares(results["metrics"]["pooled"]),
        metrics_after=shares(results["metrics"]["reranked"]),
        intervals={order: results["intervals"][order] for order in ("pooled", "reranked", "difference")},
        milliseconds=results["milliseconds_per_query"],
        explained=say_judged(results["explanations"]),
        settings=page_fields.fill(page_fields.SETTINGS, ranking, results),
        sections=page_fields.fill(sections, ranking, results),
        environment={
            "device": f"{results['device']['count']} x {results['device']['kind']}",
            **results["versions"],
        },
        random_weights=not config.weights,
        notes=results["notes"],
        skipped=[SkippedView(item["name"], item["reason"]) for item in results["skipped"]],
    )
