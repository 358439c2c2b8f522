"""A small report made of noise, in the shapes the program fills in."""

import dataclasses

import numpy as np

from vitjax.retrieval import PairPlan
from vitjax.viz.plans import Patches, PlanView, sparse_plan
from vitjax.viz.views import CandidateView, MatchView, QueryView, Report, SkippedView

GRID = 4


def cell(row: int, column: int) -> tuple[float, float, float, float]:
    return (column / GRID, row / GRID, (column + 1) / GRID, (row + 1) / GRID)


def photos(count: int, side: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return {f"photo{i}": image for i, image in enumerate(noise)}


def whole_plan(structural: float, seed: int = 0, tokens: tuple[int, int] = (GRID**2, GRID**2)) -> PairPlan:
    """Mass .8 of noise, thin and thick, that adds up to a score; the last patch of either side moves none."""
    rng = np.random.default_rng(seed)
    mass = rng.random(tokens) ** 8
    mass[-1], mass[:, -1] = 0, 0
    mass *= 0.8 / mass.sum()
    adds = mass * rng.uniform(-0.2, 1, tokens)
    adds *= structural / adds.sum()
    weights = [np.full(count, 1 / count, np.float32) for count in tokens]
    return PairPlan(mass.astype(np.float32), adds.astype(np.float32), *weights, 0.0)


def plan_view(structural: float, seed: int = 0, entries: int = 120) -> PlanView:
    return sparse_plan(whole_plan(structural, seed), entries=entries)


def each_for_itself() -> Patches:
    return Patches(np.arange(GRID**2).reshape(GRID, GRID), np.zeros((GRID, GRID), bool))


def candidate(number: int, before: int, after: int, relevant: bool | None = None, **changes) -> CandidateView:
    matches = [
        MatchView(cell(i, i), cell(i, (i + number) % GRID), 0.9 - 0.1 * i, 0.05, 0.05 * (0.9 - 0.1 * i))
        for i in range(3)
    ]
    drawn = sum(match.contribution for match in matches)
    pooled, structural = 0.9 - 0.05 * before, 0.8 - 0.02 * after
    fields = {
        "image": f"photo{number}",
        "name": f"cats/photo{number}.jpg",
        "rank_before": before,
        "rank_after": after,
        "pooled": pooled,
        "structural": structural,
        "score": structural + pooled,
        "relevant": relevant,
        "matches": matches,
        "remaining_pairs": GRID**4 - 3,
        "remaining_contribution": structural - drawn,
        "plan": plan_view(structural, number),
    }
    if changes.keys() & {"structural", "matches"} and "plan" not in changes:
        fields["plan"] = None
    return CandidateView(**(fields | changes))


def report(*, relevant: bool | None = True, **changes) -> Report:
    """Two queries; the first's relevant image rises from rank 3 to 1, the second's stays first."""
    wrong = None if relevant is None else not relevant
    first = QueryView(
        "photo0",
        "query/a.jpg",
        [candidate(1, 1, 2, wrong), candidate(2, 2, 3, wrong), candidate(3, 3, 1, relevant)],
    )
    second = QueryView("photo4", "query/b.jpg", [candidate(1, 1, 1, relevant), candidate(2, 2, 2, wrong)])
    whole = Report(
        title="Noise",
        subtitle="2 queries against 3 gallery images",
        images=photos(5),
        patches={key: each_for_itself() for key in photos(5)},
        explained="The parts add up.",
        queries=[first, second],
        metrics_before={"precision_at_1": 0.5},
        metrics_after={"precision_at_1": 1.0},
        milliseconds={"extract": 20.0, "search": 0.1, "rerank": 9.0},
        settings={"model": "vit_tiny", "epsilon": 0.05, "mass": 1.0},
        environment={"device": "cpu"},
        skipped=[SkippedView("broken.jpg", "truncated")],
    )
    return dataclasses.replace(whole, **changes)
