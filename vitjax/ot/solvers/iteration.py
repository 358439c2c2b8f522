"""One Sinkhorn iteration of batched problems, in the kernel domain with the log domain's range.

Potentials f and g are absorbed in a kernel, K = exp((f_i + g_j - cost_ij) / epsilon), on which only scalings
u and v move, by two matrix-vector products per iteration. Scalings that have grown large are absorbed in
their turn (f += epsilon log u, g += epsilon log v) and the kernel is made anew: the stabilised scaling of
Schmitzer 2019 (arXiv:1610.06519, section 3). At the usual epsilon of 0.05 that never happens, and the one exp
per entry is paid once; at 0.0001 it happens nearly every time, and the cost is the log domain's.

Why nothing under- or overflows: the first potentials are hard c-transforms of each other (the epsilon -> 0
limit of an iteration), so every row and column of the first kernel holds an entry that is exactly 1, and
later kernels are plans whose columns sum to about b. From there an iteration can only move a scaling by a
factor that the marginals bound. The scalings are also held in [1 / LIMIT, LIMIT], which only marginals with
all but weightless tokens at a tiny epsilon reach; the next convergence check continues from there, so that
costs iterations, never a NaN.

Partial transport adds one dummy point per side as a vector and a scalar, not as a larger matrix:
r = a / (K c + k c0), r0 = (1 - s) / (k' c), and the same for the columns. Relaxed transport (Chizat et al.
2018, arXiv:1607.05816) raises the update to the power tau.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from vitjax.ot.problem import TransportProblem

_BEYOND = (0.0, 0.6, 0.78, 0.88)  # omega - 1 at each relaxation level
TOP_LEVEL = len(_BEYOND) - 1
_LARGE = 2.0**20  # a scaling beyond this, or below its inverse, is absorbed
_LIMIT = 2.0**60  # and this far it can go until then
_FAR = 1e30  # stands for infinity where an infinity would turn into NaN; exp(-_FAR) is 0
_RELAXED_START = 8  # hard iterations to begin a relaxed problem; a balanced one is done after one

Maybe = Any  # an array (p,), or None in a problem that has no such part

einsum: Callable[..., Array] = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@struct.dataclass
class Problem:
    """Independent problems in units of epsilon.

    Attributes:
        cost: (p, n, m).
        a: (p, n), row sums.
        b: (p, m), column sums.
        rows: (p, n) bool, has mass.
        cols: (p, m) bool, has mass.
        slack: (p,), mass of one dummy point per side; None: balanced.
        dummies: (p,) bool, whether they have mass and there are real points that they could meet.
        price: (p,), cost of meeting the dummy point.
        tau_a: (p,), how much the row sums count; None: fully, like 1.
        tau_b: (p,), the same for column sums.
        backend: "xla", or "pallas" inside of a kernel of `vitjax.ot.solvers.pallas`; static.
    """

    cost: Any
    a: Any
    b: Any
    rows: Any
    cols: Any
    slack: Any
    dummies: Any
    price: Any
    tau_a: Any
    tau_b: Any
    backend: str = struct.field(pytree_node=False, default="xla")


class Sides(NamedTuple):
    """One number per row and column, and per dummy point: potentials, scalings or sums."""

    rows: Float[Array, "p n"]
    cols: Float[Array, "p m"]
    row_slack: Maybe = None
    col_slack: Maybe = None


class Kernel(NamedTuple):
    """exp of potentials minus cost, and the same for the dummy points."""

    real: Float[Array, "p n m"]
    to_slack: Maybe = None  # (p, n), the dummy column
    from_slack: Maybe = None  # (p, m), the dummy row; the corner is 0: dummies never meet


def prepare(problem: TransportProblem) -> Problem:
    """Brings problems in units of epsilon and marks which tokens have mass."""
    cost, a, b, epsilon, slack = problem.cost, problem.a, problem.b, problem.epsilon, problem.dummy_mass
    tiny = jnp.finfo(cost.dtype).tiny
    rows, cols = ~(a <= tiny), ~(b <= tiny)  # NaN counts as mass, so that it shows in the result
    # A side without any mass leaves the other side nowhere to go: an empty plan, and an error that says so.
    rows, cols = rows & any_of(cols, keepdims=True), cols & any_of(rows, keepdims=True)
    scaled = jnp.where(rows[:, :, None] & cols[:, None, :], cost, 0.0) / epsilon[:, None, None]
    # Any constant price gives the same plan, the dummies' own scalings absorb it; 1 = the cost of zero
    # similarity.
    dummies = None if slack is None else (slack > 0) & any_of(rows)
    tau_a, tau_b = problem.taus or (None, None)
    return Problem(scaled, a, b, rows, cols, slack, dummies, 1.0 / epsilon, tau_a, tau_b)


def first_potentials(problem: Problem) -> Sides:
    """Hard c-transforms: f_i = min_j cost_ij - g_j, g_j = min_i cost_ij - f_i, where there is mass."""
    no_row, no_col = jnp.where(problem.rows, 0.0, _FAR), jnp.where(problem.cols, 0.0, _FAR)
    slack = problem.slack is not None
    no_slack: Maybe = jnp.where(problem.dummies, 0.0, _FAR) if slack else None
    tau_a, tau_b = (1.0, 1.0) if problem.tau_a is None else (problem.tau_a[:, None], problem.tau_b[:, None])
    cols = jnp.zeros_like(problem.b)
    for _ in range(1 if problem.tau_a is None else _RELAXED_START):
        rows = _min(problem.cost + (no_col - cols)[:, None, :], -1)
        if slack:
            rows = jnp.minimum(rows, (problem.price + no_slack)[:, None])
        rows = tau_a * jnp.where(problem.rows, rows, 0.0)
        cols = _min(problem.cost + (no_row - rows)[:, :, None], -2)
        if slack:
            # The dummy row costs its price everywhere, so its potential is the price, which leaves 0 here.
            cols = jnp.minimum(cols, no_slack[:, None])
        cols = tau_b * jnp.where(problem.cols, cols, 0.0)
    sides = Sides(jnp.where(problem.rows, rows, -_FAR), jnp.where(problem.cols, cols, -_FAR))
    if not slack:
        return sides
    col_slack = _min(problem.price[:, None] - rows + no_row, -1)
    return sides._replace(
        row_slack=jnp.where(problem.dummies, problem.price, -_FAR),
        col_slack=jnp.where(problem.dummies, col_slack, -_FAR),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _min(x: Array, axis: int) -> Array:
    """Minimum with the derivative of one entry; jnp.min's compares floats that XLA may round two ways."""
    return jnp.min(x, axis=axis)


@_min.defjvp
def _min_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    where = jnp.expand_dims(jnp.argmin(x, axis=axis), axis)
    # By this function again, not jnp.min: the rule is itself differentiated for a Hessian.
    return _min(x, axis), jnp.take_along_axis(dx, where, axis=axis).squeeze(axis)


def make_kernel(problem: Problem, potentials: Sides) -> Kernel:
    """Kernel that has absorbed these potentials; 0 where there is no mass."""
    real = jnp.exp((potentials.rows[:, :, None] - problem.cost) + potentials.cols[:, None, :])
    if problem.slack is None:
        return Kernel(real)
    price = problem.price[:, None]
    return Kernel(
        real,
        jnp.exp((potentials.rows - price) + potentials.col_slack[:, None]),
        jnp.exp((potentials.cols - price) + potentials.row_slack[:, None]),
    )


def ones(problem: Problem) -> Sides:
    """Scalings of a kernel that has just absorbed them."""
    slack = None if problem.slack is None else problem.dummies.astype(problem.a.dtype)
    return Sides(problem.rows.astype(problem.a.dtype), problem.cols.astype(problem.b.dtype), slack, slack)


def absorb(problem: Problem, potentials: Sides, scale: Sides) -> Sides:
    """Potentials that hold the scalings as well."""

    def add(potential, scaling, live):
        return potential + jnp.log(jnp.where(live, scaling, 1.0))

    rows = add(potentials.rows, scale.rows, problem.rows)
    cols = add(potentials.cols, scale.cols, problem.cols)
    if problem.slack is None:
        return Sides(rows, cols)
    row_slack = add(potentials.row_slack, scale.row_slack, problem.dummies)
    return Sides(rows, cols, row_slack, add(potentials.col_slack, scale.col_slack, problem.dummies))


def any_of(x: Bool[Array, "*batch k"], *, keepdims: bool = False) -> Bool[Array, "..."]:
    """Whether any is true along the last axis; by a maximum, which every compiler of kernels knows."""
    return jnp.max(x.astype(jnp.float32), axis=-1, keepdims=keepdims) > 0


def too_large(problem: Problem, scale: Sides) -> Bool[Array, " p"]:
    """Problems whose scalings should be absorbed."""

    def large(scaling, live):
        return (scaling > _LARGE) | (jnp.where(live, scaling, 1.0) < 1 / _LARGE)

    found = any_of(large(scale.rows, problem.rows)) | any_of(large(scale.cols, problem.cols))
    if problem.slack is None:
        return found
    return found | large(scale.row_slack, problem.dummies) | large(scale.col_slack, problem.dummies)


def row_sums(problem: Problem, kernel: Kernel, scale: Sides) -> dict[str, Array]:
    """Kernel times column scalings: what a row's scaling is multiplied with."""
    if problem.backend == "pallas":  # a product of one vector is no work for matrix units
        rows = jnp.sum(kernel.real * scale.cols[:, None, :], axis=2)
    else:
        rows = einsum("pnm,pm->pn", kernel.real, scale.cols)
    if kernel.to_slack is None:
        return {"rows": rows}
    dropped = kernel.to_slack * scale.col_slack[:, None]
    return {"rows": rows + dropped, "row_slack": jnp.sum(kernel.from_slack * scale.cols, axis=-1)}


def col_sums(problem: Problem, kernel: Kernel, scale: Sides) -> dict[str, Array]:
    """Row scalings times kernel: what a column's scaling is multiplied with."""
    if problem.backend == "pallas":
        cols = jnp.sum(kernel.real * scale.rows[:, :, None], axis=1)
    else:
        cols = einsum("pnm,pn->pm", kernel.real, scale.rows)
    if kernel.to_slack is None:
        return {"cols": cols}
    added = kernel.from_slack * scale.row_slack[:, None]
    return {"cols": cols + added, "col_slack": jnp.sum(kernel.to_slack * scale.rows, axis=-1)}


def new_rows(
    problem: Problem, potentials: Sides, scale: Sides, sums: Sides, level: Maybe
) -> dict[str, Array]:
    """Row scalings of the next half-iteration; `level` None: a plain one (see `_over`)."""
    rows = _scaling(problem.a, sums.rows, problem.rows, potentials.rows, problem.tau_a)
    new = {"rows": _over(rows, scale.rows, problem.rows, level)}
    if problem.slack is not None:
        slack = _scaling(problem.slack, sums.row_slack, problem.dummies)
        new["row_slack"] = _over(slack, scale.row_slack, problem.dummies, level)
    return new


def new_cols(
    problem: Problem, potentials: Sides, scale: Sides, sums: Sides, level: Maybe
) -> dict[str, Array]:
    """Column scalings of the next half-iteration; `level` None: a plain one (see `_over`)."""
    cols = _scaling(problem.b, sums.cols, problem.cols, potentials.cols, problem.tau_b)
    new = {"cols": _over(cols, scale.cols, problem.cols, level)}
    if problem.slack is not None:
        slack = _scaling(problem.slack, sums.col_slack, problem.dummies)
        new["col_slack"] = _over(slack, scale.col_slack, problem.dummies, level)
    return new


def _scaling(wanted, sums, live, potential: Maybe = None, tau: Maybe = None) -> Array:
    """Scaling that gives the wanted sums, held in range; exactly 0 where there is no mass."""
    present = live.astype(wanted.dtype)
    if tau is None:
        return jnp.clip(wanted / (sums + (1.0 - present)), present / _LIMIT, present * _LIMIT)
    # The whole potential, absorbed part and scaling, is tau times the balanced one.
    tiny = jnp.finfo(wanted.dtype).tiny
    balanced = jnp.log(jnp.where(live, wanted, 1.0)) - jnp.log(jnp.where(live, jnp.maximum(sums, tiny), 1.0))
    tau, potential = tau[:, None], jnp.where(live, potential, 0.0)
    range_ = jnp.log(_LIMIT)
    return present * jnp.exp(jnp.clip(tau * balanced - (1.0 - tau) * potential, -range_, range_))


def _over(new: Array, old: Array, live: Bool[Array, "..."], level: Maybe) -> Array:
    """Over-relaxed scaling: nearly old * (new / old)^omega, with omega - 1 = `_BEYOND[level]`.

    Source: Thibault et al. 2017 (arXiv:1711.01851), Eq. 3.1; Lehmann et al. 2021 (arXiv:2012.12562) for what
    omega does to the rate. Differs in that the power is its Pade approximant [1/1], one division: the same
    to second order in new / old - 1, so the rate is, and never more than (1 + t) / (1 - t) beyond new, with
    t = omega - 1, so far from the solution it is the safer of the two.
    """
    if level is None:
        return new
    beyond = jnp.zeros(level.shape, new.dtype)
    for at, value in enumerate(_BEYOND):
        beyond = jnp.where(level == at, value, beyond)
    beyond = beyond.reshape(-1, *(1,) * (new.ndim - 1))
    near, far = 1.0 - beyond, 1.0 + beyond
    new = new * ((far * new + near * old) / jnp.where(live, near * new + far * old, 1.0))
    present = live.astype(new.dtype)
    return jnp.clip(new, present / _LIMIT, present * _LIMIT)


def row_error(problem: Problem, potentials: Sides, scale: Sides, sums: Sides) -> Float[Array, " p"]:
    """L1 distance of the plan's row sums, scale * sums, from those that the next iteration would give them.

    Balanced and partial: from the marginal `a`, since that is what an iteration gives the rows.
    """
    wanted = problem.a
    if problem.tau_a is not None:
        wanted = sums.rows * _scaling(wanted, sums.rows, problem.rows, potentials.rows, problem.tau_a)
    error = jnp.sum(jnp.abs(scale.rows * sums.rows - wanted), axis=-1)
    if problem.slack is not None:
        error += jnp.abs(scale.row_slack * sums.row_slack - problem.slack)
    return error


def col_error(problem: Problem, potentials: Sides, scale: Sides, sums: Sides) -> Float[Array, " p"]:
    """The same for columns."""
    wanted = problem.b
    if problem.tau_b is not None:
        wanted = sums.cols * _scaling(wanted, sums.cols, problem.cols, potentials.cols, problem.tau_b)
    error = jnp.sum(jnp.abs(scale.cols * sums.cols - wanted), axis=-1)
    if problem.slack is not None:
        error += jnp.abs(scale.col_slack * sums.col_slack - problem.slack)
    return error
