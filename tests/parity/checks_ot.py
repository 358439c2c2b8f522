"""Transport, marginals and rollout against the released code, float64 plans and linear programs."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared, assert_close
from vitjax import ot

# Sinkhorn converges linearly, at a rate that tends to 1 as epsilon shrinks: to 1e-6 the slowest visible
# problem (16 uniform points, s = 0.9, epsilon 0.02) takes 4,000 iterations, the next two 3,500 and 1,500, all
# others under 1,000. 200,000 leave room for a fifty times slower problem; the tolerance stops the others
# early. It asks for a marginal error at float32's rounding: 1e-6 in the plan needs far less than 1e-6 in the
# marginals where convergence is slow.
_CONVERGED = {"iterations": 200_000, "tolerance": 2e-7}

_VARIANTS = {
    "cross": "cross_correlation",
    "inverse": "inverse",
    "minus": "complement",
    "soft": "softmax",
    "uniform": "uniform",
}


def _c1_diml(fixture: Fixture) -> None:
    epsilon, iterations = _released_config(fixture)
    pairs = _Pairs(fixture)
    assert_all_compared(
        fixture,
        {
            "score_stage0": pairs.candidate_pooled @ pairs.query_pooled[0],
            "score_cross": pairs.match("cross_correlation", epsilon, iterations).score,
            "score_uniform": pairs.match("uniform", epsilon, iterations).score,
            # The batch is what the stop rule looks at, so a batch of one is another case.
            "score_cross_single": jnp.concatenate(
                [
                    pairs.only(i).match("cross_correlation", epsilon, iterations).score
                    for i in range(pairs.count)
                ]
            ),
        },
    )


def _c2_vitrr(fixture: Fixture) -> None:
    epsilon, iterations = _released_config(fixture)
    pairs = _Pairs(fixture)
    assert fixture.outputs, fixture.stem
    for key, reference in fixture.outputs.items():
        *path, what = key.split("/")
        variant = path[0] if path and not path[0].startswith(("full", "part")) else ""
        part = next((float(p.removeprefix("part")) for p in path if p.startswith("part")), 1.0)
        kind, eps, case = _variant(variant, epsilon, pairs)
        if what in ("u", "v"):
            marginals = case.marginals(kind)
            assert_close(
                marginals.b if what == "u" else marginals.a,
                _per_pair(reference, case.count),
                fixture.tolerance,
                key,
            )
        elif what == "score":
            assert_close(case.match(kind, eps, iterations, part).score, reference, fixture.tolerance, key)
        elif what == "plan":
            assert_close(case.plan(kind, eps, iterations, part), reference, fixture.tolerance, key)
            # The public result holds the block of real points, query in the rows.
            block = np.swapaxes(reference, -1, -2)[
                :, : case.query_tokens.shape[1], : case.candidate_tokens.shape[1]
            ]
            assert_close(
                case.match(kind, eps, iterations, part).transport.plan, block, fixture.tolerance, key
            )
        else:
            raise AssertionError(f"{fixture.stem}: output {key!r} is neither compared nor explained")


def _variant(name: str, epsilon: float, pairs: "_Pairs") -> tuple[str, float, "_Pairs"]:
    """Reads a variant's name: a kind, then _eps<number> and _no_cls in any order; no name = given weights."""
    if found := re.search(r"_eps([\d.]+)", name):
        epsilon = float(found[1])
        name = name.replace(found[0], "")
    if "_no_cls" in name:
        name, pairs = name.replace("_no_cls", ""), pairs.with_mean_pooled()
    return _VARIANTS[name] if name else "rollout", epsilon, pairs


def _per_pair(marginal: np.ndarray, count: int) -> np.ndarray:
    """The query's marginal may be stored once for all candidates."""
    return np.broadcast_to(marginal, (count, marginal.shape[-1]))


def _released_config(fixture: Fixture) -> tuple[float, int]:
    config = fixture.meta.get("config", {})
    return config.get("epsilon", 0.05), config.get("max_iter", 100)


class _Pairs:
    """One query against every candidate of a fixture, through public functions with compat="released"."""

    def __init__(self, fixture: Fixture) -> None:
        inputs = {name: jnp.asarray(value) for name, value in fixture.inputs.items()}
        self.candidate_tokens = jnp.swapaxes(inputs["cand_patches"], -1, -2)
        self.candidate_pooled = inputs["cand_center"]
        self.count = self.candidate_tokens.shape[0]
        self.query_tokens = self._repeat(inputs["query_patches"].T)
        self.query_pooled = self._repeat(inputs["query_center"])
        blank = jnp.ones(self.query_tokens.shape[1]), jnp.ones(self.candidate_tokens.shape[:2])
        self.query_weight = self._repeat(inputs.get("query_weight", blank[0]))
        self.candidate_weight = inputs.get("cand_weight", blank[1])

    def _repeat(self, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (self.count, *x.shape))

    def _copy(self, **fields) -> "_Pairs":
        new = object.__new__(_Pairs)
        new.__dict__ = {**self.__dict__, **fields}
        return new

    def only(self, i: int) -> "_Pairs":
        arrays = {name: value[i : i + 1] for name, value in self.__dict__.items() if name != "count"}
        return self._copy(**arrays, count=1)

    def with_mean_pooled(self) -> "_Pairs":
        def mean(tokens):
            centre = tokens.mean(-2)
            return centre / jnp.linalg.norm(centre, axis=-1, keepdims=True)

        return self._copy(query_pooled=mean(self.query_tokens), candidate_pooled=mean(self.candidate_tokens))

    def marginals(self, kind: str) -> ot.PairMarginals:
        return ot.marginals.pair_marginals(
            kind,
            self.query_tokens,
            self.candidate_tokens,
            self.query_pooled,
            self.candidate_pooled,
            query_weights=self.query_weight,
            candidate_weights=self.candidate_weight,
            query_valid=jnp.ones(self.query_tokens.shape[:2], bool),
            candidate_valid=jnp.ones(self.candidate_tokens.shape[:2], bool),
            compat="released",
        )

    def match(self, kind: str, epsilon: float, iterations: int, mass: float = 1.0) -> ot.StructuralMatch:
        marginals = self.marginals(kind)
        return _released_match(
            self.query_tokens,
            self.candidate_tokens,
            marginals.a,
            marginals.b,
            epsilon=epsilon,
            mass=mass,
            iterations=iterations,
        )

    def plan(self, kind: str, epsilon: float, iterations: int, mass: float) -> jax.Array:
        """Candidate in the rows, dummy points included."""
        marginals = self.marginals(kind)
        cost = 1.0 - jnp.einsum("pmd,pnd->pmn", self.candidate_tokens, self.query_tokens)
        full = jnp.full(self.count, mass, jnp.float32)
        return ot.released.extended_plan(
            cost,
            marginals.b,
            marginals.a,
            None if mass == 1 else full,
            jnp.full(self.count, epsilon, jnp.float32),
            iterations,
        )


@functools.partial(jax.jit, static_argnames=("mass", "iterations"))
def _released_match(query, candidates, a, b, *, epsilon, mass, iterations) -> ot.StructuralMatch:
    settings = {"epsilon": epsilon, "mass": mass, "iterations": iterations, "compat": "released"}
    return ot.structural_match(query, candidates, a, b, **settings)


def _c3_converged(fixture: Fixture) -> None:
    """The default solver, in float32; only iterations and tolerance are asked for."""
    assert fixture.outputs, fixture.stem
    cases = {_case(key) for key in fixture.outputs if "/eps" in key}
    solved = _solve_all(fixture, cases, **_CONVERGED)
    _assert_approach_lp(
        fixture, {_case(k): float(v) for k, v in fixture.outputs.items() if k.endswith("/lp_score")}
    )
    for key, reference in fixture.outputs.items():
        what = key.split("/")[-1]
        if what == "lp_score":
            continue
        plan = np.asarray(solved[_case(key)].plan, np.float64)
        ours = {
            "plan": plan,
            "score": np.asarray((plan * fixture.inputs[f"{_case(key).problem}/S"]).sum()),
            "row_mass": plan.sum(1),
            "col_mass": plan.sum(0),
        }[what]
        assert_close(ours, reference, fixture.tolerance, f"{fixture.stem} {key}")


def _c4_lp(fixture: Fixture) -> None:
    unexplained = [key for key in fixture.outputs if key.split("/")[-1] != "score"]
    assert fixture.outputs and not unexplained, f"{fixture.stem}: not compared: {unexplained}"
    _assert_approach_lp(fixture, {_case(key): float(value) for key, value in fixture.outputs.items()})


def _assert_approach_lp(fixture: Fixture, exact: dict["_Case", float]) -> None:
    epsilons = (0.4, 0.1, 0.025, 0.00625)
    wanted = {case._replace(epsilon=epsilon) for case in exact for epsilon in epsilons}
    solved = _solve_all(fixture, wanted, iterations=20_000, tolerance=1e-6)
    for case, value in exact.items():
        _assert_approaches_lp(fixture, case, value, {e: solved[case._replace(epsilon=e)] for e in epsilons})


def _assert_approaches_lp(
    fixture: Fixture, case: "_Case", exact: float, solved: dict[float, ot.Transport]
) -> None:
    """Holds 0 <= exact - score(epsilon) <= epsilon * bound, and that the gap grows with epsilon.

    Let P be the entropic plan of the extended problem (dummy points included), P* an optimal one, both with
    the marginals x and y, total T = 2 - s (1 where s = 1). P minimises <C, P> - epsilon * H(P), H(P) = -sum P
    log P, and any extended cost is the real block's plus a constant times the fixed mass T - s on the
    dummies, so
        <C, P> - <C, P*> <= epsilon * (H(P) - H(P*)).
    With P = T Q: H(P) = T H(Q) - T log T, so the difference is T (H(Q) - H(Q*)). A joint distribution has at
    most the sum of its marginals' entropies, H(Q) <= H(x/T) + H(y/T), and at least the larger one, H(Q*) >=
    max. Hence
        gap <= epsilon * T * min(H(x/T), H(y/T)),
    and since the cost is 1 - S and the mass is s on both sides, the gap in cost is the gap in score. That the
    gap grows with epsilon is the usual exchange argument between two epsilons. Float32 and the unfinished
    convergence add `slop`.
    """
    mass = case.mass
    similarity, u, v = (fixture.inputs[f"{case.problem}/{x}"] for x in ("S", "u", "v"))
    total, rest = 2.0 - mass, [1.0 - mass] if mass < 1 else []
    bound = total * min(_entropy(np.append(u, rest) / total), _entropy(np.append(v, rest) / total))
    gaps, slops = [], []
    for transport in solved.values():
        plan = np.asarray(transport.plan, np.float64)
        gaps.append(exact - (plan * similarity).sum())
        # A plan whose marginals are off by e in L1 is optimal for its own; the optimum moves by range * e at
        # most.
        error = float(transport.row_error + transport.col_error)
        slops.append(2e-6 + 2 * max(1.0, float(np.ptp(similarity))) * error)
    name = f"{fixture.stem} {case.problem}/s{mass}: gaps {gaps}"
    for epsilon, gap, slop in zip(solved, gaps, slops, strict=True):
        assert -slop <= gap <= epsilon * bound + slop, f"{name} leave [0, epsilon * {bound}]"
    for larger, smaller, slop in zip(gaps, gaps[1:], slops[1:], strict=False):
        assert smaller <= larger + slop, f"{name} do not shrink with epsilon"
    assert gaps[-1] <= max(gaps[0] / 4, slops[-1]), f"{name} shrink too little"


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


class _Case(NamedTuple):
    """One problem of a c3 or c4 fixture; the epsilon of a linear program is 0."""

    problem: str
    mass: float
    epsilon: float


def _case(key: str) -> _Case:
    """Reads p0/s0.9/eps0.05/plan; a mass that is not named is 1."""
    problem, *path = key.split("/")

    def number(prefix: str, missing: float) -> float:
        found = (re.fullmatch(prefix + r"([\d.]+(?:e-?\d+)?)", part) for part in path)
        return next((float(match[1]) for match in found if match), missing)

    return _Case(problem, number("s", 1.0), number("eps", 0.0))


@functools.partial(jax.jit, static_argnames="iterations")
def _balanced(cost, u, v, epsilon, *, iterations: int, tolerance: float) -> ot.Transport:
    return ot.sinkhorn(cost, u, v, epsilon=epsilon, iterations=iterations, tolerance=tolerance)


@functools.partial(jax.jit, static_argnames="iterations")
def _partial(cost, u, v, epsilon, mass, *, iterations: int, tolerance: float) -> ot.Transport:
    return ot.partial_sinkhorn(
        cost, u, v, mass=mass, epsilon=epsilon, iterations=iterations, tolerance=tolerance
    )


def _solve_all(fixture: Fixture, cases: set[_Case], **settings) -> dict[_Case, ot.Transport]:
    """Solves all cases, those of one shape as one batch; mass 1 by `sinkhorn`, less by `partial_sinkhorn`."""
    groups: dict[tuple, list[_Case]] = {}
    for case in sorted(cases):
        shape = fixture.inputs[f"{case.problem}/S"].shape
        groups.setdefault((shape, case.mass == 1), []).append(case)
    solved = {}
    for (_, balanced), group in groups.items():
        similarity, u, v = (
            jnp.stack([jnp.asarray(fixture.inputs[f"{case.problem}/{x}"], jnp.float32) for case in group])
            for x in ("S", "u", "v")
        )
        epsilon, mass = jnp.asarray([c.epsilon for c in group]), jnp.asarray([c.mass for c in group])
        if balanced:
            result = _balanced(1.0 - similarity, u, v, epsilon, **settings)
        else:
            result = _partial(1.0 - similarity, u, v, epsilon, mass, **settings)
        host = jax.device_get(result)
        solved |= {case: jax.tree.map(lambda x, i=i: x[i], host) for i, case in enumerate(group)}
    return solved


def _d2_rollout(fixture: Fixture) -> None:
    attention = [jnp.asarray(block) for block in fixture.inputs["attn"]]
    ours = {}
    for start in sorted({key.split("/")[0] for key in fixture.outputs}):
        first = int(start.removeprefix("start"))
        matrix = ot.rollout_matrix(attention, start=first)
        ours[f"{start}/rollout"] = matrix
        ours[f"{start}/cls_to_patches"] = matrix[:, 0, 1:]
        ours[f"{start}/cls_to_patches_normalised"] = ot.attention_rollout(attention, start=first)
    assert_all_compared(fixture, ours)


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "c1": _c1_diml,
    "c2": _c2_vitrr,
    "c3": _c3_converged,
    "c4": _c4_lp,
    "d2": _d2_rollout,
}
