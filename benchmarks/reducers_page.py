r"""The table of `benchmarks.reducers` as one page of curves, a file without anything outside it.

    python -m benchmarks.reducers_page TABLE.csv PAGE.html

A panel for each task and set of photos and each model: the metric against multiply-accumulates, and against
measured images/s where the table has them. Every curve starts at the dense model and ends with its name.
"""

import argparse
import html
import pathlib
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.reducers import ALWAYS, Row, read
from vitjax.cli import flags
from vitjax.errors import UserError
from vitjax.sparsify.reducers import REDUCERS
from vitjax.system.files import replacing

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 44, 116, 12, 40  # margins: names stand in the right one
GAP = 13  # between two names, pixels
SHORT = {
    "top_1": "top-1 accuracy", "recall_at_1": "recall@1", "precision_at_1": "precision@1",
    "right_cell": "patches sent to their true patch", "mean_iou": "mean IoU",
}  # fmt: skip
TITLES = {
    "classify": "Classify", "retrieve": "Retrieve", "rerank": "Rerank", "correspond": "Correspond",
    "segment": "Segment",
}  # fmt: skip
# ImageNet top-1 in percent, dense and reduced, share of the dense GMACs, as the authors' pages state them.
PUBLISHED = (
    ("ToMe, r = 13, not trained", "ViT-S/16 augreg", 81.41, 79.30, None),
    ("ToMe, r = 13, trained", "DeiT-S", 79.8, 79.36, None),
    ("DynamicViT, .7, 30 epochs", "DeiT-S", 79.8, 79.3, 2.9 / 4.6),
    ("DiffRate, rates learned in 3 epochs", "DeiT-S", 79.8, 79.54, 2.9 / 4.6),
    ("MCTF, 30 epochs", "DeiT-S", 79.8, 80.1, 2.6 / 4.6),
)


class Axis(NamedTuple):
    """What stands below the panels: its title, and where a row lies."""

    title: str
    of: Callable[[Row], float]
    text: Callable[[float], str]


AXES = (
    Axis(
        "multiply-accumulates, share of the dense model's", lambda row: row.macs_share, lambda x: f"{x:.0%}"
    ),
    Axis(
        "images/s at batch 32, in units of the dense model's",
        lambda row: row.speed_up_32,
        lambda x: f"{x:g}x",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("table", type=pathlib.Path, help="csv of benchmarks.reducers")
    parser.add_argument("page", type=pathlib.Path, help="HTML file to write")
    args = parser.parse_args(argv)
    with args.table.open(newline="", encoding="utf-8") as file:
        rows = list(read(file))
    if not rows:
        raise UserError(f"{args.table} has no rows")
    with replacing(args.page, "w") as file:
        file.write(page(rows))


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    measured = [row for row in rows if row.speed_up_32]
    parts = [*_section(rows, AXES[0]), *(_section(measured, AXES[1]) if measured else ())]
    models = ", ".join(dict.fromkeys(row.model for row in rows))
    count = len({row.reducer for row in rows})
    shell = string.Template(pathlib.Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return shell.substitute(
        models=html.escape(models), count=count, parts="\n".join(parts), table=_published(rows)
    )


def _section(rows: Sequence[Row], axis: Axis) -> Iterator[str]:
    yield f"<h2>Against {html.escape(axis.title.partition(',')[0])}</h2>"
    for task, images in dict.fromkeys((row.task, row.images) for row in rows):
        own = [row for row in rows if (row.task, row.images) == (task, images)]
        metric = SHORT.get(own[0].metric, own[0].metric)
        yield f"<h3>{TITLES[task]}: {html.escape(images)} <small>{metric}, n = {own[0].count}</small></h3>"
        yield '<div class="panels">'
        for model in dict.fromkeys(row.model for row in rows):
            if mine := [row for row in own if row.model == model]:
                yield _figure(model, mine, axis)
        yield "</div>"


def _figure(model: str, rows: Sequence[Row], axis: Axis) -> str:
    dense = next((row for row in rows if row.reducer == "dense"), None)
    curves: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: abs(axis.of(row) - 1)):
        curves.setdefault(row.reducer, [dense] if dense and row.reducer != "dense" else []).append(row)
    shown = [axis.of(row) for row in rows]
    ends = min(*shown, 1.0), max(*shown, 1.0)
    values = [x for row in rows for x in ((row.low, row.high) if row.reducer == "dense" else (row.value,))]
    floor, top = _rounded(min(values), max(values))
    inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = (ends[1] - ends[0]) or 1.0

    def at(row: Row) -> tuple[float, float]:
        share = (axis.of(row) - ends[0]) / span
        share = 1 - share if axis is AXES[0] else share  # what costs less lies further right
        return LEFT + share * inner[0], _up(row.value, floor, top)

    parts = [*_frame(floor, top)]
    if dense:
        low, high = (_up(x, floor, top) for x in (dense.low, dense.high))
        parts.append(
            f'<rect class="band" x="{LEFT}" y="{high:.1f}" width="{inner[0]}" height="{low - high:.1f}"/>'
        )
    for reducer, own in curves.items():
        points = [at(row) for row in own]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{_told(row)}</title></circle>'
            for row, (x, y) in zip(own, points, strict=True)
            if row.reducer == reducer
        )
        parts.append(f'<g class="{family(reducer)}"><polyline points="{line}"/>{dots}</g>')
    parts += _names({name: at(own[-1]) for name, own in curves.items()})
    left, right = (ends[1], ends[0]) if axis is AXES[0] else ends
    for x, value, anchor in ((LEFT, left, "start"), (LEFT + inner[0], right, "end")):
        parts.append(f'<text x="{x}" y="{HEIGHT - 22}" text-anchor="{anchor}">{axis.text(value)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}" class="soft">{html.escape(axis.title)}</text>')
    inside = "".join(parts)
    return (
        f'<figure><figcaption>{html.escape(model)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{html.escape(model)}">{inside}</svg></figure>'
    )


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Ends of the upright axis at whole steps around the values."""
    step = _step(high - low)
    return max(0.0, low // step * step), min(1.0, -(-high // step) * step) if high < 1 else 1.0


def _step(length: float) -> float:
    return next((step for step in (0.01, 0.02, 0.05, 0.1) if length / step <= 6), 0.2)


def _up(value: float, floor: float, top: float) -> float:
    return HEIGHT - BOTTOM - (value - floor) / ((top - floor) or 1.0) * (HEIGHT - TOP - BOTTOM)


def _frame(floor: float, top: float) -> Iterator[str]:
    step = _step(top - floor)
    for i in range(round((top - floor) / step) + 1):
        value = floor + i * step
        y = _up(value, floor, top)
        yield f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.0f}</text>'


def _names(ends: dict[str, tuple[float, float]]) -> Iterator[str]:
    """The name of each curve beside its end, moved apart where they would overlap."""
    order = sorted(ends, key=lambda name: ends[name][1])
    heights = spread([ends[name][1] for name in order], GAP, TOP, HEIGHT - BOTTOM)
    for name, height in zip(order, heights, strict=True):
        x, y = ends[name]
        column = WIDTH - RIGHT + 20
        yield f'<path class="leader" d="M{x + 5:.1f} {y:.1f}L{column - 4} {height:.1f}"/>'
        yield (
            f'<text class="name {family(name)}" x="{column}" y="{height + 4:.1f}">{html.escape(name)}</text>'
        )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising heights moved as little as it takes to lie `gap` apart, as far as low to high has room.

    >>> spread([10, 11, 12, 60], 10, 0, 100)
    [1.0, 11.0, 21.0, 60.0]
    """
    groups: list[list[float]] = []  # sum of heights less their offsets, and how many
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and _start(groups[-1], gap) < _start(groups[-2], gap) + gap * groups[-2][1]:
            last = groups.pop()
            groups[-1][0] += last[0]
            groups[-1][1] += last[1]
    found = [_start(group, gap) + gap * i for group in groups for i in range(int(group[1]))]
    found = [max(x, low + gap * i) for i, x in enumerate(found)]
    return [float(min(x, high - gap * (len(found) - 1 - i))) for i, x in enumerate(found)]


def _start(group: Sequence[float], gap: float) -> float:
    return group[0] / group[1] - gap * (group[1] - 1) / 2


def family(reducer: str) -> str:
    """Which colour a reducer has: baselines, methods that drop tokens, methods that merge them."""
    if reducer in ALWAYS:
        return "baseline"
    kind = REDUCERS.get(reducer)
    return "merging" if kind is not None and kind.keeps_all_patches else "pruning"


def _told(row: Row) -> str:
    return html.escape(
        f"{row.reducer}, {row.setting or row.schedule}: {100 * row.value:.1f} "
        f"[{100 * row.low:.1f}, {100 * row.high:.1f}], {row.macs_share:.0%} of MACs, {row.tokens} tokens"
    )


def _published(rows: Iterable[Row]) -> str:
    lines = [
        f"<tr><td>{html.escape(name)}<td>{html.escape(model)}, ImageNet<td>{dense:.1f}<td>{reduced:.1f}"
        f"<td>{reduced - dense:+.1f}<td>{f'{share:.0%}' if share else ''}"
        for name, model, dense, reduced, share in PUBLISHED
    ]
    whole = {row.model: row.value for row in rows if (row.reducer, row.task) == ("dense", "classify")}
    for row in rows:
        if row.task == "classify" and row.reducer in ("tome", "dynamicvit", "diffrate", "mctf"):
            dense = whole.get(row.model, float("nan"))
            lines.append(
                f"<tr class=ours><td>{row.reducer}, {row.setting}<td>{html.escape(row.model)}, {row.images}"
                f"<td>{100 * dense:.1f}<td>{100 * row.value:.1f}<td>{100 * (row.value - dense):+.1f}"
                f"<td>{row.macs_share:.0%}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    flags.run_benchmark(main)
