"""The iterations of `vitjax.ot.solvers.loop` in one Pallas kernel: a problem stays on chip for all of them.

XLA runs a round as a few small programs, each of which reads all kernels from memory; here one block of
threads of a GPU, or one step of a TPU's grid, loads one problem, runs `loop.solve` on it, and writes its
potentials and scalings, so memory is read once whatever the number of iterations, and a problem that is done
makes room for the next. There is no second algorithm: the kernel's body is that function, traced for a
single problem.

On a GPU it is lowered by Mosaic GPU, one warpgroup a problem. That backend sums rows and columns of matrices
in the WGMMA layout alone, and the iterations work on (p, n, m): so they are traced for p = 1, and `_run` runs
the result without its axes of size 1. The layout needs rows in multiples of 64 and columns in multiples of 8.
The kernel and the cost take 2 x rows x cols / 128 of a thread's 255 registers, so problems near `LARGEST`
spill to memory.

Elsewhere Pallas interprets the kernel, slowly; that is how the tests run it, in both forms. For GPUs (Hopper)
and TPUs they see that it lowers, but it was not yet compiled, run or timed on either.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.extend import core
from jaxtyping import Array, Float

from vitjax.errors import UserError
from vitjax.ot.solvers import iteration, loop
from vitjax.ot.solvers.iteration import Problem, Sides
from vitjax.ot.solvers.loop import Solution

LARGEST = 128 * 128  # entries of a problem: what fits a GPU's registers, or nearly
_LANES = 128  # of a TPU
_TILE = 64, 8  # of a GPU's WGMMA layout
_REDUCE = {"reduce_sum": jnp.sum, "reduce_max": jnp.max, "reduce_min": jnp.min}


def solve(
    problem: Problem,
    tolerance: Float[Array, " p"],
    iterations: int,
    *,
    platform: str | None = None,
    interpret: bool | None = None,
) -> Solution:
    """As `loop.solve`, with its bounds; float32 only.

    Args:
        problem: p problems of at most `LARGEST` entries, after padding both sides: to powers of 2, on a GPU
            to multiples of 64 rows and 8 columns.
        tolerance: of each problem.
        iterations: at most.
        platform: "gpu", "tpu" or "cpu"; None = where JAX runs by default.
        interpret: runs that platform's kernel by Pallas's interpreter; None = only on "cpu", which has no
            kernel of its own and takes the TPU's.

    Raises:
        ValueError: a problem is too large, or not in float32.
    """
    platform = platform or jax.default_backend()
    interpret = platform == "cpu" if interpret is None else interpret
    n, m = problem.cost.shape[1:]
    if platform == "gpu":
        rows, cols = (-(-size // tile) * tile for size, tile in zip((n, m), _TILE, strict=True))
        padding = "in multiples of 64 rows and 8 columns"
    else:
        rows, cols = _padded(n), _padded(m, _LANES if platform == "tpu" else 16)
        padding = "each side a power of 2"
    if rows * cols > LARGEST:
        raise UserError(
            f"vitjax.ot: {n} x {m} tokens do not fit on chip (at most {LARGEST} pairs of tokens, {padding}); "
            "use solver 'fused'"
        )
    if problem.cost.dtype != jnp.float32:
        raise UserError(f"vitjax.ot: solver 'pallas' computes in float32, not {problem.cost.dtype}")
    if platform == "gpu":
        # Tells a vector of columns from one of rows, see `_lay_out`.
        cols += _TILE[1] * (cols % _TILE[0] == 0)
        found = _by_warpgroups(_pad(problem, rows, cols), tolerance, iterations, interpret)
    else:
        found = _by_blocks(_pad(problem, rows, cols), tolerance, iterations, interpret)
    potentials, scale, row_error, col_error = found
    potentials, scale = _cut(potentials, n, m), _cut(scale, n, m)
    return Solution(potentials, iteration.make_kernel(problem, potentials), scale, row_error, col_error)


def _by_blocks(padded: Problem, tolerance: Array, iterations: int, interpret: bool) -> tuple:
    """Runs the TPU's kernel: `loop.solve` on blocks of one problem, with its leading axis."""
    leaves, tree = jax.tree.flatten((padded, tolerance))
    wide = [_widen(x) for x in leaves]
    found = jax.eval_shape(lambda p, t: _outputs(loop.solve(p, t, iterations)), padded, tolerance)
    shapes, out_tree = jax.tree.flatten(found)
    wide_shapes = [jax.eval_shape(_widen, x) for x in shapes]

    def body(*refs):
        inputs, outputs = refs[: len(leaves)], refs[len(leaves) :]
        values = [_narrow(ref[...], x) for ref, x in zip(inputs, leaves, strict=True)]
        own, own_tolerance = jax.tree.unflatten(tree, values)
        result = _outputs(loop.solve(own.replace(backend="pallas"), own_tolerance, iterations))
        for ref, value in zip(outputs, jax.tree.leaves(result), strict=True):
            ref[...] = _widen(value)

    out = pl.pallas_call(
        body,
        grid=(padded.cost.shape[0],),
        in_specs=[_spec(x) for x in wide],
        out_specs=[_spec(x) for x in wide_shapes],
        out_shape=wide_shapes,
        interpret=interpret,
        name="sinkhorn",
    )(*wide)
    return jax.tree.unflatten(out_tree, [_narrow(x, like) for x, like in zip(out, shapes, strict=True)])


def _by_warpgroups(padded: Problem, tolerance: Array, iterations: int, interpret: bool) -> tuple:
    """Runs the GPU's kernel: `loop.solve` traced for one problem, without its leading axis."""
    # Typed loosely: its functions differ between the versions of JAX that are supported.
    plgpu: Any = importlib.import_module("jax.experimental.pallas.mosaic_gpu")
    count = padded.cost.shape[0]
    leaves, tree = jax.tree.flatten((padded.replace(backend="pallas"), tolerance))  # pyright: ignore[reportAttributeAccessIssue]

    def one(*values):
        return _outputs(loop.solve(*jax.tree.unflatten(tree, values), iterations))  # pyright: ignore[reportCallIssue]

    single = [jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for x in leaves]
    program, found = jax.make_jaxpr(one, return_shape=True)(*single)
    shapes, out_tree = jax.tree.flatten(found)
    shapes = [jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype) for x in shapes]
    lay_out = (lambda x: x) if interpret else _lay_out

    def load(ref, own, like):
        # A problem's slice starts and ends anywhere: not at whole cache lines, as the fast transfers need.
        if interpret or like.ndim == 1:
            value = ref[own]
        elif jax.__version_info__ < (0, 11):  # its index was an argument then
            value = plgpu.load(ref.at[own], (), layout=_layout(like.shape[1:]), optimized=False)
        else:
            value = plgpu.load(ref.at[own], layout=_layout(like.shape[1:]), optimized=False)  # pyright: ignore[reportCallIssue]
        return value > 0 if like.dtype == bool else value

    def body(*refs):
        own = pl.program_id(0) if interpret else jax.lax.axis_index("problem")
        values = [load(ref, own, x) for ref, x in zip(refs, leaves, strict=False)]
        for ref, value in zip(refs[len(leaves) :], _run(program, values, lay_out), strict=True):
            if interpret or value.ndim == 0 or not hasattr(plgpu, "store"):
                ref[own] = value
            else:
                plgpu.store(ref.at[own], value, optimized=False)  # pyright: ignore[reportAttributeAccessIssue]

    inputs = [x.astype(jnp.float32) for x in leaves]  # memory holds no bits
    if interpret:
        out = pl.pallas_call(body, grid=(count,), out_shape=shapes, interpret=True)(*inputs)
    else:
        semantics = plgpu.LoweringSemantics.Warpgroup  # the one that knows sums along an axis
        out = plgpu.kernel(
            body,
            out_type=shapes,
            grid=(count,),
            grid_names=("problem",),
            compiler_params=plgpu.CompilerParams(lowering_semantics=semantics),
        )(*inputs)
    return jax.tree.unflatten(out_tree, out)


def _layout(shape: tuple[int, ...]) -> Any:
    from jax.experimental.pallas import mosaic_gpu as plgpu

    matrix = plgpu.Layout.WGMMA
    if len(shape) == 2:
        return matrix
    return matrix.reduce(0 if shape[0] % _TILE[0] else 1)  # columns are never a multiple of 64


def _lay_out(x: Any) -> Any:
    """Says how a value lies in a warpgroup's registers: left to itself Mosaic GPU does not find out."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return plgpu.layout_cast(x, _layout(x.shape)) if jnp.ndim(x) else x


def _run(program: Any, values: Sequence[Any], lay_out: Callable) -> list[Any]:
    """Evaluates a jaxpr without its axes of size 1; knows what `loop.solve` is made of, and no more."""
    jaxpr = getattr(program, "jaxpr", program)
    known = dict(zip(jaxpr.constvars, program.consts, strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        found = _apply(equation, [read(x) for x in equation.invars], lay_out)
        known.update(zip(equation.outvars, map(lay_out, found), strict=True))
    return [read(x) for x in jaxpr.outvars]


def _apply(equation: Any, values: list[Any], lay_out: Callable) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "custom_jvp_call", "cond", "scan", "while"):
        return _apply_programs(equation, values, lambda program, *values: _run(program, values, lay_out))
    shape, own = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
    if name in ("reshape", "squeeze", "stop_gradient"):  # of axes of size 1
        return values
    if name == "broadcast_in_dim":
        return [_spread(values[0], own, shape, params["broadcast_dimensions"])]
    if name in _REDUCE:
        axes = tuple(_wide(own).index(axis) for axis in params["axes"] if own[axis] != 1)
        return [_REDUCE[name](values[0], axis=axes) if axes else values[0]]
    if "sharding" in params:  # has the axes of size 1, and means nothing here
        params = {**params, "sharding": None}
    # Entry by entry, where numbers and axes of size 1 are broadcast without an equation of their own.
    shapes = [x.aval.shape for x in equation.invars]
    values = [_spread(x, s, shape, range(len(s))) if s else x for x, s in zip(values, shapes, strict=True)]
    return [equation.primitive.bind(*values, **params)]


def _apply_programs(equation: Any, values: list[Any], run: Callable) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "custom_jvp_call"):
        return run(params["jaxpr" if name == "jit" else "call_jaxpr"], *values)
    if name == "cond":
        branches = [functools.partial(run, branch) for branch in params["branches"]]
        return jax.lax.switch(values[0], branches, *values[1:])
    if name == "scan":  # those of `loop` neither read nor stack anything, so what is not carried is constant
        fixed = len(values) - len(equation.outvars)
        step, length = params["jaxpr"], params["length"]
        return jax.lax.fori_loop(0, length, lambda _, x: run(step, *values[:fixed], *x), values[fixed:])
    ends = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    test, step = values[: ends[0]], values[ends[0] : ends[1]]
    return jax.lax.while_loop(
        lambda x: run(params["cond_jaxpr"], *test, *x)[0],
        lambda x: run(params["body_jaxpr"], *step, *x),
        values[ends[1] :],
    )


def _wide(shape: Sequence[int]) -> list[int]:
    """Axes that are left."""
    return [axis for axis, size in enumerate(shape) if size != 1]


def _spread(x: Any, own: Sequence[int], shape: Sequence[int], axes: Sequence[int]) -> Array:
    """Broadcasts x, of shape `own` with its axes of size 1, where it needs to be."""
    target = tuple(size for size in shape if size != 1)
    if jnp.shape(x) == target:
        return jnp.asarray(x)
    return jax.lax.broadcast_in_dim(x, target, [_wide(shape).index(axes[axis]) for axis in _wide(own)])


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
