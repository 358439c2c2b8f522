"""When a first hit is taken for an answer: accepted, or "no match", with a proven share of wrong answers.

A threshold is learned on queries whose relevant images are known: of the hits that it accepts, at most a
share `alpha` is wrong, with probability 1 - `delta` over the draw of those queries, whatever the scores are
like (Learn then Test, Angelopoulos et al. 2021; exact binomial bounds). It holds for queries drawn as those
were. A set of candidates that holds a relevant one for a share 1 - `alpha` of the queries comes from split
conformal prediction (Vovk et al. 2005).
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from vitjax.config import RerankConfig
from vitjax.config.field_types import is_number
from vitjax.errors import UserError
from vitjax.retrieval.reranking.gate import plan_sharpness
from vitjax.retrieval.reranking.rerank_candidates import Reranked, rerank
from vitjax.retrieval.reranking.then import Shortlist
from vitjax.system.files import RepeatedName, parse_json, read_text, replacing

GRID = 50  # thresholds that are tried: quantiles of the scores, so they do not look at what is wrong
NOTHING = math.inf  # threshold that accepts nothing


class Counts(NamedTuple):
    """What thresholds accept: `n` hits of which `k` are wrong, (t,) each."""

    n: Int[np.ndarray, " t"]
    k: Int[np.ndarray, " t"]


def count(
    score: Float[np.ndarray, " q"], wrong: Bool[np.ndarray, " q"], grid: Float[np.ndarray, " t"]
) -> Counts:
    """Counts the hits with a score of at least each threshold."""
    accepted = np.asarray(score)[None, :] >= np.asarray(grid)[:, None]
    return Counts(accepted.sum(axis=1), (accepted & np.asarray(wrong, bool)[None, :]).sum(axis=1))


def p_values(counts: Counts, alpha: float) -> Float64[np.ndarray, " t"]:
    """P[Binomial(n, alpha) <= k]: how surprising so few wrong ones are if their true share is above alpha."""
    from scipy import stats  # takes longer than all else that a start imports

    return np.where(counts.n > 0, stats.binom.cdf(counts.k, np.maximum(counts.n, 1), alpha), 1.0)


def upper_bounds(counts: Counts, delta: float) -> Float64[np.ndarray, " t"]:
    """The true share is below this with probability 1 - delta (Clopper and Pearson 1934, one-sided)."""
    from scipy import stats

    n, k = counts
    inside = stats.beta.ppf(1 - delta, np.minimum(k, n - 1) + 1, np.maximum(n - k, 1))
    return np.where(k < n, inside, 1.0)


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a share, k of n."""
    from scipy import stats

    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    return float(low), float(high)


def least_accepted(alpha: float, delta: float) -> int:
    """How many hits without a wrong one are needed to prove anything."""
    return math.ceil(math.log(delta) / math.log(1 - alpha))


def fixed_sequence(
    grid: Float[np.ndarray, " t"], counts: Counts, alpha: float, delta: float, *, start: int | None = None
) -> float:
    """The last threshold of a falling grid up to which every one is proven; infinite where none is.

    Args:
        grid: falling.
        counts: of its thresholds.
        alpha: share of wrong hits that is allowed.
        delta: probability that the promise is broken.
        start: where in the grid to begin; None: at the first that accepts `least_accepted` hits, which looks
            at scores but not at what is wrong.
    """
    proven = p_values(counts, alpha) <= delta
    if start is None:
        start = int(np.argmax(np.append(counts.n >= least_accepted(alpha, delta), True)))
    rest = proven[start:]
    passed = int(np.argmin(np.append(rest, False)))
    return float(grid[start + passed - 1]) if passed else NOTHING


def bonferroni(grid: Float[np.ndarray, " t"], counts: Counts, alpha: float, delta: float) -> float:
    """The smallest threshold that is proven at delta / t, in any order."""
    proven = np.asarray(grid)[p_values(counts, alpha) <= delta / len(grid)]
    return float(proven.min()) if len(proven) else NOTHING


def holm(grid: Float[np.ndarray, " t"], counts: Counts, alpha: float, delta: float) -> float:
    """The smallest threshold that Holm's step-down test proves."""
    p = p_values(counts, alpha)
    order = np.argsort(p, kind="stable")
    passed = p[order] <= delta / (len(p) - np.arange(len(p)))
    proven = np.asarray(grid)[order[: int(np.argmin(np.append(passed, False)))]]
    return float(proven.min()) if len(proven) else NOTHING


def conformal_quantile(residual: Float[np.ndarray, " q"], alpha: float) -> float:
    """A new residual is at most this with probability 1 - alpha; infinite where there are too few.

    The ceil((q + 1) (1 - alpha))-th smallest: split conformal prediction.
    """
    rank = conformal_rank(len(residual), alpha)
    return float(np.sort(residual)[rank - 1]) if rank <= len(residual) else math.inf


def conformal_rank(count: int, alpha: float) -> int:
    """Which of so many residuals, from 1, in rising order."""
    # Rounded first: (count + 1) * (1 - alpha) may end a hair above a whole number.
    return math.ceil(round((count + 1) * (1 - alpha), 9))


def by_score(shortlist: Shortlist, found: Reranked) -> np.ndarray:
    """The score of the first candidate."""
    del shortlist
    return found.score[:, 0]


def margin(score: Float[np.ndarray, "q k"]) -> Float[np.ndarray, " q"]:
    """First score of a row minus the second; infinite where there is no second."""
    if score.shape[1] < 2:
        return np.full(len(score), np.inf)
    return score[:, 0] - score[:, 1]


def by_margin(shortlist: Shortlist, found: Reranked) -> np.ndarray:
    """How much better the first candidate scores than the second; infinite where there is no second."""
    del shortlist
    return margin(found.score)


def by_mutual(shortlist: Shortlist, found: Reranked) -> np.ndarray:
    """Share of both images in mutual nearest neighbours of the first candidate's tokens."""
    rule = RerankConfig(method="mutual", marginals=shortlist.config.marginals, top_k=1)
    first = np.asarray(found.index)[:, :1]
    return rerank(shortlist.queries, shortlist.gallery, first, config=rule).structural[:, 0]  # pyright: ignore[reportArgumentType]


def by_sharpness(shortlist: Shortlist, found: Reranked) -> np.ndarray:
    """How concentrated the plan of the first candidate is, see `plan_sharpness`."""
    return plan_sharpness(shortlist.queries, shortlist.gallery, found, shortlist.config)


SIGNALS: dict[str, Callable[[Shortlist, Reranked], np.ndarray]] = {
    "score": by_score,
    "margin": by_margin,
    "mutual": by_mutual,
    "sharpness": by_sharpness,
}


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Which first hits are answers.

    Attributes:
        signal: of `SIGNALS`: what a hit is judged by.
        threshold: accepted are hits whose signal is at least this; infinite: none.
        alpha: the promise: of accepted hits at most this share is wrong,
        delta: but for this probability.
        spread: candidates that score at most this below the first are the candidate set, which holds a
            relevant one for a share 1 - alpha of the queries that have one.
    """

    signal: str = "score"
    threshold: float = -math.inf
    alpha: float = 0.1
    delta: float = 0.1
    spread: float = math.inf

    def __post_init__(self) -> None:
        numbers = all(is_number(x) or abs(x) == math.inf for x in (self.threshold, self.spread))
        if self.signal not in SIGNALS or not (numbers and 0 < self.alpha < 1 and 0 < self.delta < 1):
            raise UserError(
                f"Acceptance: signal {self.signal!r}, threshold {self.threshold}, alpha {self.alpha}, delta "
                f"{self.delta}; expected one of {', '.join(SIGNALS)}, a number, and two shares in (0, 1)"
            )

    @classmethod
    def learn(
        cls,
        signal: Float[np.ndarray, " q"],
        wrong: Bool[np.ndarray, " q"],
        *,
        name: str = "score",
        alpha: float = 0.1,
        delta: float = 0.1,
    ) -> "Acceptance":
        """The lowest threshold that is proven, by fixed sequence over quantiles of the signal.

        Args:
            signal: of the first hits of queries that were drawn like those it will be used on.
            wrong: whether each hit is wrong.
            name: of the signal.
            alpha: share of wrong hits that is allowed among accepted ones.
            delta: probability that more are.
        """
        score = np.nan_to_num(np.asarray(signal, np.float64), nan=-np.inf, neginf=-np.inf)
        real = score[np.isfinite(score)]
        if not len(real):
            return cls(name, NOTHING, alpha, delta)
        grid = np.unique(np.quantile(real, np.linspace(0, 1, GRID), method="lower"))[::-1]
        return cls(name, fixed_sequence(grid, count(score, wrong, grid), alpha, delta), alpha, delta)

    def accepted(self, shortlist: Shortlist, found: Reranked) -> Bool[np.ndarray, " q"]:
        """Which queries have an answer: their first hit."""
        there = np.asarray(found.index)[:, 0] >= 0
        return there & (SIGNALS[self.signal](shortlist, found) >= self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a file; infinite numbers are texts there."""
        fields = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in fields.items()}

    def write(self, path: str | os.PathLike[str], **beside: Any) -> None:
        """Writes the file that `read` reads, whole or not at all, with further entries beside `accept`."""
        with replacing(path) as file:
            json.dump({"accept": self.to_dict(), **beside}, file, indent=1)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Acceptance":
        """Reads the `accept` of a JSON file, as `vitjax threshold` writes it.

        Raises:
            ValueError: there is no such file, or it holds something else.
        """
        try:
            data = parse_json(read_text(path))["accept"]
            numbers = {k: float(data[k]) for k in ("threshold", "alpha", "delta", "spread")}
            return cls(signal=data["signal"], **numbers)
        except RepeatedName as error:
            raise UserError(f"accept {path}: {error}") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'accept {os.fspath(path)}: cannot be read, or holds no "accept"; give the file that '
                "`vitjax threshold RUN` wrote"
            ) from None


def candidate_spread(
    score: Float[np.ndarray, "q k"], relevant: Bool[np.ndarray, "q k"], alpha: float
) -> float:
    """How far below the first score a set of candidates must reach, see `Acceptance.spread`.

    Args:
        score: of the candidates, falling along a row; queries without a relevant candidate are left out.
        relevant: which of them are relevant.
        alpha: share of the queries whose set may hold none.
    """
    some = relevant.any(axis=1)
    best = np.take_along_axis(score, relevant.argmax(axis=1)[:, None], axis=1)[:, 0]
    return conformal_quantile((score[:, 0] - best)[some], alpha)
