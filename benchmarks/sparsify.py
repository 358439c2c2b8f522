r"""Cost and speed with fewer tokens: multiply-accumulates and images/s, dense and reduced in one run.

    python -m benchmarks.sparsify [NAME] [--batch 1 8 32 128] [--ratio 0.9 0.7 0.5] [--dtype ...] [--csv FILE]

NAME is a plain ViT (default DeiT-S) at its own size. Rows: the dense model; at each ratio DynamicViT,
predictors included, with the same number of tokens for every image, and with budget "own" of at most as many;
EViT; ToMe. Or NAME is a model with predictors of its own, as `dynamic_convnext_tiny` or
`dynamicswin_tiny_patch4_window7_224`: dense, and at each ratio. Where torch is installed, timm's dense model
runs as well. Weights are random and images are noise: neither changes the work. All rows of a batch size take
turns, so that other work on the machine hits them alike; `speed-up` is the median over rounds of the dense
row's time over the row's. Compile time is apart.
"""

import argparse
import csv
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.backbones import import_torch, our_run, take_turns, torch_model, torch_run
from vitjax.cli import flags
from vitjax.models import build
from vitjax.models.outputs import dense, reduction_of
from vitjax.sparsify import count


class Row(NamedTuple):
    """One line of the table; fields up to `infer_gmacs` carry timm's column names."""

    model: str
    infer_samples_per_sec: float  # images
    infer_step_time: float  # milliseconds per batch
    infer_batch_size: int
    infer_gmacs: float
    speed_up: float  # over the dense row of the same batch
    macs_ratio: float  # dense over this
    compile_seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    device, (torch, reason) = jax.devices()[0], import_torch()
    print(f"jax {jax.__version__} on {device.platform} ({device.device_kind}), {args.dtype}; {reason}")
    rows: list[Row] = []
    for batch in args.batch:
        new = _measure(args.name, batch, torch, args)
        _print(new, header=not rows)
        rows += new
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "name", nargs="?", default="deit_small_patch16_224", help="a plain ViT, or a dynamic model"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128], help="images per call")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.7], help="kept share, per stage")
    parser.add_argument("--r", type=int, nargs="*", default=[13], help="tokens that ToMe merges per block")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing per row")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    return parser


def variants(args: argparse.Namespace) -> dict[str, Any]:
    """The models of the table by label."""
    model = build(args.name, dtype=args.dtype)
    made = {"dense": dense(model)}
    if reduction_of(model):
        return made | {f"ratio {ratio:g}": model.clone(keep_ratio=ratio) for ratio in args.ratio}
    for ratio in args.ratio:
        fields = {"keep_ratio": ratio, "dtype": args.dtype}
        for budget in ("fixed", "own", "batch"):
            label = f"dynamicvit {ratio:g}" + (f" {budget}" if budget != "fixed" else "")
            made[label] = build(args.name, reduce="dynamicvit", budget=budget, **fields)
        made[f"evit {ratio:g}"] = build(args.name, reduce="evit", **fields)
    for r in args.r:
        made[f"tome r={r}"] = build(args.name, reduce="tome", r=r, dtype=args.dtype)
    return made


def _measure(name: str, batch: int, torch: Any, args: argparse.Namespace) -> list[Row]:
    models = variants(args)
    size = models["dense"].img_size
    images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    costs = {label: count(model, size).macs for label, model in models.items()}
    runs, compiled = {}, {}
    # With predictors: all others find their weights among these.
    whole = build(name)
    whole = whole if reduction_of(whole) else build(name, reduce="dynamicvit")
    variables = jax.jit(whole.init)(jax.random.key(0), images[:1])
    for label, model in models.items():
        runs[label], compiled[label] = our_run(model, images, variables)
    other, note = torch_model(torch, name.removeprefix("dynamic").lstrip("_")) if torch else (None, "")
    if other is not None:
        runs["dense, torch"] = torch_run(torch, other, images, args.dtype)
        costs["dense, torch"], compiled["dense, torch"] = costs["dense"], 0.0
    elif note:
        print(note)
    times = take_turns(runs, args.seconds)
    rows = []
    for label, each in times.items():
        step = statistics.median(each)
        faster = statistics.median(d / t for d, t in zip(times["dense"], each, strict=True))
        rows.append(
            Row(
                model=f"{name}, {label}",
                infer_samples_per_sec=round(batch / step, 2),
                infer_step_time=round(1e3 * step, 3),
                infer_batch_size=batch,
                infer_gmacs=round(costs[label] / 1e9, 4),
                speed_up=round(faster, 3),
                macs_ratio=round(costs["dense"] / costs[label], 3),
                compile_seconds=round(compiled[label], 2),
            )
        )
    return rows


def _print(rows: list[Row], *, header: bool) -> None:
    if header:
        print(
            f"{'model':46}{'batch':>6}{'GMAC':>9}{'img/s':>10}{'ms':>10}{'speed-up':>10}{'of MACs':>9}"
            f"{'compile s':>11}"
        )
    for r in rows:
        print(
            f"{r.model:46}{r.infer_batch_size:6}{r.infer_gmacs:9.4f}{r.infer_samples_per_sec:10,.1f}"
            f"{r.infer_step_time:10.1f}{r.speed_up:10.2f}{r.macs_ratio:9.2f}{r.compile_seconds:11.1f}"
        )


if __name__ == "__main__":
    flags.run_benchmark(main)
