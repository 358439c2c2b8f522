"""Scores of two images from the similarities of their tokens, each with the plan that explains it.

All take `similarity` (..., n, m), cosines of unit tokens, and the weights `a` (..., n) and `b` (..., m) of
the tokens, each summing to 1; an exact 0 takes a token out. Every pair is scored for itself, and a score is
absolute: its range is stated, and it is 1 for an image and itself in the limit of small epsilon.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import ranges
from vitjax.ot.nearest import chamfer, mutual_nearest
from vitjax.ot.outputs import StructuralMatch, Values
from vitjax.ot.priced import priced_sinkhorn
from vitjax.ot.problem import Number, Solver, SolverOptions
from vitjax.ot.solve import transport_value


def partial_match(
    similarity: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    mass: Number = 1.0,
    epsilon: Number = 0.05,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
) -> StructuralMatch:
    """Transport of a given share of the mass: score = sum(plan * similarity), in [-mass, mass].

    Source: "Beyond the CLS Token", BMVC 2022; not divided by the mass, so scores of different mass do not
    compare. Arguments are those of `partial_sinkhorn`, at cost 1 - similarity.
    """
    similarity = jnp.asarray(similarity)
    transport, score = transport_value(
        1.0 - similarity,
        similarity,
        a,
        b,
        SolverOptions(epsilon, iterations, tolerance, solver),
        mass=mass,
    )
    return StructuralMatch(score, transport, similarity)


def relaxed_match(
    similarity: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    tau_a: Number,
    tau_b: Number,
    epsilon: Number = 0.05,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
) -> StructuralMatch:
    """Transport that may leave tokens out: score = sum(plan * similarity) / sum(plan), in [-1, 1].

    The mean similarity of what was matched: divided by the mass, because here the mass is free and differs
    from pair to pair. That also makes the score independent of the level of the cost: a constant added to it
    multiplies the plan by a constant (Sejourne et al. 2022, arXiv:2201.00730), so similarities are measured
    from the pair's largest and no plan is ever too small to divide by.

    tau_a = tau_b = 1 is balanced transport. tau_a = 1, tau_b = 0 with a small epsilon is the mean best match
    of the rows, one half of `chamfer_match`.

    Args:
        similarity: of every token pair.
        a: weights of the rows.
        b: weights of the columns.
        tau_a: in [0, 1]; how firmly the rows' weights are kept, 1 = exactly; see `relaxed_sinkhorn`.
        tau_b: of the columns.
        epsilon: in units of the similarity.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`; relative to the plan's mass.
        solver: as in `sinkhorn`.

    Returns:
        The score, and the plan divided by its mass, errors likewise. An empty plan, of a pair with a side
        without mass, has score 0.
    """
    similarity, a, b = jnp.asarray(similarity), jnp.asarray(a), jnp.asarray(b)
    live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    top = jnp.max(jnp.where(live, similarity, -2.0), axis=(-2, -1), keepdims=True)
    found, value = transport_value(
        jax.lax.stop_gradient(top) - similarity,
        similarity,
        a,
        b,
        SolverOptions(epsilon, iterations, tolerance, solver),
        taus=(tau_a, tau_b),
    )
    total = jnp.where(live.any((-2, -1)), found.mass, 1.0)
    transport = found._replace(
        plan=found.plan / total[..., None, None],
        row_error=found.row_error / total,
        col_error=found.col_error / total,
        mass=found.mass / total,
    )
    return StructuralMatch(value / total, transport, similarity)


def priced_match(
    similarity: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    price: Number,
    epsilon: Number = 0.05,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
) -> StructuralMatch:
    """Transport of a share that the pair itself decides: score = sum(plan * similarity) + floor * (1 - mass).

    `floor` = 1 - price is the similarity below which no match is made; unmatched mass counts as
    matched at exactly that similarity. That is what `priced_sinkhorn` maximises, so a pair never
    gains by matching less, and scores of different mass compare. In [-1, 1] for a price in [0, 2].

    The mass is the share that matches if epsilon is small, see `priced_sinkhorn`: between photos and
    composites that hold a quarter, half, three quarters or all of them, it is .12 off on average at epsilon
    .02, and at .05 .24, mostly too low (`benchmarks/mass.py`).

    Args:
        similarity: of every token pair.
        a: weights of the rows.
        b: weights of the columns.
        price: in units of the cost, 1 - similarity; see `priced_sinkhorn`.
        epsilon: likewise.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`.
        solver: as in `sinkhorn`.

    Returns:
        The score, the plan and its mass.
    """
    similarity = jnp.asarray(similarity)
    transport = priced_sinkhorn(
        1.0 - similarity,
        a,
        b,
        price=price,
        epsilon=epsilon,
        iterations=iterations,
        tolerance=tolerance,
        solver=solver,
    )
    matched = jnp.sum(transport.plan * similarity, axis=(-2, -1))
    return StructuralMatch(matched + unmatched_term(transport.mass, price), transport, similarity)


def mutual_mass_match(
    similarity: Float[Values, "*batch n m"],
    a: Float[Values, "*batch n"],
    b: Float[Values, "*batch m"],
    *,
    price: Number,
    least: Number = 0.1,
    epsilon: Number = 0.05,
    iterations: int = 100,
    tolerance: Number = 0.0,
    solver: str | Solver = "fused",
) -> StructuralMatch:
    """Partial transport of the mass in mutual nearest neighbours no dearer than `price`.

    The cheap rule for how much of two images matches: nothing is solved to find the mass, which has no
    gradient. The score is that of `priced_match`.

    Args:
        similarity: of every token pair.
        a: weights of the rows.
        b: weights of the columns.
        price: in units of the cost, 1 - similarity.
        least: of the mass, in (0, 1]: transport of next to nothing says nothing.
        epsilon: as in `partial_sinkhorn`.
        iterations: as in `sinkhorn`.
        tolerance: as in `sinkhorn`.
        solver: as in `sinkhorn`.

    Returns:
        The score, the plan and its mass.
    """
    ranges.check("vitjax.ot", "price", price)
    ranges.check("vitjax.ot", "least", least, 0, 1, above=True)
    similarity = jnp.asarray(similarity)
    plan = mutual_nearest(-similarity, a, b).plan
    worst = jnp.broadcast_to(1.0 - jnp.asarray(price), similarity.shape[:-2])[..., None, None]
    mass = jax.lax.stop_gradient(jnp.sum(jnp.where(similarity >= worst, plan, 0.0), axis=(-2, -1)))
    found = partial_match(
        similarity,
        a,
        b,
        mass=jnp.clip(mass, least, 1.0),
        epsilon=epsilon,
        iterations=iterations,
        tolerance=tolerance,
        solver=solver,
    )
    return found._replace(score=found.score + unmatched_term(found.transport.mass, price))


def unmatched_term(mass: Float[Values, "*batch"], price: Number) -> Float[Array, "*batch"]:
    """What the mass that is not matched adds to the score of `priced_match`."""
    return (1.0 - jnp.asarray(price)) * (1.0 - jnp.asarray(mass))


def chamfer_match(
    similarity: Float[Values, "*batch n m"], a: Float[Values, "*batch n"], b: Float[Values, "*batch m"]
) -> StructuralMatch:
    """Mean best match of both images' tokens, weighted: sum(plan * similarity), in [-1, 1]; see `chamfer`."""
    similarity = jnp.asarray(similarity)
    transport = chamfer(-similarity, a, b)
    return StructuralMatch(jnp.sum(transport.plan * similarity, axis=(-2, -1)), transport, similarity)


def mutual_match(
    similarity: Float[Values, "*batch n m"], a: Float[Values, "*batch n"], b: Float[Values, "*batch m"]
) -> StructuralMatch:
    """Share of the images in mutual nearest neighbours, in [0, 1]; see `mutual_nearest`."""
    similarity = jnp.asarray(similarity)
    transport = mutual_nearest(-similarity, a, b)
    return StructuralMatch(transport.mass, transport, similarity)
