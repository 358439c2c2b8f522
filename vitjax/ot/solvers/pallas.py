"""The iterations of `vitjax.ot.solvers.loop` in one Pallas kernel: a problem stays on chip for all of them.

XLA runs a round as a few small programs, each of which reads all kernels from memory; here one block of
threads of a GPU, or one step of a TPU's grid, loads one problem, runs `loop.solve` on it, and writes its
potentials and scalings, so memory is read once whatever the number of iterations, and a problem that is done
makes room for the next. There is no second algorithm: the kernel's body is that function, traced for a
single problem.

Elsewhere Pallas interprets the kernel, slowly; that is how the tests run it. For GPUs and TPUs they see that
it lowers, but it was not yet run or timed on either. On GPUs it is lowered by Pallas's Triton backend, which
JAX deprecates since 0.11: from there on it is refused. Mosaic GPU, which takes its place, sums along rows and
columns of matrices alone, and the iterations work on (p, n, m).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.ot.solvers import iteration, loop
from vitjax.ot.solvers.iteration import Problem, Sides
from vitjax.ot.solvers.loop import Solution

LARGEST = 128 * 128  # entries of a problem that fit a GPU's registers beside their kernel
_LANES = 128  # of a TPU
_ON_GPU = jax.__version_info__ < (0, 11)  # whether Triton is still the way there


def solve(
    problem: Problem, tolerance: Float[Array, " p"], iterations: int, *, platform: str | None = None
) -> Solution:
    """As `loop.solve`, with its bounds; float32 only.

    Args:
        problem: p problems of at most `LARGEST` entries, after padding both sides to powers of 2.
        tolerance: of each problem.
        iterations: at most.
        platform: "gpu" or "tpu" compiles for that; "cpu" interprets; None = where JAX runs by default.

    Raises:
        ValueError: a problem is too large, or not in float32; a GPU with JAX 0.11 or newer.
    """
    platform = platform or jax.default_backend()
    if platform == "gpu" and not _ON_GPU:
        raise UserError(
            f"vitjax.ot: solver 'pallas' runs on a GPU up to JAX 0.10, not {jax.__version__}: it needs the "
            "Triton backend, which JAX deprecates; use solver 'fused'"
        )
    count, n, m = problem.cost.shape
    rows, cols = _padded(n), _padded(m, _LANES if platform == "tpu" else 16)
    if rows * cols > LARGEST:
        raise UserError(
            f"vitjax.ot: {n} x {m} tokens do not fit on chip (at most {LARGEST} pairs of tokens, each side "
            "a power of 2); use solver 'fused'"
        )
    if problem.cost.dtype != jnp.float32:
        raise UserError(f"vitjax.ot: solver 'pallas' computes in float32, not {problem.cost.dtype}")
    padded = _pad(problem, rows, cols)
    leaves, tree = jax.tree.flatten((padded, tolerance))
    wide = [_widen(x) for x in leaves]
    found = jax.eval_shape(lambda p, t: _outputs(loop.solve(p, t, iterations)), padded, tolerance)
    shapes, out_tree = jax.tree.flatten(found)
    wide_shapes = [jax.eval_shape(_widen, x) for x in shapes]

    def body(*refs):
        inputs, outputs = refs[: len(leaves)], refs[len(leaves) :]
        values = [_narrow(ref[...], x) for ref, x in zip(inputs, leaves, strict=True)]
        own, own_tolerance = jax.tree.unflatten(tree, values)
        result = _outputs(loop.solve(own.replace(on_chip=True), own_tolerance, iterations))
        for ref, value in zip(outputs, jax.tree.leaves(result), strict=True):
            ref[...] = _widen(value)

    out = pl.pallas_call(
        body,
        grid=(count,),
        in_specs=[_spec(x) for x in wide],
        out_specs=[_spec(x) for x in wide_shapes],
        out_shape=wide_shapes,
        interpret=platform == "cpu",
        compiler_params=_compiler_params(platform, rows * cols),
        name="sinkhorn",
    )(*wide)
    narrow = [_narrow(x, like) for x, like in zip(out, shapes, strict=True)]
    potentials, scale, row_error, col_error = jax.tree.unflatten(out_tree, narrow)
    potentials, scale = _cut(potentials, n, m), _cut(scale, n, m)
    return Solution(potentials, iteration.make_kernel(problem, potentials), scale, row_error, col_error)


def _outputs(found: Solution) -> tuple[Sides, Sides, Array, Array]:
    return found.potentials, found.scale, found.row_error, found.col_error


def _padded(size: int, least: int = 16) -> int:
    return max(least, 1 << (size - 1).bit_length())


def _pad(problem: Problem, rows: int, cols: int) -> Problem:
    """Adds tokens without mass."""
    more = rows - problem.cost.shape[1], cols - problem.cost.shape[2]

    def pad(x, axis_more):
        return jnp.pad(x, ((0, 0), (0, axis_more)))

    return dataclasses.replace(
        problem,
        cost=jnp.pad(problem.cost, ((0, 0), (0, more[0]), (0, more[1]))),
        a=pad(problem.a, more[0]),
        b=pad(problem.b, more[1]),
        rows=pad(problem.rows, more[0]),
        cols=pad(problem.cols, more[1]),
    )


def _cut(sides: Sides, n: int, m: int) -> Sides:
    return sides._replace(rows=sides.rows[:, :n], cols=sides.cols[:, :m])


def _widen(x: Array) -> Array:
    """To (p, i, j) and no bool: blocks of a TPU have two dimensions, and its memory holds no bits."""
    x = x.astype(jnp.float32) if x.dtype == bool else x
    return x.reshape(x.shape[0], *(1,) * (3 - x.ndim), *x.shape[1:])


def _narrow(x: Array, like: Array | jax.ShapeDtypeStruct) -> Array:
    x = x.reshape(x.shape[0], *like.shape[1:])
    return x > 0 if like.dtype == bool else x


def _spec(x: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
    return pl.BlockSpec((1, *x.shape[1:]), lambda i: (i, 0, 0))


def _compiler_params(platform: str, entries: int):
    if platform != "gpu":
        return None
    from jax.experimental.pallas import triton

    # 32 entries a thread: kernel and cost then fit its registers.
    return triton.CompilerParams(num_warps=max(1, min(8, entries // (32 * 32))), num_stages=1)
