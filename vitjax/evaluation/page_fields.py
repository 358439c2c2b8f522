"""The fields of report.html: plain dictionaries from the name of a field to a function that fills it.

A field of your own is one entry, `SECTIONS["Queries without a match"] = count_unmatched`, or an argument of a
run, `eval.evaluate(config, workdir, sections={"Queries without a match": count_unmatched})`. The function is
called with the `Ranking` (both orders, and its `run`: config, queries, gallery, truth) and with what
results.json holds. It returns text, a dictionary of names and values, or rows of a table, the first of which
is its header; None leaves the field out. The page shows it as text, whatever it contains.
"""

from collections.abc import Mapping
from typing import Any

from vitjax.config import ModelConfig, blocks_of
from vitjax.evaluation.search_run import PageField, Ranking


def fill(fields: Mapping[str, PageField], ranking: Ranking, results: dict[str, Any]) -> dict[str, Any]:
    """Contents of the fields by name; fields that return None are left out."""
    said = {name: field(ranking, results) for name, field in fields.items()}
    return {name: content for name, content in said.items() if content is not None}


def tokens(ranking: Ranking, results: dict[str, Any]) -> str:
    """Which tokens are matched."""
    del results
    rows, columns = ranking.run.reranker.token_grid
    return f"{_name_tokens(ranking.run.config.model)}, {rows} x {columns}"


def _name_tokens(model: ModelConfig) -> str:
    blocks = blocks_of(model)
    block = "the last block" if blocks == (-1,) else f"block {', '.join(map(str, blocks))}"
    where = f"after {block}" if model.facet == "token" else f"the {model.facet} of {block}'s attention"
    return where if model.smooth == 1 else f"{where}, averaged over {model.smooth} x {model.smooth}"


def _of_rule(name: str) -> PageField:
    return lambda ranking, results: getattr(ranking.run.config.rerank, name)


SETTINGS: dict[str, PageField] = {
    "model": lambda ranking, results: ranking.run.config.model.name,
    "weights": lambda ranking, results: results["weights"]["source"].partition("#")[0],
    "tokens": tokens,
    "centre": lambda ranking, results: ranking.run.config.model.center,
    "method": _of_rule("method"),
    "marginals": _of_rule("marginals"),
    "epsilon": _of_rule("epsilon"),
    "mass": _of_rule("mass"),
    "price": lambda ranking, results: ranking.run.config.rerank.price or None,
    "tau": _of_rule("tau"),
    "weight of the pooled cosine": _of_rule("weight"),
    "iterations": _of_rule("iterations"),
    "largest marginal error": lambda ranking, results: (
        f"{results['transport']['largest_marginal_error']:.1e}"
    ),
}
SECTIONS: dict[str, PageField] = {}
