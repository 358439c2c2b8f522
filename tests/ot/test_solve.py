import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.ot.problems import changed, difference, problem, programs, reference_plan
from vitjax import ot
from vitjax.ot.problem import SolverOptions
from vitjax.ot.solve import transport_value

EPSILONS = (1.0, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005)


def _gap(x, y) -> float:
    return float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))))


def _error(transport: ot.Transport) -> np.ndarray:
    return np.asarray(transport.row_error + transport.col_error)


def _equal(x: ot.Transport, y: ot.Transport) -> None:
    for name, left, right in zip(ot.Transport._fields, x, y, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


def test_two_by_two_problem_has_the_plan_worked_out_by_hand():
    # Symmetric: the plan is [[p, 1/2 - p], [1/2 - p, p]] with p / (1/2 - p) = exp(1 / epsilon).
    half = np.full(2, 0.5)
    plan = programs.sinkhorn(1.0 - np.eye(2), half, half, epsilon=0.5).plan
    p = 0.5 / (1.0 + np.exp(-2.0))
    np.testing.assert_allclose(plan, [[p, 0.5 - p], [0.5 - p, p]], atol=1e-7)


def test_partial_plan_of_one_token_pair_is_the_mass():
    one = np.ones(1)
    transport = programs.partial_sinkhorn(np.full((1, 1), 0.3), one, one, mass=0.4, epsilon=0.05)
    np.testing.assert_allclose(transport.plan, [[0.4]], atol=1e-6)
    np.testing.assert_allclose(_error(transport), 0.0, atol=1e-6)


@pytest.mark.parametrize("mass", [1.0, 0.9, 0.5, 0.1])
@pytest.mark.parametrize("zeros", [False, True])
def test_plans_equal_a_float64_reference(mass, zeros):
    cost, a, b = problem(3, 4, 8, 5, zeros=zeros)
    for epsilon in (0.5, 0.05):
        ours = programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=epsilon, iterations=3000)
        for i in range(4):
            plan = reference_plan(cost[i], a[i], b[i], epsilon, mass)
            assert _gap(ours.plan[i], plan) < 1e-6
        if zeros:
            assert not np.asarray(ours.plan)[:, 0].any() and not np.asarray(ours.plan)[:, :, -1].any()


@pytest.mark.parametrize("epsilon", [*EPSILONS, 1e-3, 1e-4])
@pytest.mark.parametrize("mass", [1.0, 0.5])
def test_no_epsilon_gives_nan_and_columns_stay_exact(epsilon, mass):
    cost, a, b = problem(5, 6, 17, 11, zeros=True)
    a = changed(a, 0, np.where(np.arange(17) == 1, 1.0, 1e-12))  # all but one token all but weightless
    for iterations in (1, 7, 300):
        transport = programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=epsilon, iterations=iterations)
        assert all(np.isfinite(x).all() for x in transport)
        assert (np.asarray(transport.plan) >= 0).all()
        if mass == 1:
            # Below the promised range of epsilon the weightless tokens run into the scalings' limit.
            atol = 1e-5 if epsilon >= 0.005 else 2e-4
            np.testing.assert_allclose(transport.plan.sum(-2), b, atol=atol)


def test_error_falls_with_iterations_and_is_that_of_the_plan():
    cost, a, b = problem(6, 5, 12, 9)
    errors = []
    for iterations in (1, 10, 100, 1000):
        transport = programs.sinkhorn(cost, a, b, epsilon=0.05, iterations=iterations)
        by_hand = np.abs(transport.plan.sum(-1) - a).sum(-1)
        np.testing.assert_allclose(transport.row_error, by_hand, atol=1e-6)
        np.testing.assert_allclose(transport.mass, 1.0, atol=1e-5)
        errors.append(_error(transport).max())
    assert errors[0] > errors[1] > errors[2] and max(errors[2:]) < 1e-6  # then rounding is all that is left


@pytest.mark.parametrize("mass", [0.1, 0.3, 0.7, 0.95, 0.999, 1.0])
def test_mass_is_reached_once_the_errors_say_so(mass):
    cost, a, b = problem(7, 8, 10, 14, zeros=True)
    transport = programs.partial_sinkhorn(
        cost, a, b, mass=mass, epsilon=0.05, iterations=20_000, tolerance=1e-5
    )
    assert (_error(transport) <= 1e-5).all()
    np.testing.assert_allclose(transport.mass, mass, atol=1e-4)


def test_partial_with_all_mass_is_balanced_traced_or_not():
    cost, a, b = problem(8, 3, 6, 7, zeros=True)
    balanced = programs.sinkhorn(cost, a, b, epsilon=0.05, iterations=60)

    def partial(mass):
        return programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=0.05, iterations=60)

    _equal(partial(1.0), balanced)
    for x, y in zip(jax.jit(partial)(1.0), balanced, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    near = programs.partial_sinkhorn(cost, a, b, mass=1 - 1e-5, epsilon=0.05, iterations=4000)
    assert _gap(near.plan, programs.sinkhorn(cost, a, b, epsilon=0.05, iterations=4000).plan) < 1e-4


def test_permuting_tokens_permutes_the_plan():
    cost, a, b = problem(9, 4, 9, 6)
    rows, cols = np.random.default_rng(0).permutation(9), np.random.default_rng(1).permutation(6)
    settings = {"mass": 0.8, "epsilon": 0.05, "iterations": 200}
    plan = programs.partial_sinkhorn(cost, a, b, **settings).plan[:, rows][:, :, cols]
    moved = programs.partial_sinkhorn(cost[:, rows][:, :, cols], a[:, rows], b[:, cols], **settings).plan
    np.testing.assert_allclose(plan, moved, atol=1e-6)


@pytest.mark.parametrize("mass", [1.0, 0.6])
def test_tokens_of_zero_mass_equal_removed_tokens(mass):
    cost, a, b = problem(10, 4, 9, 6)
    keep_a, keep_b = np.array([0, 2, 3, 7]), np.array([1, 2, 5])
    mask_a, mask_b = np.isin(np.arange(9), keep_a), np.isin(np.arange(6), keep_b)
    a, b = a * mask_a, b * mask_b
    a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    # What stands in for a padded token's cost must not matter, not even NaN.
    junk = np.where(mask_a[:, None] & mask_b[None, :], cost, np.float32(np.nan))
    settings = {"mass": mass, "epsilon": 0.05, "iterations": 100}
    masked = programs.partial_sinkhorn(junk, a, b, **settings)
    small = cost[:, keep_a][:, :, keep_b], a[:, keep_a], b[:, keep_b]
    removed = programs.partial_sinkhorn(*small, **settings)
    np.testing.assert_allclose(masked.plan[:, keep_a][:, :, keep_b], removed.plan, atol=1e-6)
    np.testing.assert_allclose(masked.mass, removed.mass, atol=1e-6)


def test_identical_tokens_share_the_mass_evenly():
    _, a, b = problem(11, 3, 5, 4)
    plan = programs.sinkhorn(np.zeros((3, 5, 4)), a, b, epsilon=0.05).plan
    np.testing.assert_allclose(plan, a[:, :, None] * b[:, None, :], atol=1e-7)


def test_a_side_without_mass_gives_an_empty_plan_and_the_missing_mass_as_error():
    cost, a, b = problem(12, 4, 5, 4)
    a, b = changed(a, [1, 2], 0.0), changed(b, [2, 3], 0.0)
    for mass in (1.0, 0.5):
        transport = programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=0.05)
        assert not np.asarray(transport.plan)[1:].any() and not np.asarray(transport.mass)[1:].any()
        assert np.isfinite(_error(transport)).all()
        assert (_error(transport)[[1, 3]] >= mass - 1e-5).all()


@pytest.mark.parametrize("bad", ["cost", "a", "epsilon"])
@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
def test_nan_is_flagged_and_leaves_other_problems_alone(bad, tolerance):
    cost, a, b = problem(13, 5, 6, 7)
    epsilon = np.full(5, 0.05, "f")
    broken = {"cost": cost, "a": a, "epsilon": epsilon}
    broken[bad] = changed(broken[bad], 2, np.nan)
    settings = {"mass": 0.8, "iterations": 400, "tolerance": tolerance}
    solve = jax.jit(
        lambda cost, a, epsilon: programs.partial_sinkhorn(cost, a, b, epsilon=epsilon, **settings)
    )
    healthy, hurt = jax.device_get((solve(cost, a, epsilon), solve(*broken.values())))
    assert not np.isfinite(_error(hurt)[2])
    others = np.array([0, 1, 3, 4])
    _equal(jax.tree.map(lambda x: x[others], hurt), jax.tree.map(lambda x: x[others], healthy))


@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
def test_a_problem_does_not_depend_on_its_batch_mates_bit_for_bit(tolerance):
    first, second = problem(14, 90, 13, 11, zeros=True), problem(15, 90, 13, 11)
    epsilon = np.random.default_rng(0).choice(EPSILONS, 90).astype("f")
    mixed = [
        np.where(np.arange(90).reshape(90, *(1,) * (x.ndim - 1)) % 3 == 0, x, y)
        for x, y in zip(first, second, strict=True)
    ]
    run = jax.jit(
        lambda cost, a, b, epsilon: programs.partial_sinkhorn(
            cost, a, b, mass=0.7, epsilon=epsilon, iterations=150, tolerance=tolerance
        )
    )
    alone, among_others = jax.device_get((run(*first, epsilon), run(*mixed, epsilon)))
    _equal(*(jax.tree.map(lambda x: x[::3], t) for t in (alone, among_others)))
    order = np.random.default_rng(1).permutation(90)
    moved = run(*(x[order] for x in first), epsilon[order])
    _equal(moved, jax.tree.map(lambda x: x[order], alone))


def test_leading_dimensions_are_only_a_batch():
    cost, a, b = problem(16, 2, 3, 5, 4)
    mass = np.array([[0.5, 0.9, 1.0], [0.3, 0.7, 0.8]], "f")
    deep = programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=0.05)
    flat = programs.partial_sinkhorn(
        cost.reshape(6, 5, 4), a.reshape(6, 5), b.reshape(6, 4), mass=mass.reshape(6), epsilon=0.05
    )
    _equal(deep, jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), flat))
    assert programs.sinkhorn(cost[0, 0], a[0, 0], b[0, 0], epsilon=0.05).row_error.shape == ()


def test_jit_equals_eager_and_traces_once_for_all_values():
    cost, a, b = problem(17, 3, 6, 5)
    traces = 0

    def run(epsilon, mass, tolerance):
        nonlocal traces
        traces += 1
        return ot.partial_sinkhorn(
            cost, a, b, epsilon=epsilon, mass=mass, tolerance=tolerance, iterations=500
        )

    compiled = jax.jit(run)
    for values in ((0.01, 1.0, 1e-4), (0.3, 0.9, 1e-3), (0.05, 0.5, 0.0)):  # the last is run to its end
        jitted = compiled(*values)
        assert all(np.isfinite(x).all() for x in jitted)
    assert traces == 1
    for x, y in zip(jitted, run(*(jnp.asarray(v) for v in values)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_tolerance_stops_each_problem_within_it():
    cost, a, b = problem(18, 40, 12, 12)
    for tolerance in (1e-2, 1e-4, np.array([1e-2, 1e-5] * 20, "f")):
        transport = programs.sinkhorn(cost, a, b, epsilon=0.03, iterations=50_000, tolerance=tolerance)
        assert (_error(transport) <= tolerance).all()
    loose = programs.sinkhorn(cost, a, b, epsilon=0.03, iterations=50_000, tolerance=1e-2)
    assert _error(loose).max() > 1e-4  # it did stop early


def test_bfloat16_tokens_are_solved_in_float32():
    cost, a, b = problem(19, 2, 5, 5)
    low = cost.astype(jnp.bfloat16)
    transport = programs.sinkhorn(low, a, b, epsilon=0.05)
    assert transport.plan.dtype == jnp.float32
    _equal(transport, programs.sinkhorn(low.astype(jnp.float32), a, b, epsilon=0.05))
    partial = functools.partial(programs.partial_sinkhorn, a=a, b=b, mass=0.6, epsilon=0.05)
    _equal(partial(low), partial(low.astype(jnp.float32)))


@pytest.mark.parametrize("mass", [1.0, 0.6])
@pytest.mark.parametrize("zeros", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_equal_finite_differences_in_float64(mass, zeros):
    with jax.enable_x64(True):
        cost, a, b = problem(20, 2, 5, 4, zeros=zeros, dtype=jnp.float64)
        weight = np.random.default_rng(0).normal(size=cost.shape)

        def value(cost, a, b, epsilon, mass):
            transport = programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=epsilon, iterations=60)
            return jnp.sum(transport.plan * (weight + cost))

        point = [cost, a, b, jnp.asarray(0.1), jnp.asarray(mass) if mass < 1 else mass]
        checked = range(5 if mass < 1 else 4)
        gradients = jax.jit(
            jax.grad(value, argnums=tuple(checked)), static_argnums=(4,) if mass == 1 else ()
        )(*point)
        assert all(np.isfinite(g).all() for g in gradients)
        rng = np.random.default_rng(1)
        run = jax.jit(value, static_argnums=(4,) if mass == 1 else ())
        for i in checked:
            step, wanted = difference(run, point, i, rng.normal(size=point[i].shape), 1e-6)
            np.testing.assert_allclose(
                np.sum(gradients[i] * step), wanted, rtol=1e-5, atol=1e-7, err_msg=str(i)
            )
            assert i == 0 or np.abs(gradients[i]).max() > 1e-6


def test_float32_gradients_are_finite_at_every_epsilon_with_masked_tokens():
    cost, a, b = problem(21, 3, 7, 6, zeros=True)

    def value(cost, a, b, epsilon, mass):
        return (
            programs.partial_sinkhorn(cost, a, b, mass=mass, epsilon=epsilon, iterations=40).plan[:, 1].sum()
        )

    gradient = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3, 4)))
    for epsilon in EPSILONS:
        for mass in (1.0, 0.5):
            assert all(np.isfinite(g).all() for g in gradient(cost, a, b, epsilon, mass))


def test_two_devices_equal_one():
    cost, a, b = problem(22, 64, 16, 16)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    run = jax.jit(lambda *x: programs.partial_sinkhorn(*x, mass=0.8, epsilon=0.05, iterations=50))
    sharded = run(*(jax.device_put(x, split) for x in (cost, a, b)))
    assert len(sharded.plan.sharding.device_set) == 2
    for x, y in zip(sharded, run(cost, a, b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_importing_vitjax_ot_does_not_import_ott():
    code = "import sys, vitjax.ot; sys.exit(bool({'ott', 'jaxopt'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"solver": "exact"}, "solver 'exact' is unknown; known: 'fused', 'pallas', 'ott'"),
        ({"compat": "paper"}, "compat 'paper' is unknown"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_say_what_is_allowed(change, words):
    cost, a, b = problem(23, 3, 3)
    with pytest.raises(ValueError, match=words):
        ot.sinkhorn(cost, a, b, **{"epsilon": 0.1, **change})


def test_numpy_arrays_are_as_good_as_jax_arrays():
    cost, a, b = (np.asarray(x, np.float64) for x in ([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5], [0.5, 0.5]))
    plan = ot.partial_sinkhorn(cost, a, b, mass=0.5, epsilon=0.05).plan
    np.testing.assert_allclose(plan, [[0.25, 0.0], [0.0, 0.25]], atol=1e-6)
    tokens = np.eye(3, dtype=np.float32)
    weights = ot.marginals.cross_correlation(tokens, tokens[0])
    np.testing.assert_allclose(weights, [1.0, 0.0, 0.0])
    third = np.full(3, 1 / 3, np.float32)
    assert float(ot.structural_similarity(tokens, tokens, third, third)) > 0.99


@pytest.mark.parametrize("solver", ["fused", "ott"])
@pytest.mark.parametrize("level", [-30.0, 20.0])
def test_partial_plans_do_not_depend_on_the_level_of_the_cost(solver, level):
    cost, a, b = problem(50, 2, 6, 5)
    settings = {"mass": 0.6, "epsilon": 0.05, "iterations": 500, "solver": solver}
    plain, moved = (programs.partial_sinkhorn(c, a, b, **settings) for c in (cost, cost + level))
    np.testing.assert_allclose(moved.mass, 0.6, atol=1e-4)
    np.testing.assert_allclose(moved.plan, plain.plan, atol=1e-4)  # a cost of 20 has 6e-7 of its own rounding


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 3), (3, 0, 4, 5)])
@pytest.mark.parametrize("solver", ["fused", "pallas", "ott"])
def test_of_nothing_nothing_is_made(shape, solver):
    cost = np.zeros(shape)
    found = programs.partial_sinkhorn(
        cost, np.ones(shape[:-1]), np.ones((*shape[:-2], shape[-1])), mass=0.5, epsilon=0.1, solver=solver
    )
    assert found.plan.shape == shape and found.mass.shape == shape[:-2] and not found.mass.any()
    np.testing.assert_array_equal(found.col_error, np.full(shape[:-2], shape[-1]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be above 0"),
        ({"epsilon": -1, "mass": 0.5}, "epsilon is -1"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": 0.1, "mass": 0}, "mass is 0; it must be above 0 and at most 1"),
        ({"epsilon": 0.1, "mass": 2.0}, "mass is 2.0"),
        ({"epsilon": 0.1, "taus": (0.5, 1.5)}, "a tau is 1.5; it must be from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, told):
    cost, a, b = problem(51, 1, 3, 3)
    rest = {name: value for name, value in settings.items() if name != "epsilon"}
    with pytest.raises(ValueError, match=told):
        transport_value(cost, cost, a, b, SolverOptions(settings["epsilon"]), **rest)


SOLVERS = {
    "sinkhorn": (ot.sinkhorn, {}),
    "partial": (ot.partial_sinkhorn, {"mass": 0.5}),
    "relaxed": (ot.relaxed_sinkhorn, {"tau_a": 0.5, "tau_b": 0.5}),
    "priced": (ot.priced_sinkhorn, {"price": 0.5}),
    "mutual": (ot.mutual_mass_match, {"price": 0.5}),
    "partial match": (ot.partial_match, {"mass": 0.5}),
}
WRONG = {
    "epsilon": (-1, 0, np.nan, np.inf),
    "tolerance": (-1e-3, np.nan, np.inf),
    "mass": (0, 1.5, np.nan),
    "tau_b": (-0.5, 2, np.nan),
    "price": (np.nan, np.inf),
    "least": (0, 2),
}


@pytest.mark.parametrize("kind", [np.float32, np.float64, jnp.float32, jnp.bfloat16, "0-d", "one of three"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_ranges_are_those_of_values_whatever_their_type(solver, kind):
    cost, a, b = problem(51, 3, 3, 4)
    run, settings = SOLVERS[solver]
    settings = {"epsilon": 0.1, "tolerance": 0.0, **settings}
    makers = {"0-d": np.array, "one of three": lambda x: np.array([0.5, 0.5, x])}
    made = makers.get(kind, kind) if isinstance(kind, str) else kind
    names = {**settings, **({"least": 0.1} if solver == "mutual" else {})}
    for name in names.keys() & WRONG.keys():
        for value in WRONG[name]:
            with pytest.raises(ValueError, match=f"{name.removesuffix('_b')} is .*; it must be"):
                run(cost, a, b, **{**settings, name: made(value)})


def test_a_traced_number_is_left_alone_and_a_known_one_picks_the_same_program_whatever_its_type():
    cost, a, b = problem(51, 3, 4, 4)
    assert np.isnan(jax.jit(lambda e: ot.sinkhorn(cost, a, b, epsilon=e))(jnp.nan).row_error).all()
    plain = ot.partial_sinkhorn(cost, a, b, mass=1.0, epsilon=0.1, tolerance=0.0)
    one, none = np.float32(1), jnp.float32(0)
    _equal(ot.partial_sinkhorn(cost, a, b, mass=one, epsilon=np.float32(0.1), tolerance=none), plain)
    value = lambda c, tolerance: ot.sinkhorn(c, a, b, epsilon=0.1, tolerance=tolerance).plan[:, 0, 0].sum()  # noqa: E731
    hessians = [
        jax.jvp(jax.grad(lambda c: value(c, tolerance)), (cost,), (cost,))[1]  # noqa: B023
        for tolerance in (0.0, np.float32(0), np.array(0))
    ]
    for other in hessians[1:]:
        np.testing.assert_array_equal(other, hessians[0])


HESSIANS = {
    "balanced": programs.sinkhorn,
    "partial": lambda *x, **rest: programs.partial_sinkhorn(*x, mass=0.6, **rest),
    "relaxed": lambda *x, **rest: programs.relaxed_sinkhorn(*x, tau_a=0.9, tau_b=0.5, **rest),
    "priced": lambda *x, **rest: programs.priced_sinkhorn(*x, price=0.8, **rest),
}


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("balanced", 0.0),
        *(pytest.param(kind, x, marks=pytest.mark.slow) for kind in HESSIANS for x in (0.0, 1e-12)),
    ],
)
def test_hessians_equal_finite_differences_in_float64(kind, tolerance):
    with jax.enable_x64(True):
        cost, a, b = problem(54, 4, 3, dtype=jnp.float64)
        rng = np.random.default_rng(0)
        weight, step = (rng.normal(size=cost.shape) for _ in range(2))

        def value(cost, a, b, epsilon):
            settings = {"epsilon": epsilon, "iterations": 2000 if tolerance else 60, "tolerance": tolerance}
            return jnp.sum(HESSIANS[kind](cost, a, b, **settings).plan * (weight + cost))

        gradient = jax.jit(jax.grad(value))
        # Unoptimised, as tests are compiled: what rounds two ways then shows.
        second = jax.jit(lambda cost, *x: jax.jvp(lambda c: gradient(c, *x), (cost,), (step,))[1])
        even = np.full(4, 1 / 4), np.full(3, 1 / 3)
        for rows, cols in (even, (a, b)):
            for epsilon in (0.1, 0.05):
                ahead, behind = (gradient(cost + h * step, rows, cols, epsilon) for h in (1e-5, -1e-5))
                wanted = (ahead - behind) / 2e-5
                assert np.abs(wanted).max() > 1e-3
                found = second(cost, rows, cols, epsilon)
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_a_pair_without_mass_has_no_gradient_and_leaves_the_others_theirs(tolerance):
    cost, a, b = problem(52, 2, 4, 4)

    def value(scale, a):
        found = programs.partial_sinkhorn(
            cost, a * jnp.exp(scale), b, mass=0.5, epsilon=0.05, tolerance=tolerance
        )
        return found.plan[0, 0].sum()

    gradient = jax.jit(jax.grad(value, argnums=(0, 1)))
    alone, whole = gradient(0.0, a), gradient(0.0, changed(a, 1, 0.0))
    np.testing.assert_allclose(whole[0], alone[0], rtol=1e-5)
    np.testing.assert_allclose(whole[1][0], alone[1][0], rtol=1e-5)
    assert not np.asarray(whole[1][1]).any()


@pytest.mark.parametrize("mass", [None, 0.6])
def test_gradients_through_the_other_solver_equal_finite_differences_in_float64(mass):
    with jax.enable_x64(True):
        cost, a, b = problem(53, 1, 5, 4, zeros=True, dtype=jnp.float64)
        weight = np.random.default_rng(0).normal(size=cost.shape)

        def value(cost, a, b):
            options = SolverOptions(0.05, iterations=100, solver="ott")
            return transport_value(cost, weight, a, b, options, mass=mass)[1].sum()

        value, point = jax.jit(value), [cost, a, b]
        gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(*point)
        rng = np.random.default_rng(1)
        for i, gradient in enumerate(gradients):
            step, wanted = difference(value, point, i, rng.normal(size=point[i].shape), 1e-5)
            np.testing.assert_allclose(np.sum(gradient * step), wanted, rtol=1e-5, atol=1e-8, err_msg=str(i))
