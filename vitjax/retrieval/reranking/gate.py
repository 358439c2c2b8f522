"""When to rerank: learned on queries whose relevant images are known, used on others.

Reranking improves some queries and worsens others. Signals that need no ground truth tell some of them apart:
the margin of the pooled search, how much better the new first candidate matches than the old one, how sharp
its plan is. A gate keeps the order of the pooled search where the signal is below a threshold. It is learned
on a hold-out of the queries, together with the weight of the pooled cosine; nothing is matched again.

Source: no paper; "never worse than the search on the queries it was learned on" holds because never to rerank
is among the choices.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vitjax.config import RerankConfig
from vitjax.config.field_types import is_number
from vitjax.errors import UserError
from vitjax.retrieval.descriptor_set import DescriptorSet
from vitjax.retrieval.explanation.matches import match_pairs
from vitjax.retrieval.reranking.rerank_candidates import Reranked, reweighed
from vitjax.system.files import RepeatedName, parse_json, read_text

SIGNALS = ("margin", "gain", "accuracy", "sharpness")
ALWAYS, NEVER = "always", "never"
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
Sharpness = Callable[[Reranked], Float[np.ndarray, " q"]]


@dataclass(frozen=True, slots=True)
class Gate:
    """Which queries are reranked, and with which weight of the pooled cosine.

    Attributes:
        signal: "always", "never", or what a query is gated by, one of `SIGNALS`: "margin", pooled cosine of
            the second candidate minus that of the first, at most 0 and near it for a close call; "gain",
            structural score of the new first minus that of the old first; "accuracy", minus the marginal
            error of the new first; "sharpness" of its plan, see `plan_sharpness`.
        threshold: queries are reranked whose signal is at least this; a signal that is not finite never is.
        weight: of the pooled cosine, `RerankConfig.weight`.
    """

    signal: str = ALWAYS
    threshold: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.signal == "doubt":  # also in files of the version before
            warnings.warn("the gate's signal 'doubt' is 'margin' now", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "signal", "margin")
        known = (ALWAYS, NEVER, *SIGNALS)
        numbers = is_number(self.threshold) and is_number(self.weight)
        if self.signal not in known or not (numbers and self.weight >= 0):
            raise UserError(
                f"Gate: signal {self.signal!r}, threshold {self.threshold}, weight {self.weight}; expected "
                f"one of {', '.join(map(repr, known))}, a number, and a number of at least 0"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Gate":
        """The gate of a JSON file: the results.json of a run that learned one, or a gate's fields alone.

        Raises:
            ValueError: there is no such file, or it holds something else.
        """
        try:
            text = read_text(path)
        except ValueError as error:
            raise UserError(f"gate {error}; give the results.json of a run that learned one") from None
        try:
            data = parse_json(text)
            data = data.get("gate", data)
            return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})
        except RepeatedName as error:
            raise UserError(f"gate {path}: {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f'gate {path}: expected JSON like {{"signal": "gain", "threshold": 0.02, "weight": 0.25}}'
            ) from None

    @classmethod
    def read_beside(cls, path: str | os.PathLike[str]) -> "Gate | None":
        """The gate in a file of `Acceptance`, if it has one."""
        data = parse_json(read_text(path))
        return cls.read(path) if isinstance(data, dict) and "gate" in data else None

    def open(
        self,
        before: Int[np.ndarray, "q k"],
        after: Reranked,
        config: RerankConfig,
        *,
        sharpness: Sharpness | None = None,
    ) -> tuple[Reranked, Bool[np.ndarray, " q"]]:
        """Takes the new order of some queries, and the old order of the others.

        Args:
            before: the ranking that was reranked.
            after: what `rerank` made of it, with any weight.
            config: the one given to `rerank`.
            sharpness: of the plans of the first candidates; needed for the signal "sharpness" only.

        Returns:
            The result, with this gate's weight, in whose closed rows everything is in the order of `before`
            and the score is the pooled cosine; and which queries were reranked.
        """
        new = reweighed(after, before, dataclasses.replace(config, weight=self.weight))
        if self.signal in (ALWAYS, NEVER):
            opened = np.full(len(before), self.signal == ALWAYS)
        else:
            wanted = sharpness if self.signal == "sharpness" else None  # the one signal that costs a matching
            opened = _signals(before, new, wanted)[self.signal] >= self.threshold
        old = new.in_order_of(before)
        old = dataclasses.replace(old, score=np.where(before >= 0, old.pooled, -np.inf).astype(np.float32))
        pick = {
            field.name: np.where(opened[:, None], getattr(new, field.name), getattr(old, field.name))
            for field in dataclasses.fields(Reranked)
        }
        return Reranked(**pick), opened


class Calibration(NamedTuple):
    """What a gate does on some queries; shares of them with a relevant image at rank 1.

    Attributes:
        queries: how many.
        base: without reranking.
        always: all reranked, with the config's weight.
        gated: with the gate and its weight.
        reranked: share of the queries that the gate lets through.
    """

    queries: int
    base: float
    always: float
    gated: float
    reranked: float


class _Choice(NamedTuple):
    gate: Gate
    hits: Bool[np.ndarray, " q"]


def calibrate_gate(
    before: Int[np.ndarray, "q k"],
    after: Reranked,
    relevant: Bool[np.ndarray, "q k"],
    config: RerankConfig,
    *,
    weights: Sequence[float] = WEIGHTS,
    sharpness: Sharpness | None = None,
) -> Gate:
    """Finds when to rerank and how much the pooled cosine counts, on queries whose relevant images are known.

    Every weight and every threshold of every signal is tried, beside always and never. Choices worse than
    never are dropped, so on these queries the result is never worse than the base order. Of those within one
    standard error of the best (of the paired difference, over queries) the simplest is taken: always with the
    config's weight, never, always with another, a threshold; so that little data moves little.

    Args:
        before: the ranking that was reranked.
        after: what `rerank` made of it.
        relevant: which candidates of `before` are relevant.
        config: the one given to `rerank`.
        weights: of the pooled cosine, tried beside the config's.
        sharpness: of the plans of the first candidates of an order, see `plan_sharpness`; None: not tried.

    Raises:
        ValueError: no query, or shapes that do not fit together.
    """
    if (
        before.ndim != 2
        or not before.size
        or relevant.shape != before.shape
        or after.index.shape != before.shape
    ):
        raise UserError(
            f"calibrate_gate: ranking {before.shape}, reranked {after.index.shape}, relevant "
            f"{relevant.shape}; expected one shape (queries, candidates) with at least one of each"
        )
    choices = list(_choices(before, after, relevant, config, weights, sharpness))
    base = relevant[:, 0].mean()
    fair = [choice for choice in choices if choice.hits.mean() >= base]
    best = max(fair, key=lambda choice: choice.hits.mean()).hits
    for gate, hits in fair:
        short = best.astype(float) - hits
        if short.mean() <= short.std() / np.sqrt(len(short)):
            return gate
    raise AssertionError("the best is within a standard error of itself")


def judge_gate(
    gate: Gate,
    before: Int[np.ndarray, "q k"],
    after: Reranked,
    relevant: Bool[np.ndarray, "q k"],
    config: RerankConfig,
    *,
    sharpness: Sharpness | None = None,
) -> Calibration:
    """What a gate does on queries whose relevant images are known; arguments as of `calibrate_gate`."""
    result, opened = gate.open(before, after, config, sharpness=sharpness)
    always = reweighed(after, before, config)
    return Calibration(
        queries=len(before),
        base=float(relevant[:, 0].mean()),
        always=float(_hits(before, always, relevant).mean()),
        gated=float(_hits(before, result, relevant).mean()),
        reranked=float(opened.mean()),
    )


def plan_sharpness(
    queries: DescriptorSet,
    gallery: DescriptorSet,
    found: Reranked,
    config: RerankConfig,
) -> Float[np.ndarray, " q"]:
    """Share of the moved mass on the strongest patch pairs of each query's first candidate.

    As many pairs as the query has tokens: 1 where every patch has one partner, 1 / tokens where mass is
    spread evenly. NaN where the first candidate was not matched.

    Args:
        queries: as given to `rerank`.
        gallery: likewise.
        found: an order of theirs.
        config: the one given to `rerank`.
    """
    rows = np.asarray(found.index[:, 0])
    mass = np.where(rows >= 0, found.mass[:, 0], np.nan)
    matched = match_pairs(
        queries, gallery, np.arange(len(rows)), np.maximum(rows, 0), config=config, top=queries.sizes.tokens
    )
    return matched.mass.sum(axis=1) / np.where(mass > 0, mass, np.nan)


def _choices(
    before: np.ndarray,
    after: Reranked,
    relevant: np.ndarray,
    config: RerankConfig,
    weights: Sequence[float],
    sharpness: Sharpness | None,
) -> Iterator[_Choice]:
    """All choices, the simplest first; those of one kind by how little their weight differs."""
    own = float(config.weight)
    tried = sorted(
        {own, *map(float, weights)}, key=lambda weight: abs(np.log((weight + 0.05) / (own + 0.05)))
    )
    orders = {w: reweighed(after, before, dataclasses.replace(config, weight=w)) for w in tried}
    hits = {weight: _hits(before, order, relevant) for weight, order in orders.items()}
    base = relevant[:, 0]
    yield _Choice(Gate(ALWAYS, 0.0, own), hits[own])
    yield _Choice(Gate(NEVER, 0.0, own), base)
    yield from (_Choice(Gate(ALWAYS, 0.0, weight), hits[weight]) for weight in tried[1:])
    for weight in tried:
        for name, signal in _signals(before, orders[weight], sharpness).items():
            threshold = _best_threshold(signal, hits[weight].astype(int) - base)
            if threshold is not None:
                opened = signal >= threshold
                yield _Choice(Gate(name, threshold, weight), np.where(opened, hits[weight], base))


def _best_threshold(signal: np.ndarray, gain: np.ndarray) -> float | None:
    """Between two values of the signal, such that the queries above it gain most; None without two values.

    Of several such thresholds the middle one.
    """
    order = np.argsort(-signal, kind="stable")
    ranked = signal[order]
    cuts = np.flatnonzero((ranked[:-1] > ranked[1:]) & np.isfinite(ranked[:-1]))
    if not cuts.size:
        return None
    total = np.cumsum(gain[order])[cuts]
    best = cuts[total == total.max()]
    cut = best[len(best) // 2]
    below = ranked[cut + 1] if np.isfinite(ranked[cut + 1]) else ranked[cut]
    # The middle of two neighbouring numbers may round to the lower one.
    return float(ranked[cut] if (middle := (ranked[cut] + below) / 2) <= below else middle)


def _signals(
    before: np.ndarray, new: Reranked, sharpness: Sharpness | None
) -> dict[str, Float[np.ndarray, " q"]]:
    """A gate's signal of each query, which needs no ground truth; -inf where it is not finite; float64."""
    old = new.in_order_of(before)
    second = old.pooled[:, 1] if before.shape[1] > 1 else np.full(len(before), np.nan)
    found = {
        "margin": second.astype(float) - old.pooled[:, 0],
        "gain": new.structural[:, 0].astype(float) - old.structural[:, 0],
        "accuracy": -new.error[:, 0].astype(float),
    }
    if sharpness is not None:
        found["sharpness"] = np.asarray(sharpness(new), float)
    return {name: np.where(np.isfinite(value), value, -np.inf) for name, value in found.items()}


def _hits(before: np.ndarray, found: Reranked, relevant: np.ndarray) -> Bool[np.ndarray, " q"]:
    """Whether the first candidate of an order is relevant."""
    first = before == found.index[:, :1]
    return (first & relevant & (before >= 0)).any(axis=1)
