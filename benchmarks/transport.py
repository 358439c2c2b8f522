"""Pairs per second of the transport solvers, against OTT-JAX and against the floor, in one run.

    python benchmarks/transport.py [--pairs 100 --tokens 49 --dim 128 --iterations 50 --csv transport.csv]

The floor is what any score of all token pairs must pay: the similarity matrices and one sum of them weighted
by the marginals, in one jit. Tokens are synthetic but related, like photos of one place: an image is a smooth
layout of a few regions (sky, wall, grass) that all images share, a candidate's layout is the query's with
another one mixed in. Regions cover different areas in different images, so mass has to cross between them,
and that is what takes iterations; independent noise converges in a few, which would flatter the marginal
error. Marginals are uniform.

The solvers take turns, and each figure is the median over rounds: other work on the machine hits all of them
alike. Compile time is apart.
"""

import argparse
import csv
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import ot


class Row(NamedTuple):
    """One line of the table; the first fields carry timm's column names."""

    model: str
    infer_samples_per_sec: float  # pairs
    infer_step_time: float  # milliseconds for the whole batch
    infer_batch_size: int  # pairs
    compile_seconds: float
    share_of_floor: float
    times_ott: float
    marginal_error: float  # L1, mean over pairs, of the plans that were timed
    worst_error: float


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    query, candidates = _tokens(args)
    a = jnp.full((args.pairs, query.shape[1]), 1 / query.shape[1])
    b = jnp.full((args.pairs, candidates.shape[1]), 1 / candidates.shape[1])
    contenders = _contenders(args)
    compiled, seconds = {}, {}
    for name, function in contenders.items():
        begin = time.perf_counter()
        compiled[name] = jax.jit(function).lower(query, candidates, a, b).compile()
        seconds[name] = time.perf_counter() - begin
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(args.repeats + 1):
        for name, run in compiled.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(query, candidates, a, b))
            if round_:  # the first round warms caches
                times[name].append(time.perf_counter() - begin)
    errors = {name: np.asarray(run(query, candidates, a, b)[1]) for name, run in compiled.items()}
    rows = _rows({name: statistics.median(t) for name, t in times.items()}, errors, seconds, args.pairs)
    device = jax.devices()[0]
    print(
        f"{args.pairs} pairs of {query.shape[1]} x {candidates.shape[1]} tokens, {query.shape[2]}-d, "
        f"epsilon {args.epsilon}, mass {args.mass}, {args.iterations} iterations; "
        f"jax {jax.__version__} on {device.platform} ({device.device_kind})"
    )
    _print(rows)
    if args.csv:
        _write(args.csv, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=100, help="candidates of one query")
    parser.add_argument("--tokens", type=int, default=49, help="patch tokens per image")
    parser.add_argument("--dim", type=int, default=128, help="numbers per token")
    parser.add_argument("--iterations", type=int, default=50, help="of every solver")
    parser.add_argument("--epsilon", type=float, default=0.05, help="in units of the cost, 1 - cosine")
    parser.add_argument("--mass", type=float, default=1.0, help="below 1: partial transport")
    parser.add_argument("--repeats", type=int, default=21, help="rounds; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic tokens")
    parser.add_argument(
        "--tokens-file",
        type=pathlib.Path,
        help=".npy of real tokens (images, tokens, dim): the first is the query",
    )
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    return parser


def _tokens(args: argparse.Namespace) -> tuple[jax.Array, jax.Array]:
    if args.tokens_file:
        tokens = np.load(args.tokens_file).astype(np.float32)
        query, candidates = tokens[:1], tokens[1 + np.arange(args.pairs) % (len(tokens) - 1)]
    else:
        query, candidates = _related_images(args.pairs, args.tokens, args.dim, args.seed)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, candidates)]
    return jnp.asarray(np.repeat(unit[0], args.pairs, axis=0)), jnp.asarray(unit[1])


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


def _contenders(args: argparse.Namespace) -> dict[str, Callable]:
    def floor(query, candidates, a, b):
        similarity = jnp.einsum("pnd,pmd->pnm", query, candidates, precision=jax.lax.Precision.HIGHEST)
        score = (a[:, :, None] * similarity * b[:, None, :]).sum((1, 2))
        return score, jnp.full_like(score, jnp.nan)

    def solver(name: str) -> Callable:
        def run(query, candidates, a, b):
            match = ot.structural_match(
                query,
                candidates,
                a,
                b,
                epsilon=args.epsilon,
                mass=args.mass,
                iterations=args.iterations,
                solver=name,
            )
            return match.score, match.transport.row_error + match.transport.col_error

        return run

    return {"floor": floor, "fused": solver("fused"), "ott": solver("ott")}


def _rows(times: dict, errors: dict, seconds: dict, pairs: int) -> list[Row]:
    return [
        Row(
            model=name,
            infer_samples_per_sec=pairs / t,
            infer_step_time=1e3 * t,
            infer_batch_size=pairs,
            compile_seconds=seconds[name],
            share_of_floor=times["floor"] / t,
            times_ott=times["ott"] / t,
            marginal_error=float(errors[name].mean()),
            worst_error=float(errors[name].max()),
        )
        for name, t in times.items()
    ]


def _print(rows: list[Row]) -> None:
    names = f"{'solver':8}{'pairs/s':>12}{'ms':>10}{'of floor':>10}{'x OTT':>8}"
    print(f"{names}{'error':>11}{'worst':>11}{'compile s':>11}")
    for row in rows:
        print(
            f"{row.model:8}{row.infer_samples_per_sec:12,.0f}{row.infer_step_time:10.2f}{row.share_of_floor:10.2f}"
            f"{row.times_ott:8.1f}{row.marginal_error:11.1e}{row.worst_error:11.1e}{row.compile_seconds:11.2f}"
        )


def _write(path: pathlib.Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
