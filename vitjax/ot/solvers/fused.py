"""The default solver: the iterations of `vitjax.ot.solvers.loop` in XLA, in blocks that fit a cache.

Backward pass without a tolerance: unrolled; it keeps one kernel and its sums per round of 5 iterations. With
one: `vitjax.ot.solvers.implicit_diff`, which needs none of that.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vitjax.ot.outputs import Transport
from vitjax.ot.problem import TransportProblem
from vitjax.ot.solvers import implicit_diff, iteration, loop
from vitjax.ot.solvers.batching import map_blocks


def solve(problem: TransportProblem, iterations: int) -> tuple[Transport, Array | None]:
    """Plans whose columns are exact to rounding (what is left of the error is in the rows), and the value.

    Under jit a plan that is not used costs nothing: the value is computed without one.
    """
    return in_blocks(problem, None if problem.tolerance is None else loop.solve, iterations)


@functools.partial(jax.jit, static_argnums=(1, 2))  # called without jit, it still compiles once per shape
def in_blocks(
    problem: TransportProblem, solve_block: implicit_diff.SolveBlock | None, iterations: int
) -> tuple[Transport, Array | None]:
    """Solves block by block of problems.

    Args:
        problem: p problems.
        solve_block: `(problem in units of epsilon, tolerance, iterations) -> solution`, with the gradient of
            `vitjax.ot.solvers.implicit_diff`; None: `loop.solve` without a tolerance, whose iterations are
            differentiated one by one.
        iterations: at most.
    """

    def block(*arrays: Any) -> tuple[Transport, Array | None]:
        part = TransportProblem(*arrays)
        scaled = iteration.prepare(part)
        if solve_block is None:
            return loop.result(loop.solve(scaled, None, iterations), part.similarity)
        tolerance = jnp.zeros_like(scaled.price) if part.tolerance is None else part.tolerance
        return implicit_diff.transport(solve_block, scaled, part.similarity, tolerance, iterations)

    return map_blocks(block, tuple(problem), entries=problem.cost.shape[1] * problem.cost.shape[2])
