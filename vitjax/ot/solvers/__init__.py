"""How the transport problem is solved: one file per solver, what they share, and their names."""

from jaxtyping import Array

from vitjax.errors import UserError
from vitjax.ot.outputs import Transport
from vitjax.ot.problem import Solver, TransportProblem
from vitjax.ot.solvers import fused


def _pallas(problem: TransportProblem, iterations: int) -> tuple[Transport, Array | None]:
    from vitjax.ot.solvers import pallas  # takes a while to import: only who asks for it waits

    return fused.in_blocks(problem, pallas.solve, iterations)


def _ott(problem: TransportProblem, iterations: int) -> tuple[Transport, Array | None]:
    from vitjax.ot.solvers import ott_jax  # OTT takes seconds to import: only who asks for it waits

    return ott_jax.solve(problem, iterations)


SOLVERS: dict[str, Solver] = {
    "fused": Solver(fused.solve),
    "pallas": Solver(_pallas),
    "ott": Solver(_ott, plain_taus=True),
}


def find_solver(solver: str | Solver) -> Solver:
    """The solver of a name, or the one given; raises ValueError for any other name."""
    if isinstance(solver, Solver):
        return solver
    if solver not in SOLVERS:
        known = ", ".join(map(repr, SOLVERS))
        raise UserError(
            f"vitjax.ot: solver {solver!r} is unknown; known: {known}, or give a `vitjax.ot.Solver`"
        )
    return SOLVERS[solver]
