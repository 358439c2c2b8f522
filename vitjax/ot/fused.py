"""Batched Sinkhorn scaling: the kernel domain's speed with the log domain's range.

Potentials f and g are absorbed in a kernel, K = exp((f_i + g_j - cost_ij) / epsilon), on which only scalings
u and v move, by two matrix-vector products per iteration. Every few iterations the problems whose scalings
have grown large absorb them (f += epsilon log u, g += epsilon log v) and get a new kernel: the stabilised
scaling of Schmitzer 2019 (arXiv:1610.06519, section 3). At the usual epsilon of 0.05 that never happens, and
the one exp per entry is paid once; at 0.0001 it happens nearly every time, and the cost is the log domain's.
Each problem decides for itself and keeps its own kernel bit for bit when a batch-mate gets a new one, so
results do not depend on the batch.

Why nothing under- or overflows: the first potentials are hard c-transforms of each other (the epsilon -> 0
limit of an iteration), so every row and column of the first kernel holds an entry that is exactly 1, and
later kernels are plans whose columns sum to b. From there an iteration can only move a scaling by a factor
that the marginals bound. The scalings are also held in [1 / LIMIT, LIMIT], which only marginals with all but
weightless tokens at a tiny epsilon reach; the next round goes on from there, so that costs iterations, never
a NaN.

Partial transport adds one dummy point per side as a vector and a scalar, not as a larger matrix:
r = a / (K c + k c0), r0 = (1 - s) / (k' c), and the same for the columns. Relaxed transport (Chizat et al.
2018, arXiv:1607.05816) raises the update to the power tau.

Backward pass: unrolled; it keeps one kernel per round of 10 iterations.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vitjax.ot.outputs import Transport

_ROUND = 10  # iterations between looks at the scalings
_LARGE = 2.0**20  # a scaling beyond this, or below its inverse, is absorbed
_LIMIT = 2.0**60  # and this far it can go within a round
_FAR = 1e30  # stands for infinity where an infinity would turn into NaN; exp(-_FAR) is 0
_RELAXED_START = 8  # hard iterations to begin a relaxed problem; a balanced one is done after one

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


class _State(NamedTuple):
    potentials: _Sides  # absorbed in the kernel
    kernel: _Kernel
    scale: _Sides  # since then


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
    state = _start(problem)
    rounds, rest = divmod(iterations - 1, _ROUND)
    if tolerance is None:

        def round_(state, _):
            return _rebase(problem, _iterate(problem, state, _ROUND)), None

        # Checkpointed: backward keeps one kernel per round and repeats the round's iterations.
        state, _ = jax.lax.scan(jax.checkpoint(round_, prevent_cse=False), state, length=rounds)
    else:
        state = _until(problem, state, tolerance, rounds)
    # The last iterations are not absorbed: u K v has the marginals to rounding, exp(f + g - cost) has not.
    return _result(problem, _iterate(problem, state, rest + 1))


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
    no_slack: Maybe = jnp.where(problem.slack > 0, 0.0, _FAR) if slack else None
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
    sides = _Sides(jnp.where(problem.rows, rows, -_FAR), jnp.where(problem.cols, cols, -_FAR))
    if not slack:
        return sides
    col_slack = _min(problem.price[:, None] - rows + no_row, -1)
    return sides._replace(
        row_slack=jnp.where(problem.slack > 0, problem.price, -_FAR),
        col_slack=jnp.where(problem.slack > 0, col_slack, -_FAR),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _min(x: Array, axis: int) -> Array:
    """Minimum with the derivative of one entry; jnp.min's compares floats that XLA may round two ways."""
    return jnp.min(x, axis=axis)


@_min.defjvp
def _min_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    where = jnp.expand_dims(jnp.argmin(x, axis=axis), axis)
    return jnp.min(x, axis=axis), jnp.take_along_axis(dx, where, axis=axis).squeeze(axis)


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


def _start(problem: _Problem) -> _State:
    potentials = _first_potentials(problem)
    return _State(potentials, _kernel(problem, potentials), _ones(problem))


def _ones(problem: _Problem) -> _Sides:
    """Scalings of a kernel that has just absorbed them."""
    slack = None if problem.slack is None else jnp.ones_like(problem.slack)
    return _Sides(problem.rows.astype(problem.a.dtype), problem.cols.astype(problem.b.dtype), slack, slack)


def _iterate(problem: _Problem, state: _State, count: int) -> _State:
    def step(scale: _Sides, _):
        sums = _row_sums(state.kernel, scale)
        scale = scale._replace(**_update_rows(problem, state.potentials, sums))
        sums = _col_sums(state.kernel, scale)
        return scale._replace(**_update_cols(problem, state.potentials, sums)), None

    return state._replace(scale=jax.lax.scan(step, state.scale, length=count)[0])


def _rebase(problem: _Problem, state: _State) -> _State:
    """Absorbs the scalings of those problems where they have grown large, and rebuilds only these kernels."""
    moved = _moved(problem, state.scale)

    def absorb(state: _State) -> _State:
        potentials = _absorb(problem, state.potentials, state.scale)
        new = _State(potentials, _kernel(problem, potentials), _ones(problem))
        return jax.tree.map(functools.partial(_where, moved), new, state)

    return jax.lax.cond(moved.any(), absorb, lambda state: state, state)


def _moved(problem: _Problem, scale: _Sides) -> Bool[Array, " p"]:
    def large(scaling, live):
        return live & ((scaling > _LARGE) | (scaling < 1 / _LARGE))

    moved = large(scale.rows, problem.rows).any(-1) | large(scale.cols, problem.cols).any(-1)
    if problem.slack is None:
        return moved
    live = problem.slack > 0
    return moved | large(scale.row_slack, live) | large(scale.col_slack, live)


def _where(which: Bool[Array, " p"], new: Array, old: Array) -> Array:
    return jnp.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


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


def _row_error(problem: _Problem, state: _State, sums: _Sides) -> Float[Array, " p"]:
    """L1 distance of the plan's row sums, scale * sums, from those that the next iteration would give them.

    Balanced and partial: from the marginal `a`, since that is what an iteration gives the rows.
    """
    if problem.tau_a is None:
        wanted = problem.a
    else:
        wanted = sums.rows * _scaling(
            problem.a, sums.rows, problem.rows, state.potentials.rows, problem.tau_a
        )
    error = jnp.sum(jnp.abs(state.scale.rows * sums.rows - wanted), axis=-1)
    if problem.slack is not None:
        error += jnp.abs(state.scale.row_slack * sums.row_slack - problem.slack)
    return error


def _col_error(problem: _Problem, state: _State, sums: _Sides) -> Float[Array, " p"]:
    if problem.tau_b is None:
        wanted = problem.b
    else:
        wanted = sums.cols * _scaling(
            problem.b, sums.cols, problem.cols, state.potentials.cols, problem.tau_b
        )
    error = jnp.sum(jnp.abs(state.scale.cols * sums.cols - wanted), axis=-1)
    if problem.slack is not None:
        error += jnp.abs(state.scale.col_slack * sums.col_slack - problem.slack)
    return error


def _until(problem: _Problem, state: _State, tolerance, rounds: int) -> _State:
    """Runs rounds until every problem is within its tolerance; one that is stays exactly as it is."""

    def unfinished(carry):
        count, _, active = carry
        return (count < rounds) & active.any()

    def body(carry):
        count, old, active = carry
        new = _iterate(problem, old, _ROUND)
        error = _row_error(problem, new, _row_sums(new.kernel, new.scale))
        new = new._replace(scale=jax.tree.map(functools.partial(_where, active), new.scale, old.scale))
        # Not `~(error <= tolerance)`: a NaN problem would keep the others waiting for ever.
        return count + 1, _rebase(problem, new), active & (error > tolerance)

    return jax.lax.while_loop(unfinished, body, (0, state, jnp.ones(tolerance.shape, bool)))[1]


def _result(problem: _Problem, state: _State) -> Transport:
    scale = state.scale
    plan = scale.rows[:, :, None] * state.kernel.real * scale.cols[:, None, :]
    row_error = _row_error(problem, state, _row_sums(state.kernel, scale))
    col_error = _col_error(problem, state, _col_sums(state.kernel, scale))
    return Transport(plan, row_error, col_error, plan.sum((-2, -1)))
