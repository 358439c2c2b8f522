"""Pairs per second of the transport solvers at equal marginal error, beside their floor, in one run.

    python -m benchmarks.transport [--photos DIR] [--pairs 100 --tokens 49 --dim 128 --tolerance 1e-3]

The floor is what any score of all token pairs must pay: the similarity matrices and one sum of them weighted
by the marginals, in one jit. Chamfer is the cheapest matching: every token's best match. Each solver runs
until every pair's L1 marginal error is within the tolerance: ours and OTT-JAX's stop by themselves, POT and
the papers' loop (both torch, where installed) are given the fewest iterations of a doubling list that get
there, and stop no earlier. `--iterations` caps all.

Tokens are synthetic but related, like photos of one place: an image is a smooth layout of a few regions (sky,
wall, grass) that all images share, a candidate's layout is the query's with another one mixed in. Regions
cover different areas in different images, so mass has to cross between them, and that is what takes
iterations; independent noise converges in a few, which would flatter every solver. `--photos` takes real
ones: the demo's model and recipe, averaged on a square grid and turned on their main axes; the first photo is
the query. Marginals are uniform.

On a CPU every core is a device (`--devices`) and pairs are cut over them, for all that runs in JAX; torch has
as many threads. The contenders take turns, and each figure is the median over rounds: other work on the
machine hits all of them alike; a slow one leaves the tokens out of the cache for the next, which costs the
floor most. Compile time is apart.
"""

import argparse
import csv
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import vitjax
from vitjax import ot, sharding
from vitjax.cli import flags
from vitjax.data.sources.base import FolderSource, RowsSource


class Row(NamedTuple):
    """One line of the table; the first fields carry timm's column names."""

    model: str
    infer_samples_per_sec: float  # pairs
    infer_step_time: float  # milliseconds for the whole batch
    infer_batch_size: int  # pairs
    compile_seconds: float
    share_of_floor: float
    times_ott: float
    times_chamfer: float  # cost in units of chamfer's
    marginal_error: float  # L1, mean over pairs, of the plans that were timed
    worst_error: float


class Contender(NamedTuple):
    """`run()` scores all pairs and waits; `errors` are the marginal errors of what it ran."""

    run: Callable[[], Any]
    compile_seconds: float
    errors: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    jax.config.update("jax_num_cpu_devices", args.devices)  # does nothing on accelerators
    query, candidates = _tokens(args)
    contenders = _with_jax(args, query, candidates) | _with_torch(args, query, candidates)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(args.repeats + 1):
        for name, contender in contenders.items():
            begin = time.perf_counter()
            contender.run()
            if round_:  # the first round warms caches
                times[name].append(time.perf_counter() - begin)
    rows = _rows({name: statistics.median(t) for name, t in times.items()}, contenders, args.pairs)
    device = jax.devices()[0]
    print(
        f"{args.pairs} pairs of {query.shape[1]} x {candidates.shape[1]} tokens, {query.shape[2]}-d, "
        f"epsilon {args.epsilon}, mass {args.mass}, marginal error {args.tolerance:g}; "
        f"jax {jax.__version__} on {jax.device_count()} x {device.platform} ({device.device_kind})"
    )
    _print(rows)
    if args.csv:
        _write(args.csv, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=100, help="candidates of one query")
    parser.add_argument("--tokens", type=int, default=49, help="patch tokens per image")
    parser.add_argument("--dim", type=int, default=128, help="numbers per token")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="L1 marginal error of every pair")
    parser.add_argument("--iterations", type=int, default=4096, help="at most")
    parser.add_argument("--epsilon", type=float, default=0.05, help="in units of the cost, 1 - cosine")
    parser.add_argument("--mass", type=float, default=1.0, help="below 1: partial transport")
    parser.add_argument("--repeats", type=int, default=21, help="rounds; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic tokens")
    parser.add_argument("--devices", type=int, default=os.cpu_count() or 1, help="CPU devices")
    parser.add_argument("--photos", type=pathlib.Path, help="a folder, for tokens of real images")
    parser.add_argument(
        "--center",
        choices=("none", "mean", "position"),
        default="position",
        help="of the photos' tokens; none is the hardest to converge",
    )
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    return parser


def _tokens(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if args.photos:
        tokens = _photo_tokens(args)
        query, candidates = tokens[:1], tokens[1:]
    else:
        query, candidates = _related_images(args.pairs, args.tokens, args.dim, args.seed)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, candidates)]
    return np.repeat(unit[0], args.pairs, axis=0), unit[1]


def _photo_tokens(args: argparse.Namespace) -> np.ndarray:
    photos = FolderSource(args.photos)
    side = math.isqrt(args.tokens)
    if side**2 != args.tokens or len(photos) <= args.pairs:
        raise SystemExit(
            f"--photos takes a square number of --tokens and at least {args.pairs + 1} images, "
            f"found {len(photos)}; lower --pairs"
        )
    config = vitjax.demo_config()
    config.model.grid, config.model.center = side, args.center
    reranker = vitjax.Reranker.from_config(config)
    found, _, _ = reranker.describe(RowsSource(photos, np.arange(args.pairs + 1)))
    tokens = found.tokens.astype(np.float32)
    axes = np.linalg.svd(tokens.reshape(-1, tokens.shape[-1]), full_matrices=False)[2]
    return tokens @ axes[: args.dim].T


def _related_images(pairs: int, tokens: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    side, regions = math.ceil(math.sqrt(tokens)), 6
    position = np.arange(side)
    # Neighbouring patches belong together: a bell of one and a half patches' width along each side.
    smooth = np.exp(-((position[:, None] - position[None, :]) ** 2) / (2 * 1.5**2))
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
    prototype, mean = rng.normal(size=(regions, dim)), 0.2 * rng.normal(size=dim)

    def fields(count: int) -> np.ndarray:
        noise = rng.normal(size=(count, side, side, regions))
        return np.einsum("ah,bw,nhwr->nabr", smooth, smooth, noise).reshape(count, -1, regions)[:, :tokens]

    def images(field: np.ndarray) -> np.ndarray:
        share = np.exp(8 * field)
        share /= share.sum(-1, keepdims=True)
        own = 0.2 * rng.normal(size=(*field.shape[:2], dim))
        return (share @ prototype + mean + own).astype(np.float32)

    query = fields(1)
    common = rng.uniform(0.2, 0.9, (pairs, 1, 1))  # how much of the query's layout is in a candidate
    return images(query), images(common * query + np.sqrt(1 - common**2) * fields(pairs))


def _with_jax(args: argparse.Namespace, query: np.ndarray, candidates: np.ndarray) -> dict[str, Contender]:
    """Floor, chamfer and our solvers; every device scores its share of the pairs by itself."""

    def floor(query, candidates, a, b):
        score = (a[:, :, None] * _similarity(query, candidates) * b[:, None, :]).sum((1, 2))
        return score, jnp.full_like(score, jnp.nan)

    def chamfer(query, candidates, a, b):
        similarity = _similarity(query, candidates)
        score = ((a * similarity.max(2)).sum(1) + (b * similarity.max(1)).sum(1)) / 2
        return score, jnp.full_like(score, jnp.nan)

    def solver(name: str) -> Callable:
        def run(query, candidates, a, b):
            match = ot.structural_match(
                query, candidates, a, b, epsilon=args.epsilon, mass=args.mass, iterations=args.iterations,
                tolerance=args.tolerance, solver=name,
            )  # fmt: skip
            return match.score, match.transport.row_error + match.transport.col_error

        return run

    functions = {"floor": floor, "chamfer": chamfer, "fused": solver("fused"), "ott": solver("ott")}
    if jax.default_backend() in ("gpu", "tpu"):
        functions["pallas"] = solver("pallas")  # interpreted elsewhere, which says nothing
    mesh, rows = sharding.make_mesh(), sharding.ROWS
    a, b = (np.full(x.shape[:2], 1 / x.shape[1], np.float32) for x in (query, candidates))
    # Whole shares: the last device's padding is pairs of zeros without mass, done at once.
    inputs = sharding.spread_rows(sharding.pad_rows((query, candidates, a, b), mesh.size), mesh)

    def compile_(function: Callable) -> Contender:
        cut = jax.shard_map(
            function, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=rows, check_vma=False
        )
        begin = time.perf_counter()
        compiled = jax.jit(cut).lower(*inputs).compile()
        seconds = time.perf_counter() - begin
        errors = np.asarray(compiled(*inputs)[1])[: args.pairs]
        return Contender(lambda: jax.block_until_ready(compiled(*inputs)), seconds, errors)

    return {name: compile_(function) for name, function in functions.items()}


def _similarity(query: jax.Array, candidates: jax.Array) -> jax.Array:
    return jnp.einsum("pnd,pmd->pnm", query, candidates, precision=jax.lax.Precision.HIGHEST)


def _with_torch(args: argparse.Namespace, query: np.ndarray, candidates: np.ndarray) -> dict[str, Contender]:
    """POT's batched solver and the papers' loop without its early stop, where they are installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("torch is not installed: neither POT's batched solver nor the papers' loop is timed")
        return {}
    x, y = torch.from_numpy(query), torch.from_numpy(candidates)
    a, b = (torch.full(t.shape[:2], 1 / t.shape[1]) for t in (x, y))
    contenders = {}
    if args.mass >= 1:  # neither POT nor this loop has a batched partial transport that converges
        contenders["papers' loop"] = _papers_loop
        try:
            from ot.batch import solve_batch  # pyright: ignore[reportMissingImports]
        except ImportError:
            print("POT is not installed: its batched solver is not timed")
        else:

            def pot(similarity, a, b, epsilon, iterations):
                settings = {"max_iter": iterations, "tol": 0, "method": "log_sinkhorn", "grad": "detach"}
                return solve_batch(1 - similarity, epsilon, a, b, **settings).plan

            contenders["POT"] = pot

    def run(solve: Callable, iterations: int) -> tuple[Any, Any]:
        with torch.no_grad():
            similarity = torch.bmm(x, y.transpose(1, 2))
            plan = solve(similarity, a, b, args.epsilon, iterations)
            errors = (plan.sum(2) - a).abs().sum(1) + (plan.sum(1) - b).abs().sum(1)
            return (plan * similarity).sum((1, 2)), errors

    found = {}
    for name, solve in contenders.items():
        for iterations in (2**i for i in range(3, 13)):
            errors = run(solve, iterations)[1].numpy()
            if errors.max() <= args.tolerance:
                break
        found[name] = Contender(lambda solve=solve, k=iterations: run(solve, k), 0.0, errors)
    return found


def _papers_loop(similarity: Any, a: Any, b: Any, epsilon: float, iterations: int) -> Any:
    kernel = ((similarity - 1) / epsilon).exp()
    c = b.new_ones(b.shape)
    for _ in range(iterations):
        r = a / (kernel @ c[:, :, None])[:, :, 0]
        c = b / (r[:, None, :] @ kernel)[:, 0]
    return r[:, :, None] * kernel * c[:, None, :]


def _rows(times: dict[str, float], contenders: dict[str, Contender], pairs: int) -> list[Row]:
    return [
        Row(
            model=name,
            infer_samples_per_sec=pairs / t,
            infer_step_time=1e3 * t,
            infer_batch_size=pairs,
            compile_seconds=contenders[name].compile_seconds,
            share_of_floor=times["floor"] / t,
            times_ott=times["ott"] / t,
            times_chamfer=t / times["chamfer"],
            marginal_error=float(contenders[name].errors.mean()),
            worst_error=float(contenders[name].errors.max()),
        )
        for name, t in times.items()
    ]


def _print(rows: list[Row]) -> None:
    names = f"{'solver':13}{'pairs/s':>10}{'ms':>9}{'of floor':>10}{'x OTT':>8}{'chamfers':>10}"
    print(f"{names}{'error':>11}{'worst':>11}{'compile s':>11}")
    for row in rows:
        print(
            f"{row.model:13}{row.infer_samples_per_sec:10,.0f}{row.infer_step_time:9.2f}{row.share_of_floor:10.2f}"
            f"{row.times_ott:8.1f}{row.times_chamfer:10.1f}{row.marginal_error:11.1e}{row.worst_error:11.1e}"
            f"{row.compile_seconds:11.2f}"
        )


def _write(path: pathlib.Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


if __name__ == "__main__":
    flags.run_benchmark(main)
