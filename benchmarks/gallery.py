"""A gallery on a disk: rates of adding, opening, searching and reranking, and what memory each takes.

    python benchmarks/gallery.py [--images 100000 --path /tmp/gallery_bench --csv gallery.csv]

Images are synthetic: groups of twenty share a layout of patch tokens, so that there is something to find.
They are made piece by piece, apart from the time that is counted. Searching is compared with NumPy's matrix
product and argpartition over the same vectors in memory, reranking with the same gallery in memory, and int8
tokens with float16 ones by the order they give. "MB/s" counts the bytes of the files. Memory is the peak of
the process in that step (Linux; elsewhere the peak so far). Files that were just written may come from the
operating system's cache: a gallery larger than memory reads at the disk's rate.

The folder is removed at the end.
"""

import argparse
import csv
import pathlib
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vitjax import sharding
from vitjax.cli import flags
from vitjax.retrieval import Descriptors, DescriptorSet, Gallery, RerankConfig, Reranked, rerank, search

GROUP = 20  # images that show the same thing
PIECE = 8192  # images made and added at a time


class Row(NamedTuple):
    """One line of the table; the first fields carry timm's column names."""

    model: str
    infer_samples_per_sec: float  # images added, queries searched, or pairs reranked
    infer_step_time: float  # milliseconds for all of them
    infer_batch_size: int  # how many that were
    mb_per_sec: float  # of files, where they are written
    times_reference: float  # time as a multiple of what it is compared with
    peak_mb: float  # memory of the process in this step


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    if args.path.exists():
        sys.exit(f"{args.path} is there already; name a folder that can be made and removed")
    try:
        rows, notes = _run(args)
    finally:
        shutil.rmtree(args.path, ignore_errors=True)
    device = jax.devices()[0]
    print(
        f"{args.images} images of {args.tokens} x {args.dim} tokens and {args.pooled} pooled numbers; "
        f"jax {jax.__version__} on {jax.device_count()} x {device.platform} ({device.device_kind})"
    )
    _print(rows)
    print("\n".join(notes))
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=49, help="patch tokens per image")
    parser.add_argument("--dim", type=int, default=128, help="numbers per token")
    parser.add_argument("--pooled", type=int, default=384, help="numbers of a pooled vector")
    parser.add_argument("--queries", type=int, default=1000, help="searched")
    parser.add_argument("--reranked", type=int, default=100, help="queries that are reranked")
    parser.add_argument("--candidates", type=int, default=100, help="of each query")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--path", type=pathlib.Path, default=pathlib.Path("/tmp/gallery_bench"))
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    return parser


def _run(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    mesh = sharding.make_mesh()
    rows = _added(args)
    half = Gallery.open(args.path / "float16")
    rows.append(_opened(args))
    queries = _images(args, range(0, args.images, max(args.images // args.queries, 1)), seed=1)
    queries = queries.take(slice(0, args.queries))
    searched, index = _searched(args, half, queries, mesh)
    asked, config = queries.take(slice(0, args.reranked)), RerankConfig(tolerance=1e-3)
    top = index[: args.reranked]
    reranked, orders = _reranked(args, asked, top, config, mesh)
    return rows + searched + reranked, _agreement(*orders)


def _images(args: argparse.Namespace, numbers: range, seed: int = 0) -> Descriptors:
    """Images by number: what their group shows, and each its own noise."""
    groups = np.unique(np.array(numbers) // GROUP)
    shape = (args.tokens, args.dim)
    shown = {g: np.random.default_rng((7, g)).normal(size=shape).astype(np.float32) for g in groups}
    project = np.random.default_rng(8).normal(size=(args.dim, args.pooled)).astype(np.float32)
    rng = np.random.default_rng((seed, numbers.start))
    noise = rng.standard_normal((len(numbers), *shape), np.float32)
    tokens = np.stack([shown[i // GROUP] for i in numbers]) + noise
    pooled = tokens.mean(axis=1) @ project
    return Descriptors.from_arrays(pooled, tokens)


def _pieces(args: argparse.Namespace) -> Iterator[Descriptors]:
    for start in range(0, args.images, PIECE):
        yield _images(args, range(start, min(start + PIECE, args.images)))


def _added(args: argparse.Namespace) -> list[Row]:
    galleries = {dtype: Gallery.create(args.path / dtype, dtype=dtype) for dtype in ("float16", "int8")}
    seconds = dict.fromkeys(galleries, 0.0)
    for piece in _pieces(args):
        for dtype, gallery in galleries.items():
            begin = time.perf_counter()
            gallery.add(piece)
            seconds[dtype] += time.perf_counter() - begin
    rows = []
    for dtype, gallery in galleries.items():
        gallery.close()
        size = sum(file.stat().st_size for file in (args.path / dtype).rglob("*") if file.is_file()) / 1e6
        # The peak holds a piece of the images themselves.
        rows.append(_row(f"add {dtype}", args.images, seconds[dtype], megabytes=size))
    return rows


def _opened(args: argparse.Namespace) -> Row:
    seconds, peak = _timed(lambda: len(Gallery.open(args.path / "float16")), args.repeats)
    return _row("open", 1, seconds, peak=peak)


def _searched(
    args: argparse.Namespace, gallery: Gallery, queries: Descriptors, mesh: Any
) -> tuple[list[Row], np.ndarray]:
    k, count = args.candidates, len(queries)
    streamed, peak = _timed(lambda: gallery.search(queries, k, mesh=mesh), args.repeats)
    whole, _ = gallery.read_pooled(slice(None))()
    numpy_seconds, numpy_peak = _timed(lambda: _by_numpy(queries.pooled, whole, k), args.repeats)
    found, exact = gallery.search(queries, k, mesh=mesh)[1], _by_numpy(queries.pooled, whole, k)
    missing = sum(len(set(a) - set(b)) for a, b in zip(found, exact, strict=True))
    if missing > count * k * 1e-4:  # equal scores may be told apart otherwise
        sys.exit(f"search and NumPy disagree on {missing} of {count * k} neighbours")
    memory, memory_peak = _timed(lambda: search(queries, whole, k, mesh=mesh), args.repeats)
    return [
        _row("search, from disk", count, streamed, reference=numpy_seconds, peak=peak),
        _row("search, in memory", count, memory, reference=numpy_seconds, peak=memory_peak),
        _row("search, NumPy", count, numpy_seconds, reference=numpy_seconds, peak=numpy_peak),
    ], found


def _by_numpy(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    found = []
    for start in range(0, len(queries), 256):  # all scores at once would take gigabytes
        scores = queries[start : start + 256] @ gallery.T
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(found)


def _reranked(
    args: argparse.Namespace, queries: Descriptors, index: np.ndarray, config: RerankConfig, mesh: Any
) -> tuple[list[Row], tuple[Reranked, Reranked]]:
    searched: dict[str, tuple[DescriptorSet, np.ndarray]] = {
        f"rerank, {dtype} from disk": (Gallery.open(args.path / dtype), index)
        for dtype in ("float16", "int8")
    }
    stored, _ = searched["rerank, float16 from disk"]
    # In memory are the candidates alone: all images may not fit.
    needed = np.unique(index)
    searched["rerank, float32 in memory"] = (
        stored.take(needed).on_devices(mesh), np.searchsorted(needed, index),
    )  # fmt: skip
    times, orders = {}, {}
    for name, (gallery, rows) in searched.items():

        def run(gallery: Any = gallery, rows: np.ndarray = rows) -> Reranked:
            return rerank(queries, gallery, rows, config=config, mesh=mesh)

        orders[name] = run()
        times[name] = _timed(run, args.repeats)
    reference = times["rerank, float32 in memory"][0]
    table = [_row(name, index.size, s, reference=reference, peak=peak) for name, (s, peak) in times.items()]
    half, byte, _ = orders.values()
    return table, (half, byte)


def _agreement(half: Reranked, byte: Reranked) -> list[str]:
    first = float((half.index[:, 0] == byte.index[:, 0]).mean())
    lines = list(zip(half.index[:, :10], byte.index[:, :10], strict=True))
    ten = float(np.mean([len(set(a) & set(b)) / len(a) for a, b in lines]))
    place = np.argsort(half.index, axis=1), np.argsort(byte.index, axis=1)
    rank = float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*place, strict=True)]))
    score = [np.take_along_axis(x.score, where, axis=1) for x, where in zip((half, byte), place, strict=True)]
    gap = float(np.abs(score[0] - score[1]).max())
    return [
        f"int8 against float16: first hit the same for {100 * first:.1f} % of the queries, first ten "
        f"{100 * ten:.1f} %, rank correlation {rank:.4f}, scores within {gap:.1e}"
    ]


def _timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds, the first run apart (it compiles), and the peak of memory, MB."""
    run()
    _forget_peak()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), _peak()


def _row(
    name: str, count: int, seconds: float, *, megabytes: float = 0, reference: float = 0, peak: float = 0
) -> Row:
    relative = round(seconds / reference, 2) if reference else 0.0
    rate = round(count / seconds, 1), round(1e3 * seconds, 2)
    return Row(name, *rate, count, round(megabytes / seconds, 1), relative, round(peak or _peak()))


def _forget_peak() -> None:
    file = pathlib.Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _peak() -> float:
    file = pathlib.Path("/proc/self/status")
    if file.exists():
        (line,) = (x for x in file.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def _print(rows: Sequence[Row]) -> None:
    print(f"{'':28}{'per s':>12}{'ms':>12}{'count':>9}{'MB/s':>8}{'x reference':>13}{'peak MB':>9}")
    for row in rows:
        name, rate, ms, count, speed, relative, peak = row
        print(f"{name:28}{rate:12,.0f}{ms:12,.1f}{count:9}{speed or '':>8}{relative or '':>13}{peak:9,.0f}")


if __name__ == "__main__":
    flags.run_benchmark(main)
