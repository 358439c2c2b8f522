"""`vitjax threshold RUN`: from which score on a first hit is an answer, learned on a finished run.

Reads run.trec and qrels.trec of a run with known relevant images, and writes beside them accept.json, which
`config.rerank.accept` and `Reranker.rank(accept=)` load, and accept.svg: the scores of relevant and of other
first hits, with the threshold. The queries must be of the kind that will be asked.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vitjax.errors import UserError
from vitjax.retrieval.reranking.accept import Acceptance, candidate_spread, clopper_pearson, margin
from vitjax.system.files import parse_json, read_text, replacing

BINS = 40
_WIDTH, _HEIGHT, _EDGE = 640, 240, 30  # of the figure


class Hits(NamedTuple):
    """Scores of the candidates of q queries, falling, and which are relevant; both (q, k), padded by -inf."""

    score: Float[np.ndarray, "q k"]
    relevant: Bool[np.ndarray, "q k"]


def main(argv: Sequence[str] | None = None) -> int:
    """Learns and writes a threshold; returns the exit code."""
    parser = argparse.ArgumentParser("vitjax threshold", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="workdir of a finished run")
    parser.add_argument("--alpha", type=float, default=0.1, help="share of accepted hits that may be wrong")
    parser.add_argument("--delta", type=float, default=0.1, help="probability that more are")
    parser.add_argument("--signal", choices=("score", "margin"), default="score")
    args = parser.parse_args(argv)
    try:
        print(*learn(args.run, args.signal, args.alpha, args.delta), sep="\n")
    except UserError as error:
        parser.exit(1, f"vitjax threshold: {error}\n")
    return 0


def learn(run: pathlib.Path, signal: str, alpha: float, delta: float) -> list[str]:
    """Writes accept.json and accept.svg into the workdir of a run, and returns what to say of them."""
    hits = read_hits(run)
    value = margin(hits.score) if signal == "margin" else hits.score[:, 0]
    wrong = ~hits.relevant[:, 0]
    found = Acceptance.learn(value, wrong, name=signal, alpha=alpha, delta=delta)
    found = dataclasses.replace(found, spread=candidate_spread(*hits, alpha))
    results, beside = run / "results.json", {}
    if results.exists() and (gate := parse_json(read_text(results)).get("gate")):
        beside["gate"] = gate  # one file: when the new order is taken, and when it is an answer
    found.write(run / "accept.json", **beside)
    with replacing(run / "accept.svg") as file:
        file.write(draw(value, wrong, found.threshold, signal))
    accepted = value >= found.threshold
    if not accepted.any():
        return [
            f"no {signal} proves that at most {alpha:.0%} of the accepted hits are wrong, on {len(value)} "
            "queries; nothing will be accepted",
            f"wrote {run / 'accept.json'} and accept.svg",
        ]
    low, high = clopper_pearson(int(wrong[accepted].sum()), int(accepted.sum()))
    return [
        f"{signal} of at least {found.threshold:.4g}: {accepted.mean():.0%} of {len(value)} queries are "
        f"accepted, {wrong[accepted].mean():.1%} of these wrong (95 % interval {low:.1%} to {high:.1%}); "
        f"without a threshold {wrong.mean():.1%}",
        f"wrote {run / 'accept.json'} and accept.svg",
    ]


def read_hits(run: pathlib.Path) -> Hits:
    """The ranking of a run and its relevant images; raises UserError where there are none."""
    relevant: dict[str, set[str]] = {}
    for line in _lines(run / "qrels.trec"):
        query, _, image, _ = line.split()
        relevant.setdefault(query, set()).add(image)
    rows: dict[str, list[tuple[float, bool]]] = {}
    for line in _lines(run / "run.trec"):
        query, _, image, _, score, _ = line.split()
        rows.setdefault(query, []).append((float(score), image in relevant.get(query, ())))
    if not rows:
        raise UserError(f"{run / 'run.trec'} lists no hit")
    width = max(map(len, rows.values()))
    score, right = np.full((len(rows), width), -np.inf), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows.values()):
        score[i, : len(row)], right[i, : len(row)] = zip(*row, strict=True)
    return Hits(score, right)


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except ValueError as error:
        raise UserError(f"{error}; give the workdir of a run with known relevant images") from None


def draw(value: Float[np.ndarray, " q"], wrong: Bool[np.ndarray, " q"], threshold: float, signal: str) -> str:
    """Two histograms, relevant first hits upwards and the others downwards, as SVG."""
    real = value[np.isfinite(value)]
    low, high = (real.min(), real.max()) if len(real) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = [np.histogram(value[np.isfinite(value) & side], edges)[0] for side in (~wrong, wrong)]
    unit = (_HEIGHT / 2 - _EDGE) / max(int(np.max(counts)), 1)
    step, middle = (_WIDTH - 2 * _EDGE) / BINS, _HEIGHT / 2
    bars = []
    for side, (colour, count) in enumerate(zip(("#2a7", "#c53"), counts, strict=True)):
        for i, n in enumerate(count):
            top = middle if side else middle - n * unit
            bars.append(
                f'<rect x="{_EDGE + i * step:.1f}" y="{top:.1f}" width="{step - 1:.1f}" '
                f'height="{n * unit:.1f}" fill="{colour}"/>'
            )
    line = ""
    if math.isfinite(threshold):
        x = _EDGE + (threshold - edges[0]) / (edges[-1] - edges[0]) * (_WIDTH - 2 * _EDGE)
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_EDGE / 2}" y2="{_HEIGHT - _EDGE}" stroke="#000"/>'
    words = (
        f'<text x="{_EDGE}" y="14">first hits: relevant above, others below; line: accepted from here</text>'
        f'<text x="{_EDGE}" y="{_HEIGHT - 8}">{signal} {edges[0]:.3g}</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 8}" text-anchor="end">{edges[-1]:.3g}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif" font-size="11">{"".join(bars)}{line}{words}</svg>\n'
    )


if __name__ == "__main__":
    raise SystemExit(main())
