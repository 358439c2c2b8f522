"""What results.json and results.csv hold of a search."""

from typing import Any

import numpy as np

from vitjax import doctor
from vitjax.cli import run_files
from vitjax.config import to_dict
from vitjax.data.sources.base import notes_of
from vitjax.evaluation.search_run import Ranking, SearchRun
from vitjax.retrieval.metrics.relevance import not_counted


def summarize(ranking: Ranking) -> dict[str, Any]:
    """Everything results.json holds of a search, but for the sweep and the explanations."""
    run, before, after = ranking.run, ranking.before, ranking.after
    described, count = sum(each.described for each in run.images.values()), len(run.queries)
    seconds, truth = run.clock.seconds, run.truth
    matched = np.isfinite(after.structural)
    wanted = before[:, : run.config.rerank.top_k] >= 0
    results = {
        "task": run.config.task,
        **ranking.metrics(),
        "groups": {name: ranking.metrics(queries) for name, queries in truth.by_group().items()},
        "milliseconds_per_query": {
            "extract": 1e3 * seconds["extract"] / described if described else 0.0,
            "search": 1e3 * seconds["search"] / count,
            "rerank": 1e3 * seconds["rerank"] / count,
        },
        "images_per_second": described / seconds["extract"],
        "seconds": seconds | {"compile": sum(run.clock.compile_seconds.values())},
        "queries": count,
        "queries_counted": None if truth.positives is None else sum(map(bool, map(len, truth.positives))),
        "gallery": len(run.gallery),
        "queries_found_in_gallery_and_left_out": int((truth.own >= 0).sum()),
        "transport": {
            "pairs": int(matched.sum()),
            "unmatched_pairs": int(wanted.sum() - matched.sum()),
            "largest_marginal_error": float(np.max(after.error[matched], initial=0.0)),
            "uniform_fallback_pairs": int(after.fallback.sum()),
            "mean_mass": float(np.mean(after.mass[matched])) if matched.any() else None,
        },
        **provenance(run),
    }
    if ranking.gate:
        results["gate"] = dict(ranking.gate)
    results["notes"] = [*uncounted(run), *results["notes"]]
    return results


def uncounted(run: SearchRun) -> list[str]:
    """One line on the queries that no metric counts, if there are any."""
    return not_counted(run.truth, run.queries.classes() or (), run.gallery.classes() or ())


def summarize_index(run: SearchRun) -> dict[str, Any]:
    """Everything results.json holds of a run that only fills an index."""
    seconds = run.clock.seconds
    return {
        "task": run.config.task,
        "gallery": len(run.gallery),
        "described_now": run.gallery.described,
        "images_per_second": run.gallery.described / seconds["extract"],
        "seconds": seconds | {"compile": sum(run.clock.compile_seconds.values())},
        **provenance(run),
    }


def provenance(run: SearchRun) -> dict[str, Any]:
    """Provenance of a run, for the results of every task."""
    report = run.reranker.load_report
    return {
        "notes": notes_of(*(each.source for each in run.images.values())),
        "weights": {
            "source": run.config.weights or "random",
            "report": str(report).splitlines() if report else [],
        },
        "skipped": [
            {"side": name, "index": item.index, "name": item.name, "reason": item.reason}
            for name, each in run.images.items()
            for item in each.skipped
        ],
        "device": run_files.device(),
        "versions": doctor.versions(),
        "git_commit": run_files.git_commit(),
        "config": to_dict(run.config),
    }


def csv_row(results: dict[str, Any]) -> dict[str, Any]:
    """One line for results.csv, with timm's column names where timm has one."""
    config = results["config"]
    row = {
        "model": config["model"]["name"],
        "weights": results["weights"]["source"],
        "infer_samples_per_sec": round(results["images_per_second"], 2),
        "infer_batch_size": config["batch_size"],
    }
    row |= {
        name: config["rerank"][name] for name in ("method", "marginals", "epsilon", "mass", "price", "tau")
    }
    for order, metrics in results["metrics"].items():
        row |= {f"{order}_{name}": value for name, value in metrics.items()}
    return row
