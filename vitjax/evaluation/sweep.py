"""Several ways to rerank from one line: `rerank.tau=0.7,0.83 rerank.epsilon=0.02,0.05`, all combinations."""

import dataclasses
import itertools
import math
from typing import Any

from vitjax.config import MASSES, RerankConfig, validate_rerank
from vitjax.errors import UserError

MOST = 1000  # combinations: each is a reranking of all queries
_KEPT = ("held_out", "gate", "accept")  # not of a single reranking
_MEASURED = ("rollout", "keep", "learned")  # marginals that come with the descriptors


def parse_sweep(text: str, base: RerankConfig) -> list[tuple[dict[str, Any], RerankConfig]]:
    """All combinations of the values that a line names, the last field changing fastest.

    >>> [chosen for chosen, _ in parse_sweep("rerank.top_k=5 rerank.mass=.5,auto", RerankConfig())]
    [{'rerank.top_k': 5, 'rerank.mass': 0.5}, {'rerank.top_k': 5, 'rerank.mass': 'auto'}]

    Args:
        text: fields with their values after =, commas between values, spaces between fields; empty = nothing.
        base: what holds for all other fields.

    Returns:
        what was chosen, and the rule it gives, for each combination.

    Raises:
        ValueError: no such field, a value of another kind, more than `MOST` combinations, or one that is out
            of range.
    """
    if not text.strip():
        return []
    kinds = {f"rerank.{f.name}": f.type for f in dataclasses.fields(base) if f.name not in _KEPT}
    choices: dict[str, list[Any]] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if name not in kinds or not equals or name in choices:
            raise UserError(
                f"config.sweep: {part!r} is not FIELD=VALUE,VALUE with a field of its own among "
                f"{', '.join(kinds)}"
            )
        choices[name] = [_value(name, kinds[name], word) for word in values.split(",")]
    if (count := math.prod(map(len, choices.values()))) > MOST:
        raise UserError(f"config.sweep: {count:,} combinations; give at most {MOST:,}, or several sweeps")
    found = []
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        rule = dataclasses.replace(base, **{name.partition(".")[2]: value for name, value in chosen.items()})
        try:
            validate_rerank(rule)
        except ValueError as error:
            raise UserError(f"config.sweep, {chosen}: {error}") from None
        if rule.marginals in _MEASURED and rule.marginals != base.marginals:
            raise UserError(
                f"config.sweep: {rule.marginals!r} is measured while images are described; "
                f"also set --config.rerank.marginals={rule.marginals}"
            )
        found.append((chosen, rule))
    return found


def _value(name: str, kind: Any, word: str) -> Any:
    if kind is str:
        return word
    try:
        return int(word) if kind is int else float(word)
    except ValueError:
        if kind is int or kind is float:
            raise UserError(f"config.sweep: {name} is {word!r}; expected a number") from None
        if word not in MASSES:
            known = " or ".join(map(repr, MASSES))
            raise UserError(f"config.sweep: {name} is {word!r}; expected a number, or {known}") from None
        return word
