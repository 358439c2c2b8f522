"""Metrics against pytorch-metric-learning's and Mapillary's (kinds e1 and e2)."""

import re
from collections.abc import Callable

import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.retrieval import metrics

E1_NAMES = ("precision_at_1", "r_precision", "mean_average_precision_at_r")  # columns of per_query


def check_metric_learning(fixture: Fixture) -> None:
    given = fixture.inputs
    labels, ranking, query_ranking = given["labels"], given["ranking"], given["query_ranking"]
    q = len(query_ranking)
    itself_first = np.concatenate([np.arange(len(labels))[:, None], ranking], axis=1)
    n = len(given["query_labels"])
    whole = {"query_labels": labels, "gallery_labels": labels, "ks": (1,)}
    settings = {
        "self": {"index": ranking, "ref_includes_query": True} | whole,
        "self_avg_of_avgs": {"index": ranking, "ref_includes_query": True, "avg_of_avgs": True} | whole,
        "separate": {
            "index": query_ranking,
            "query_labels": given["query_labels"],
            "gallery_labels": labels,
            "ref_includes_query": False,
            "ks": (1,),
        },
        "subset": {"index": ranking[:q], "ref_includes_query": True} | whole | {"query_labels": labels[:n]},
        "self_not_removed": {"index": itself_first, "ref_includes_query": False} | whole,
        "diml": {"index": ranking, "ref_includes_query": True, "definition": "diml"} | whole,
    }
    ours = {}
    for key in fixture.outputs:
        group, name = key.split("/")
        if name == "per_query":
            values = metrics.retrieval_metrics(**settings[group], per_query=True)
            ours[key] = np.nan_to_num(np.stack([values[each] for each in E1_NAMES], axis=1), nan=-1.0)
        else:
            ours[key] = metrics.retrieval_metrics(**settings[group])[name]
    assert_all_compared(fixture, ours)


def check_places(fixture: Fixture) -> None:
    config, given = fixture.meta["config"], fixture.inputs
    ks, radius = config["ks"], float(config["radius_m"])
    cities = sorted({key.split("/")[0] for key in given}, key=lambda name: int(name.removeprefix("city")))
    width = max(*ks, *(given[f"{city}/ranking"].shape[1] for city in cities))
    ours, rankings, positives, offset = {}, [], [], 0
    for city in cities:
        places, base = given[f"{city}/query_utm"], given[f"{city}/db_utm"]
        right = metrics.positives_within(places, base, radius)
        ranking = given[f"{city}/ranking"]
        ranking = np.pad(ranking, ((0, 0), (0, width - ranking.shape[1])), constant_values=-1)
        table = np.zeros((len(places), len(base)), np.uint8)
        for row, each in enumerate(right):
            table[row, each] = 1
        counted = np.flatnonzero([len(each) > 0 for each in right])
        ours[f"{city}/positives"] = table
        ours[f"{city}/valid_queries"] = counted
        ours[f"{city}/first_hit_rank"] = metrics.first_hit(ranking, right)[counted]
        ours |= _as_named(city, metrics.relevance_metrics(ranking, right, ks=ks))
        rankings.append(np.where(ranking < 0, -1, ranking + offset))
        positives += [each + offset for each in right]
        offset += len(base)
    ours |= _as_named("pooled", metrics.relevance_metrics(np.concatenate(rankings), positives, ks=ks))
    # The reference states the figure over all queries for the pooled set only; ours has it everywhere.
    ours = {key: value for key, value in ours.items() if key in fixture.outputs}
    assert_all_compared(fixture, ours)


def _as_named(city: str, found: dict) -> dict:
    """Renames recall_at_5 to city/recall@5."""
    return {f"{city}/{re.sub('_at_', '@', name)}": value for name, value in found.items()}


CHECKS: dict[str, Callable[[Fixture], None]] = {"e1": check_metric_learning, "e2": check_places}
