"""The transport problems: balanced, partial and relaxed, with any leading dimensions and any solver."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import ranges
from vitjax.errors import UserError
from vitjax.ot import released
from vitjax.ot.outputs import Transport, Values
from vitjax.ot.problem import Number, Solver, SolverOptions, TransportProblem
from vitjax.ot.solvers import find_solver


def sinkhorn(
    cost: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    epsilon: Number,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
    compat: str | None = None,
) -> Transport:
    """Entropic transport of all mass: minimises sum(plan * cost) - epsilon * entropy(plan) under both
    marginals.

    Inside a `jax.shard_map` of your own, pass it check_vma=False.

    Source: Cuturi 2013 (arXiv:1306.0895), Alg. 1. Solved in float32 (float64 where the cost is), every
    problem of the batch for itself: its result does not depend on the others.

    Args:
        cost: finite wherever both marginals have mass, of any level; 1 - cosine for unit tokens.
        a: row sums; non-negative, each problem's sum 1. An exact 0 takes the row out.
        b: column sums; likewise.
        epsilon: entropic regularisation in units of the cost; a number or one per problem; may be traced.
        iterations: at most this many passes over rows and columns; static.
        tolerance: a problem is done once row_error + col_error is at most this, checked every few
            iterations; 0 = run them all. May be traced. Gradients: 0 unrolls the iterations, exact for the
            plan they gave, of any order and in either mode; above 0 they come from the optimality
            conditions (`vitjax.ot.solvers.implicit_diff`), with less memory and an error of about the
            tolerance, in reverse mode: of the second derivatives only `jvp` of a gradient, no `jvp` of the
            plan itself.
        solver: "fused", ours; "pallas", the same iterations in one kernel that keeps a problem on chip (see
            `vitjax.ot.solvers.pallas`; gradients as with a tolerance above 0); "ott", OTT-JAX; another name
            that you gave a solver in `vitjax.ot.SOLVERS`; or the `vitjax.ot.Solver` itself. Static.
        compat: "released" gives what the papers' code gives, batch-wide early stop included; tolerance and
            solver are then ignored.

    Returns:
        The plan, its L1 marginal errors and its mass. A problem whose arrays hold NaN has NaN errors and
        leaves the others alone, so does a traced epsilon of NaN; one without any mass has an empty plan and
        the missing mass as its error.

    Raises:
        ValueError: shapes that do not belong together, or a number out of its range as far as it is known
            before tracing, whether Python's, NumPy's or an array.

    >>> import jax.numpy as jnp
    >>> half = jnp.full(2, 0.5)
    >>> sinkhorn(1 - jnp.eye(2), half, half, epsilon=0.05).plan.round(3).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    options = SolverOptions(epsilon, iterations, tolerance, solver)
    if compat is not None:
        return _released(cost, a, b, options, None, compat)
    return transport_value(cost, None, a, b, options)[0]


def partial_sinkhorn(
    cost: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    mass: Number,
    epsilon: Number,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
    compat: str | None = None,
) -> Transport:
    """Entropic transport of a given share of the mass; the rest meets a dummy point of its own side.

    Source: "Beyond the CLS Token", BMVC 2022: one dummy point per side with mass 1 - s, zero similarity to
    every real point, forbidden to meet the other dummy. The entropy is that of the extended plan, dummy
    points included: another plan than POT's `entropic_partial_wasserstein`, whose entropy is of the real
    points alone (in scores of photos about .01 at a mass of .9). Solved to convergence of the marginals,
    where the released code stops on a batch-wide change of the scalings and may move almost no mass; see
    `vitjax.ot.released`.

    Args:
        cost: as in `sinkhorn`.
        a: row sums, each problem's sum 1.
        b: column sums, likewise.
        mass: share s in (0, 1] that must be moved; a number or one per problem; may be traced. 1 is
            `sinkhorn`. Its gradient is one-sided at 1, where there are no dummy points, and given as 0: learn
            a mass from below 1.
        epsilon: as in `sinkhorn`.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`, on the errors of the extended problem.
        solver: as in `sinkhorn`.
        compat: as in `sinkhorn`.

    Returns:
        The plan among real points; errors are of the extended problem, dummy points included.

    >>> import jax.numpy as jnp
    >>> half = jnp.full(2, 0.5)
    >>> round(float(partial_sinkhorn(1 - jnp.eye(2), half, half, mass=0.5, epsilon=0.05).mass), 4)
    0.5
    """
    options = SolverOptions(epsilon, iterations, tolerance, solver)
    if compat is not None:
        return _released(cost, a, b, options, mass, compat)
    return transport_value(cost, None, a, b, options, mass=mass)[0]


def relaxed_sinkhorn(
    cost: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    tau_a: Number,
    tau_b: Number,
    epsilon: Number,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
) -> Transport:
    """Entropic transport whose marginals may be violated at a penalty: rho * KL(plan's marginal, wanted
    marginal).

    Source: Chizat et al. 2018 (arXiv:1607.05816), with OTT-JAX's parameter tau = rho / (rho + epsilon): 1 =
    balanced, 0 = that marginal is free. tau_a = 1 and tau_b = 0 in the limit epsilon -> 0 is every row's best
    match.

    Args:
        cost: as in `sinkhorn`. The mass that is moved depends on its level, not only on differences.
        a: row sums, each problem's sum 1. An exact 0 takes the row out, also where tau is 0.
        b: column sums, likewise.
        tau_a: in [0, 1]; a number or one per problem; may be traced.
        tau_b: likewise.
        epsilon: as in `sinkhorn`.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`, on the errors named below.
        solver: as in `sinkhorn`.

    Returns:
        The plan; its mass is free. Errors are measured against the marginals that the problem's own
        optimality condition asks for, a * exp(-f / rho), not against a: they go to 0 as iterations converge.
    """
    options = SolverOptions(epsilon, iterations, tolerance, solver)
    return transport_value(cost, None, a, b, options, taus=(tau_a, tau_b))[0]


def transport_value(
    cost: Float[Values, "*batch n m"],
    similarity: Any,
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    options: SolverOptions,
    *,
    mass: Number | None = None,
    taus: tuple[Number, Number] | None = None,
) -> tuple[Transport, Any]:
    """Transport, and sum(plan * similarity) without a plan: under jit one that is not used is never formed.

    Balanced where `mass` and `taus` are None, else `partial_sinkhorn` or `relaxed_sinkhorn`, with the other
    arguments as there. `similarity`: (..., n, m), or None: the value is None.
    """
    cost, a, b = _checked(cost, a, b, options, mass, taus)
    solver, batch = find_solver(options.solver), cost.shape[:-2]
    if 0 in cost.shape:
        return _nothing(cost, a, b)

    def per_problem(value: Number) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, cost.dtype), batch).reshape(math.prod(batch))

    def flat(x: Array, dimensions: int) -> Array:
        return x.reshape(math.prod(batch), *x.shape[x.ndim - dimensions :])

    # A number, known before tracing, picks the cheaper program; a traced value of the same size gives the
    # same plan.
    balanced = mass is None or ranges.known_number(mass) == 1
    fixed_iterations = ranges.known_number(options.tolerance) == 0
    if taus is not None and not solver.plain_taus:
        taus = per_problem(taus[0]), per_problem(taus[1])
    problem = TransportProblem(
        cost=flat(cost if balanced else _from_least(cost, a, b), 2),
        a=flat(a, 1),
        b=flat(b, 1),
        epsilon=per_problem(options.epsilon),
        tolerance=None if fixed_iterations else per_problem(options.tolerance),
        dummy_mass=None if mass is None or balanced else jnp.maximum(1.0 - per_problem(mass), 0.0),
        taus=taus,
        similarity=None if similarity is None else flat(jnp.asarray(similarity).astype(cost.dtype), 2),
    )
    transport, value = solver.solve(problem, options.iterations)
    transport, value = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), (transport, value))
    if value is None and similarity is not None:
        value = jnp.sum(transport.plan * similarity, (-2, -1))
    return transport, value


def _released(
    cost: Values, a: Values, b: Values, options: SolverOptions, mass: Number | None, compat: str
) -> Transport:
    if compat != "released":
        raise UserError(f"vitjax.ot: compat {compat!r} is unknown; known: None, 'released'")
    cost, a, b = _checked(cost, a, b, options, mass, None)
    balanced = mass is None or ranges.known_number(mass) == 1
    mass = None if balanced else jnp.broadcast_to(jnp.asarray(mass, cost.dtype), cost.shape[:-2])
    epsilon = jnp.broadcast_to(jnp.asarray(options.epsilon, cost.dtype), cost.shape[:-2])
    return released.sinkhorn(cost, a, b, mass, epsilon, options.iterations)


def _checked(
    cost: Values,
    a: Values,
    b: Values,
    options: SolverOptions,
    mass: Number | None,
    taus: tuple[Number, Number] | None,
) -> tuple[Array, Array, Array]:
    """The arrays in the type that they are solved in; raises ValueError for what can be seen to be wrong."""
    cost, a, b = jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b)
    if cost.ndim < 2 or a.shape != cost.shape[:-1] or b.shape != (*cost.shape[:-2], cost.shape[-1]):
        raise UserError(
            f"vitjax.ot: cost {cost.shape}, a {a.shape}, b {b.shape} do not belong together; "
            f"give cost (..., n, m), a (..., n) and b (..., m) with the same leading dimensions."
        )
    if options.iterations < 1:
        raise UserError(f"vitjax.ot: iterations is {options.iterations}; it must be at least 1")
    ranges.check("vitjax.ot", "epsilon", options.epsilon, 0, above=True)
    ranges.check("vitjax.ot", "tolerance", options.tolerance, 0)
    if mass is not None:
        ranges.check("vitjax.ot", "mass", mass, 0, 1, above=True)
    for tau in taus or ():
        ranges.check("vitjax.ot", "a tau", tau, 0, 1)
    dtype = jnp.promote_types(cost.dtype, jnp.float32)  # transport is float32 whatever the tokens were
    return cost.astype(dtype), a.astype(dtype), b.astype(dtype)


def _nothing(cost: Array, a: Array, b: Array) -> tuple[Transport, Array]:
    """Of no problems, or of problems without rows or columns: their mass goes nowhere."""
    none = jnp.zeros(cost.shape[:-2], cost.dtype)
    return Transport(jnp.zeros_like(cost), none + a.sum(-1), none + b.sum(-1), none), none


def _from_least(cost: Array, a: Array, b: Array) -> Array:
    """Costs measured from each problem's least, which is the same partial transport.

    The price of the dummies is then near the costs whatever their level, and no first kernel is all zeros.
    """
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    least = jnp.min(jnp.where(live, cost, jnp.inf), axis=(-2, -1), keepdims=True)
    return cost - jax.lax.stop_gradient(jnp.where(jnp.isinf(least), 0.0, least))
