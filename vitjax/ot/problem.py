"""What is handed to a solver: batched problems, and how exactly they are to be solved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Real

from vitjax.ot.outputs import Transport, Values

Number = float | int | np.number | Real[Values, "..."]


class TransportProblem(NamedTuple):
    """p independent problems, checked, in float32 (float64 where the cost was).

    Attributes:
        cost: (p, n, m).
        a: (p, n), row sums; an exact 0 takes the row out.
        b: (p, m), column sums.
        epsilon: (p,), entropic regularisation in units of the cost.
        tolerance: (p,), marginal error at which a problem is done; None: all iterations are run.
        dummy_mass: (p,), mass of the dummy point of each side, the share that is not matched; None: no dummy
            points. A dummy costs the same to every real point, and two dummies cannot meet.
        taus: (p,) each, or as given where the solver wants plain numbers: how firmly row and column sums are
            kept, tau = rho / (rho + epsilon); None: exactly.
        similarity: (p, n, m), what sum(plan * similarity) is wanted of; None: of nothing.
    """

    cost: Float[Array, "p n m"]
    a: Float[Array, "p n"]
    b: Float[Array, "p m"]
    epsilon: Float[Array, " p"]
    tolerance: Any = None
    dummy_mass: Any = None
    taus: Any = None
    similarity: Any = None


@dataclass(frozen=True)
class Solver:
    """A way to solve transport problems; pass one as `solver=`, or give it a name in `SOLVERS`.

    Attributes:
        solve: `(problem, iterations) -> (transport, value)`. Iterations, the most there may be, are a Python
            number. The value is sum(plan * similarity) per problem where the solver has it without forming
            the plan, else None. Has to be hashable and pure JAX; problems must not depend on each other, and
            rows and columns without mass must have an empty plan.
        plain_taus: taus are left as the caller gave them, plain numbers wherever possible, not (p,) arrays.
    """

    solve: Callable[[TransportProblem, int], tuple[Transport, Array | None]]
    plain_taus: bool = False


@dataclass(frozen=True)
class SolverOptions:
    """How a problem is solved; the meaning of each is that of `vitjax.ot.sinkhorn`.

    Attributes:
        epsilon: a number or one per problem.
        iterations: at most.
        tolerance: a number or one per problem.
        solver: a name in `SOLVERS`, or a solver.
    """

    epsilon: Number
    iterations: int = 100
    tolerance: Number = 0.0
    solver: str | Solver = "fused"
