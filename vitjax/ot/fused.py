"""Batched Sinkhorn scaling: the kernel domain's speed with the log domain's range.

Problems are worked on in segments of a few iterations. At the start of a segment the potentials f and g are
absorbed in the kernel, K = exp((f_i + g_j - cost_ij) / epsilon); inside it only the scalings u and v move, by
two matrix-vector products per iteration; at its end log u and log v go back into f and g. This is the
stabilised scaling of Schmitzer 2019 (arXiv:1610.06519, section 3) on a fixed timetable instead of a test per
iteration: one code path for every epsilon, no branch that could tie a pair to its batch-mates, and
reverse-mode differentiable.

Why nothing under- or overflows: the first potentials are hard c-transforms of each other (the epsilon -> 0
limit of an iteration), so every row and column of the first kernel holds an entry that is exactly 1, and
later kernels are plans whose columns sum to b. Within a segment the scalings are held in [1 / LIMIT, LIMIT];
a problem that wants to move further goes on in the next segment, so the limit costs iterations, never a NaN.

Partial transport adds one dummy point per side as a vector and a scalar, not as a larger matrix: r = a / (K c
+ k c0), r0 = (1 - s) / (k' c), and the same for the columns. Relaxed transport (Chizat et al. 2018,
arXiv:1607.05816) raises the update to the power tau.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.ot.outputs import Transport

_SEGMENT = 25  # iterations between absorptions, each of which costs one exp per entry
_LIMIT = (
    2.0**40
)  # entries lost to underflow are below 2^-126 * LIMIT^2: far below float32 resolution of the plan
_FAR = 1e30  # stands for infinity where an infinity would turn into NaN; exp(-_FAR) is 0
_RELAXED_START = (
    8  # hard iterations to begin a relaxed problem; a balanced one is at its fixed point after one
)

Maybe = Any  # an array (p,), or None in a problem that has no such part


class _Problem(NamedTuple):
    """Independent problems in units of epsilon: row sums `a`, column sums `b`.

    `slack` is the mass of a dummy point per side (None: balanced); `tau_a` and `tau_b` relax the marginals
    (None: both 1).
    """

    cost: Float[Array, "p n m"]
    a: Float[Array, "p n"]
    b: Float[Array, "p m"]
    rows: Bool[Array, "p n"]  # has mass
    cols: Bool[Array, "p m"]
    slack: Maybe
    price: Float[Array, " p"]  # cost of meeting the dummy point
    tau_a: Maybe
    tau_b: Maybe


class _Sides(NamedTuple):
    """One number per row and column, and per dummy point: potentials, scalings or sums."""

    rows: Float[Array, "p n"]
    cols: Float[Array, "p m"]
    row_slack: Maybe = None
    col_slack: Maybe = None


class _Kernel(NamedTuple):
    real: Float[Array, "p n m"]
    to_slack: Maybe = None  # (p, n), the dummy column
    from_slack: Maybe = None  # (p, m), the dummy row; the corner is 0: dummies never meet


def transport(
    cost: Float[Array, "p n m"],
    a: Float[Array, "p n"],
    b: Float[Array, "p m"],
    epsilon: Float[Array, " p"],
    slack: Float[Array, " p"] | None,
    tolerance: Float[Array, " p"] | None,
    *,
    taus: tuple[Float[Array, " p"], Float[Array, " p"]] | None,
    iterations: int,
) -> Transport:
    """Entropic transport of p independent problems.

    Args:
        cost: finite wherever both marginals have mass.
        a: row sums, each summing to 1.
        b: column sums, each summing to 1.
        epsilon: in units of the cost.
        slack: mass of one dummy point per side, 1 - s; None = balanced.
        tolerance: marginal error at which a problem is left alone; None = all iterations, differentiable.
        taus: relaxation of rows and columns, in [0, 1]; None = both 1.
        iterations: at most.

    Returns:
        Plans whose columns are exact to rounding; what is left of the error is in the rows.
    """
    problem = _prepare(cost, a, b, epsilon, slack, taus)
    potentials = _first_potentials(problem)
    segments, rest = divmod(iterations - 1, _SEGMENT)
    if tolerance is None:

        def body(potentials, _):
            return _absorb(problem, potentials, _segment(problem, potentials, _SEGMENT)[1]), None

        potentials, _ = jax.lax.scan(body, potentials, length=segments)
    else:
        potentials = _until(problem, potentials, tolerance, segments)
    # The last segment stays unabsorbed: u K v has marginals exact to rounding, exp(f + g - cost) has not.
    kernel, scale = _segment(problem, potentials, rest + 1)
    return _result(problem, potentials, kernel, scale)


def _prepare(cost, a, b, epsilon, slack, taus) -> _Problem:
    tiny = jnp.finfo(cost.dtype).tiny
    rows, cols = ~(a <= tiny), ~(b <= tiny)  # NaN counts as mass, so that it shows in the result
    # A side without any mass leaves the other side nowhere to go: an empty plan, and an error that says so.
    rows, cols = rows & cols.any(-1, keepdims=True), cols & rows.any(-1, keepdims=True)
    scaled = jnp.where(rows[:, :, None] & cols[:, None, :], cost, 0.0) / epsilon[:, None, None]
    # Any constant price gives the same plan, the dummies' own scalings absorb it; 1 = the cost of zero
    # similarity.
    return _Problem(scaled, a, b, rows, cols, slack, 1.0 / epsilon, *(taus or (None, None)))


def _first_potentials(problem: _Problem) -> _Sides:
    """Hard c-transforms: f_i = min_j cost_ij - g_j, g_j = min_i cost_ij - f_i, where there is mass."""
    no_row, no_col = jnp.where(problem.rows, 0.0, _FAR), jnp.where(problem.cols, 0.0, _FAR)
    slack = problem.slack is not None
    no_slack = jnp.where(problem.slack > 0, 0.0, _FAR) if slack else None
    tau_a, tau_b = (1.0, 1.0) if problem.tau_a is None else (problem.tau_a[:, None], problem.tau_b[:, None])
    cols = jnp.zeros_like(problem.b)
    for _ in range(1 if problem.tau_a is None else _RELAXED_START):
        rows = jnp.min(problem.cost + (no_col - cols)[:, None, :], axis=-1)
        if slack:
            rows = jnp.minimum(rows, (problem.price + no_slack)[:, None])
        rows = tau_a * jnp.where(problem.rows, rows, 0.0)
        cols = jnp.min(problem.cost + (no_row - rows)[:, :, None], axis=-2)
        if (
            slack
        ):  # the dummy row costs its price everywhere: its own minimum is the price, which leaves 0 here
            cols = jnp.minimum(cols, no_slack[:, None])
        cols = tau_b * jnp.where(problem.cols, cols, 0.0)
    sides = _Sides(jnp.where(problem.rows, rows, -_FAR), jnp.where(problem.cols, cols, -_FAR))
    if not slack:
        return sides
    col_slack = jnp.min(problem.price[:, None] - rows + no_row, axis=-1)
    return sides._replace(
        row_slack=jnp.where(problem.slack > 0, problem.price, -_FAR),
        col_slack=jnp.where(problem.slack > 0, col_slack, -_FAR),
    )


def _kernel(problem: _Problem, potentials: _Sides) -> _Kernel:
    real = jnp.exp((potentials.rows[:, :, None] - problem.cost) + potentials.cols[:, None, :])
    if problem.slack is None:
        return _Kernel(real)
    price = problem.price[:, None]
    return _Kernel(
        real,
        jnp.exp((potentials.rows - price) + potentials.col_slack[:, None]),
        jnp.exp((potentials.cols - price) + potentials.row_slack[:, None]),
    )


def _segment(problem: _Problem, potentials: _Sides, length: int) -> tuple[_Kernel, _Sides]:
    """Runs `length` iterations on one kernel; returns it and the scalings."""
    kernel = _kernel(problem, potentials)
    ones = None if problem.slack is None else jnp.ones_like(problem.slack)
    start = _Sides(problem.rows.astype(problem.a.dtype), problem.cols.astype(problem.b.dtype), ones, ones)

    def step(scale: _Sides, _):
        sums = _row_sums(kernel, scale)
        scale = scale._replace(**_update_rows(problem, potentials, sums))
        sums = _col_sums(kernel, scale)
        return scale._replace(**_update_cols(problem, potentials, sums)), None

    return kernel, jax.lax.scan(step, start, length=length)[0]


def _update_rows(problem: _Problem, potentials: _Sides, sums: _Sides) -> dict[str, Array]:
    new = {"rows": _scaling(problem.a, sums.rows, problem.rows, potentials.rows, problem.tau_a)}
    if problem.slack is not None:
        new["row_slack"] = _scaling(problem.slack, sums.row_slack, problem.slack > 0)
    return new


def _update_cols(problem: _Problem, potentials: _Sides, sums: _Sides) -> dict[str, Array]:
    new = {"cols": _scaling(problem.b, sums.cols, problem.cols, potentials.cols, problem.tau_b)}
    if problem.slack is not None:
        new["col_slack"] = _scaling(problem.slack, sums.col_slack, problem.slack > 0)
    return new


def _row_sums(kernel: _Kernel, scale: _Sides) -> _Sides:
    rows = _einsum("pnm,pm->pn", kernel.real, scale.cols)
    if kernel.to_slack is None:
        return _Sides(rows, scale.cols)
    dropped = kernel.to_slack * scale.col_slack[:, None]
    return _Sides(rows + dropped, scale.cols, row_slack=jnp.sum(kernel.from_slack * scale.cols, axis=-1))


def _col_sums(kernel: _Kernel, scale: _Sides) -> _Sides:
    cols = _einsum("pnm,pn->pm", kernel.real, scale.rows)
    if kernel.to_slack is None:
        return _Sides(scale.rows, cols)
    added = kernel.from_slack * scale.row_slack[:, None]
    return _Sides(scale.rows, cols + added, col_slack=jnp.sum(kernel.to_slack * scale.rows, axis=-1))


_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _scaling(wanted, sums, live, potential=None, tau=None) -> Array:
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


def _absorb(problem: _Problem, potentials: _Sides, scale: _Sides) -> _Sides:
    def add(potential, scaling, live):
        return potential + jnp.log(jnp.where(live, scaling, 1.0))

    rows = add(potentials.rows, scale.rows, problem.rows)
    cols = add(potentials.cols, scale.cols, problem.cols)
    if problem.slack is None:
        return _Sides(rows, cols)
    live = problem.slack > 0
    row_slack = add(potentials.row_slack, scale.row_slack, live)
    return _Sides(rows, cols, row_slack, add(potentials.col_slack, scale.col_slack, live))


def _row_error(problem: _Problem, potentials: _Sides, scale: _Sides, sums: _Sides) -> Float[Array, " p"]:
    """L1 distance of the plan's row sums, scale * sums, from those that the next iteration would give them.

    Balanced and partial: from the marginal `a`, since that is what an iteration gives the rows.
    """
    if problem.tau_a is None:
        wanted = problem.a
    else:
        wanted = sums.rows * _scaling(problem.a, sums.rows, problem.rows, potentials.rows, problem.tau_a)
    error = jnp.sum(jnp.abs(scale.rows * sums.rows - wanted), axis=-1)
    if problem.slack is not None:
        error += jnp.abs(scale.row_slack * sums.row_slack - problem.slack)
    return error


def _col_error(problem: _Problem, potentials: _Sides, scale: _Sides, sums: _Sides) -> Float[Array, " p"]:
    if problem.tau_b is None:
        wanted = problem.b
    else:
        wanted = sums.cols * _scaling(problem.b, sums.cols, problem.cols, potentials.cols, problem.tau_b)
    error = jnp.sum(jnp.abs(scale.cols * sums.cols - wanted), axis=-1)
    if problem.slack is not None:
        error += jnp.abs(scale.col_slack * sums.col_slack - problem.slack)
    return error


def _until(problem: _Problem, potentials: _Sides, tolerance, segments: int) -> _Sides:
    """Runs segments until every problem is within its tolerance; one that is stays exactly as it is."""

    def unfinished(state):
        count, _, active = state
        return (count < segments) & active.any()

    def body(state):
        count, old, active = state
        kernel, scale = _segment(problem, old, _SEGMENT)
        error = _row_error(problem, old, scale, _row_sums(kernel, scale))
        moved = _absorb(problem, old, scale)
        new = jax.tree.map(
            lambda new, old: jnp.where(active.reshape(-1, *(1,) * (new.ndim - 1)), new, old), moved, old
        )
        # Not `~(error <= tolerance)`: a NaN problem would keep the others waiting for ever.
        return count + 1, new, active & (error > tolerance)

    start = (0, potentials, jnp.ones(tolerance.shape, bool))
    return jax.lax.while_loop(unfinished, body, start)[1]


def _result(problem: _Problem, potentials: _Sides, kernel: _Kernel, scale: _Sides) -> Transport:
    plan = scale.rows[:, :, None] * kernel.real * scale.cols[:, None, :]
    row_error = _row_error(problem, potentials, scale, _row_sums(kernel, scale))
    col_error = _col_error(problem, potentials, scale, _col_sums(kernel, scale))
    return Transport(plan, row_error, col_error, plan.sum((-2, -1)))
