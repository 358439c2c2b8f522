"""The gate of a run: given, or learned on a random hold-out of the queries."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vitjax.cli.console import say
from vitjax.errors import UserError
from vitjax.evaluation.search_run import Ranking, SearchRun
from vitjax.retrieval import Gate, calibrate_gate, judge_gate
from vitjax.retrieval.reranking.accept import Acceptance
from vitjax.retrieval.reranking.gate import Calibration


@dataclass(frozen=True)
class RunGate:
    """The gate of a run, and what it does on the hold-out it was learned on; None where it was given."""

    gate: Gate
    calibration: Calibration | None = None


def find_gate(run: SearchRun) -> tuple[SearchRun, RunGate | None]:
    """The gate that the config gives, or one learned on a random hold-out of the queries.

    Returns:
        the search of the other queries, or of all; and the gate, None where every query is reranked.
    """
    rule, count = run.config.rerank, len(run.queries)
    if not rule.held_out:
        gate = Gate.read(rule.gate) if rule.gate else Gate.read_beside(rule.accept) if rule.accept else None
        return run, gate and RunGate(gate)
    if run.truth.positives is None:
        raise UserError("config.rerank.held_out needs ground truth, and there is none")
    held_out = round(rule.held_out * count)
    if not 0 < held_out < count:
        raise UserError(f"config.rerank.held_out is {rule.held_out}: {held_out} of {count} queries")
    order = np.random.default_rng(run.config.seed).permutation(count)
    part = run.take(np.sort(order[:held_out]))
    with run.clock.stage("gate"):
        _, before = part.search()
        given = before, part.rerank(before), part.truth.hits(before), rule
        gate = calibrate_gate(*given, sharpness=part.sharpness)
        calibration = judge_gate(gate, *given, sharpness=part.sharpness)
    return run.take(np.sort(order[held_out:])), RunGate(gate, calibration)


def open_gate(ranking: Ranking, found: RunGate | None) -> Ranking:
    """The order that the gate leaves, with its weight in the config, and what results.json says of it."""
    if found is None:
        return ranking
    run, gate, before, after = ranking.run, found.gate, ranking.before, ranking.after
    with run.clock.stage("rerank"):
        result, opened = gate.open(before, after, run.config.rerank, sharpness=run.sharpness)
        report: dict[str, Any] = {**asdict(gate), "reranked": float(opened.mean())}
        if found.calibration is not None:
            hits = run.truth.hits(before)
            rest = judge_gate(gate, before, after, hits, run.config.rerank, sharpness=run.sharpness)
            report |= {"calibration": found.calibration._asdict(), "rest": rest._asdict()}
    threshold = "" if gate.signal in ("always", "never") else f" of at least {gate.threshold:.4g}"
    say(
        f"gate: {gate.signal}{threshold}, weight {gate.weight:g}; {opened.mean():.0%} of the queries reranked"
    )
    config = replace(run.config, rerank=replace(run.config.rerank, weight=gate.weight))
    return replace(ranking, run=replace(run, config=config), after=result, gate=report)


def accept(ranking: Ranking) -> dict[str, Any]:
    """Which first hits are answers, by `config.rerank.accept`, for results.json; empty without it."""
    run = ranking.run
    if not run.config.rerank.accept:
        return {}
    rule = Acceptance.read(run.config.rerank.accept)
    with run.clock.stage("accept"):
        accepted = rule.accepted(run.shortlist(), ranking.after)
    report: dict[str, Any] = {**rule.to_dict(), "accepted": float(accepted.mean())}
    if run.truth.positives is not None:
        wrong = ~run.truth.hits(ranking.after.index)[:, 0]
        report["wrong_of_accepted"] = float(wrong[accepted].mean()) if accepted.any() else None
        report["wrong_of_all"] = float(wrong.mean())
    say(f"accepted: {accepted.mean():.0%} of the first hits; the others are no match")
    names = run.queries.names()
    return report | {"no_match": [name for name, there in zip(names, accepted, strict=True) if not there]}
