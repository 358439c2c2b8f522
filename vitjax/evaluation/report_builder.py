"""What a search leaves to look at: report.html, images, and whether the explanations on them are true."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitjax.cli.console import bar, count_of
from vitjax.config import EvalConfig, ModelConfig
from vitjax.evaluation.described_images import Side
from vitjax.evaluation.result_tables import searched
from vitjax.reranker import Reranker
from vitjax.retrieval import Explanation, deletion, match_pairs, pair_plans
from vitjax.retrieval.metrics.relevance import shares
from vitjax.viz.figures import matches_figure, ranking_figure, save_figure
from vitjax.viz.plans import Patches, PlanView, entries_within, patches_of, sparse_plan
from vitjax.viz.rankings import Rankings, Shown
from vitjax.viz.report import PLAN_BYTES, write_report
from vitjax.viz.views import QueryView, Report, SkippedView

DELETIONS = 32  # first hits of which patches are taken away, to see whether the score hangs on them
# Times that as many random patches are taken away instead, for each of four shares. Matched with the patches
# that add most and with all: 1 + (30 + 1) * 4 = 125 pairs, so they go through a CPU as one block (of 128).
DRAWS = 30


def draw(
    config: EvalConfig,
    out: pathlib.Path,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    rankings: Rankings,
    results: dict[str, Any],
) -> dict[str, Any]:
    """Writes report.html, and PNG files of the queries whose first hit changed before the others.

    Returns:
        How true the explanations are; see `judge_explanations`.
    """
    figures, count = config.figures, len(queries.rows)
    in_report = range(min(figures.report, count))
    drawn = [q for q in range(count) if rankings.shown(q)]  # a entry alone in its gallery finds nothing
    as_png = sorted(drawn, key=lambda q: not rankings.first_hit_changed(q))[: figures.count]
    views = view_queries(
        config, reranker, queries, gallery, rankings, list(dict.fromkeys([*in_report, *as_png]))
    )
    judged = judge_explanations(config, queries, gallery, rankings, views)
    entries = list(dict.fromkeys(entry for q in views for entry in rankings.images(q)))
    images = view_images(reranker, queries, gallery, entries)
    for q in as_png:
        (out / "figures").mkdir(exist_ok=True)
        best = min(views[q].candidates, key=lambda candidate: candidate.rank_after or np.inf)
        ranking = ranking_figure(images, views[q], ranks=figures.candidates)
        save_figure(out / "figures" / f"{q:04d}_ranking.png", ranking)
        matches = matches_figure(images[views[q].image], images[best.image], best.matches)
        save_figure(out / "figures" / f"{q:04d}_matches.png", matches, limit=500_000)
    if in_report:
        shown = [views[q] for q in in_report]
        listed = list(dict.fromkeys(entry for q in in_report for entry in rankings.images(q)))
        used = {entry.key: images[entry.key] for entry in listed}
        patches = view_patches(reranker, queries, gallery, listed)
        told = results | {"explanations": judged}
        write_report(
            out / "report.html", make_report(config, shown, used, patches, told, reranker.token_grid)
        )
    return judged


def view_queries(
    config: EvalConfig,
    reranker: Reranker,
    queries: Side,
    gallery: Side,
    rankings: Rankings,
    shown: list[int],
) -> dict[int, QueryView]:
    """What the page says of each query: its first candidates in both orders, and why they match."""
    pairs = [(q, row) for q in shown for row in rankings.matched(q)]
    rows = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    asked = (queries.descriptors, gallery.descriptors, *rows)
    top, tokens = config.figures.matches, (asked[0].sizes.tokens, asked[1].sizes.tokens)
    found = match_pairs(*asked, config=config.rerank, top=top)
    room = entries_within(PLAN_BYTES, tokens, len(pairs))
    explained: dict[int, dict[int, Explanation]] = {q: {} for q in shown}
    plans: dict[int, dict[int, PlanView]] = {q: {} for q in shown}
    for i, plan in enumerate(pair_plans(*asked, config=config.rerank)):
        q, row = pairs[i]
        explained[q][row] = found.explanation(i, reranker.token_grid)
        plans[q][row] = sparse_plan(plan, entries=room, strongest=top)
    return {q: rankings.view(q, explained[q], plans[q], tokens[0] * tokens[1]) for q in shown}


def judge_explanations(
    config: EvalConfig, queries: Side, gallery: Side, rankings: Rankings, views: dict[int, QueryView]
) -> dict[str, Any]:
    """Whether the parts of a plan make the score that ordered the candidates, and whether it hangs on them.

    Returns:
        Number of pairs, the largest gap between a score and its parts; and of up to `DELETIONS` first hits
        the mean structural score as it is, without the query patches that add most, and without as many
        random ones (an eighth to a half of them; see `vitjax.retrieval.deletion`).
    """
    gaps, found = [], []
    for q, view in views.items():
        for candidate in view.candidates:
            if candidate.plan is None or candidate.rank_after is None:
                continue
            place = candidate.rank_after - 1
            score = rankings.after.structural[q, place]
            gaps.append(abs(candidate.plan.structural - float(score)))
            if candidate.rank_after == 1 and len(found) < DELETIONS and config.rerank.method != "pooled":
                row = int(rankings.after.index[q, place])
                pair = queries.descriptors.take([q]), gallery.descriptors.take([row])
                if np.asarray(pair[0].valid).sum() > 1:
                    found.append(
                        deletion(*pair, candidate.plan.adds[0][None], config=config.rerank, draws=DRAWS)
                    )
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
    text = f"What the patches add makes up each of {count_of(judged['pairs'], 'score', 'scores')}, to {gap}"
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


def view_patches(
    reranker: Reranker, queries: Side, gallery: Side, entries: Sequence[Shown]
) -> dict[str, Patches]:
    """What became of the patches of each image on the page, by key."""
    found = {}
    for name, side in (("q", queries), ("g", gallery)):
        own = [entry for entry in entries if entry.side == name]
        images = side.descriptors.take(np.array([each.row for each in own], np.int32)) if own else None
        for i, entry in enumerate(own):
            found[entry.key] = patches_of(images, i, reranker.token_grid, reranker.patch_grid)
    return found


def view_images(
    reranker: Reranker, queries: Side, gallery: Side, entries: Sequence[Shown]
) -> dict[str, np.ndarray]:
    """Images as the model saw them, by key."""
    sides = {"q": queries, "g": gallery}
    return {
        entry.key: sides[entry.side].seen(entry.row, reranker)
        for entry in bar(entries, len(entries), "drawing")
    }


def _name_tokens(model: ModelConfig) -> str:
    block = "the last block" if model.block == -1 else f"block {model.block}"
    where = f"after {block}" if model.facet == "token" else f"the {model.facet} of {block}'s attention"
    return where if model.smooth == 1 else f"{where}, averaged over {model.smooth} x {model.smooth}"


def make_report(
    config: EvalConfig,
    views: Sequence[QueryView],
    images: dict[str, np.ndarray],
    patches: dict[str, Patches],
    results: dict[str, Any],
    grid: tuple[int, int],
) -> Report:
    """Fills the page."""
    model, rule, count = config.model, config.rerank, results["queries"]
    some = f" (this page shows the first {len(views)} of {count})" if len(views) < count else ""
    return Report(
        title="Search, and search again patch by patch",
        subtitle=f"{searched(results)}{some}; the first {rule.top_k} candidates of each were "
        "matched patch by patch and put in a new order",
        images=images,
        queries=views,
        patches=patches,
        ranks=config.figures.candidates,
        weight=rule.weight,
        metrics_before=shares(results["metrics"]["pooled"]),
        metrics_after=shares(results["metrics"]["reranked"]),
        intervals={order: results["intervals"][order] for order in ("pooled", "reranked", "difference")},
        milliseconds=results["milliseconds_per_query"],
        explained=say_judged(results["explanations"]),
        settings={
            "model": model.name,
            "weights": results["weights"]["source"].partition("#")[0],
            "tokens": f"{_name_tokens(model)}, {grid[0]} x {grid[1]}",
            "taken out of the tokens": model.center,
            "method": rule.method,
            "marginals": rule.marginals,
            "epsilon": rule.epsilon,
            "mass": rule.mass,
            **({"price": rule.price} if rule.price else {}),
            "tau": rule.tau,
            "weight of pooled score": rule.weight,
            "iterations": rule.iterations,
            "largest marginal error": f"{results['transport']['largest_marginal_error']:.1e}",
        },
        environment={
            "device": f"{results['device']['count']} x {results['device']['kind']}",
            **results["versions"],
        },
        random_weights=not config.weights,
        notes=results["notes"],
        skipped=[SkippedView(item["name"], item["reason"]) for item in results["skipped"]],
    )
