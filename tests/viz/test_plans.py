"""What the page stores of a plan, read back as report.js does it."""

import base64

import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors
from tests.viz.example import candidate, each_for_itself, photos, report, whole_plan
from vitjax.config import RerankConfig
from vitjax.retrieval import Descriptors, match_pairs, pair_plans
from vitjax.viz.plans import Patches, PlanView, entries_within, patches_of, sparse_plan
from vitjax.viz.report import PLAN_BYTES, render, write_report
from vitjax.viz.views import QueryView


def words(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u2").astype(int)


def read_back(plan: PlanView) -> dict[str, np.ndarray]:
    """Decodes what `encode` gives, in its order."""
    data = plan.encode()
    rest, (n, m) = words(data["words"]), data["size"]

    def take(count: int) -> np.ndarray:
        nonlocal rest
        found, rest = rest[:count], rest[count:]
        return found

    def signed(x: np.ndarray) -> np.ndarray:
        return (x - 65536 * (x > 32767)) * data["gain"]

    out = {}
    for name, count, flat in zip(("a", "b"), (n, m), data["weights"], strict=True):
        out[name] = take(count) * data["unit"] if flat is None else np.full(count, flat)
    for side, count in (("query", n), ("candidate", m)):
        out[side + " mass"], out[side + " adds"] = take(count) * data["unit"], signed(take(count))
    counts, largest = take(n), take(n) * data["unit"]
    assert not len(rest)
    gaps, roots, worth = np.frombuffer(base64.b64decode(data["entries"]), "u1").reshape(3, -1).astype(int)
    out["mass"], out["adds"] = np.zeros((n, m)), np.zeros((n, m))
    for row, start in enumerate(np.cumsum(counts) - counts):
        column = -1
        for i in range(start, start + counts[row]):
            if gaps[i] == 255:
                column += 255
                continue
            column += gaps[i] + 1
            out["mass"][row, column] = (roots[i] / 255) ** 2 * largest[row]
            out["adds"][row, column] = (
                out["mass"][row, column] * (worth[i] - 256 * (worth[i] > 127)) * data["step"]
            )
    return out


@pytest.mark.parametrize(("tokens", "entries"), [((6, 9), 1000), ((3, 900), 9)])  # near, and far apart
def test_a_stored_plan_is_the_plan_as_exactly_as_it_says(tokens, entries):
    plan = whole_plan(0.7, 3, tokens=tokens)
    view = sparse_plan(plan, entries=entries, strongest=9)
    found, data = read_back(view), view.encode()
    unit, gain = 0.5001 * data["unit"], 0.5001 * data["gain"]
    kept = found["mass"] > 0
    off = (
        np.abs(found["mass"] - plan.mass)[kept]
        / np.broadcast_to(plan.mass.max(axis=1, keepdims=True), tokens)[kept]
    )
    assert off.max() < 0.004
    worth = np.abs(plan.contribution[kept] / plan.mass[kept])
    got = found["adds"][kept] / found["mass"][kept]
    np.testing.assert_allclose(got, plan.contribution[kept] / plan.mass[kept], atol=0.501 * worth.max() / 127)
    assert kept.sum() == len(view.rows) >= 9
    assert view.kept == pytest.approx(plan.mass[kept].sum() / plan.mass.sum(), rel=1e-5)
    np.testing.assert_allclose(found["query mass"], plan.mass.sum(axis=1), atol=unit)
    np.testing.assert_allclose(found["candidate adds"], plan.contribution.sum(axis=0), atol=gain)
    assert data["unit"] < 1e-5 and data["weights"] == pytest.approx([1 / n for n in tokens])


SLOW = [{}, {"mass": 0.6}, {"tau": 0.6}, {"method": "chamfer"}]


@pytest.mark.parametrize(
    "changes",
    [
        {"mass": "auto", "price": 0.8},
        {"method": "mutual"},
        *(pytest.param(changes, marks=pytest.mark.slow) for changes in SLOW),
    ],
)
def test_numbers_of_a_patch_are_those_of_the_explanation(changes):
    queries, gallery = random_descriptors(2, seed=1), random_descriptors(3, tokens=6, seed=2)
    config = RerankConfig(epsilon=0.1, marginals="rollout", **changes)
    pairs = np.array([0, 1, 1]), np.array([2, 0, 1])
    whole = match_pairs(queries, gallery, *pairs, config=config, top=54)
    for i, plan in enumerate(pair_plans(queries, gallery, *pairs, config=config)):
        view = sparse_plan(plan, entries=20, strongest=5)
        found, unit = read_back(view), view.encode()["unit"]
        matches = whole.explanation(i, (3, 3), (2, 3)).matches
        for patch in range(9):
            own = [match for match in matches if match.query_patch == patch]
            np.testing.assert_allclose(found["query mass"][patch], sum(m.mass for m in own), atol=unit + 1e-7)
            np.testing.assert_allclose(
                found["query adds"][patch], sum(m.contribution for m in own), atol=3e-5
            )
        for match in matches[:5]:
            at = match.query_patch, match.candidate_patch
            most = max(m.mass for m in matches if m.query_patch == match.query_patch)
            np.testing.assert_allclose(found["mass"][at], match.mass, atol=0.004 * most + 2 * unit)
        np.testing.assert_allclose(found["a"], queries.weights[pairs[0][i]], atol=unit + 1e-7)
        np.testing.assert_allclose(view.structural, whole.structural[i], atol=2e-6)


def test_no_patch_is_left_without_its_strongest_entry():
    rng = np.random.default_rng(0)
    plan = whole_plan(0.5, 1, tokens=(20, 20))._replace(mass=rng.random((20, 20)).astype(np.float32) ** 20)
    view = sparse_plan(plan, entries=60)
    assert len(view.rows) == 60
    kept = np.zeros((20, 20), bool)
    kept[view.rows, view.columns] = True
    assert kept[np.arange(20), plan.mass.argmax(axis=1)].all()
    assert kept[plan.mass.argmax(axis=0), np.arange(20)].all()
    np.testing.assert_allclose(view.mass[0], plan.mass.sum(axis=1), rtol=1e-6)
    assert view.kept == pytest.approx(plan.mass[kept].sum() / plan.mass.sum(), rel=1e-6)


def test_thin_entries_are_not_kept():
    plan = whole_plan(0.5)
    share = np.maximum(
        plan.mass / plan.mass.sum(axis=1, keepdims=True).clip(1e-9),
        plan.mass / plan.mass.sum(axis=0).clip(1e-9),
    )
    view = sparse_plan(plan, entries=1000)
    assert len(view.rows) == np.count_nonzero(share >= 0.002) < np.count_nonzero(plan.mass)
    assert view.kept > 0.99
    empty = plan._replace(mass=0 * plan.mass, contribution=0 * plan.contribution)
    assert sparse_plan(empty, entries=10).kept == 1
    assert not read_back(sparse_plan(empty, entries=10))["mass"].any()


def describe(**fields) -> Descriptors:
    return Descriptors(np.ones((1, 2)), np.ones((1, 4, 2)), np.full((1, 4), 0.25), **fields)


def test_patches_come_from_what_the_descriptors_know():
    valid, places = np.array([[True, True, True, False]]), np.array([[5, 0, 3, 6]])
    grid = (2, 3)
    plain = patches_of(describe(valid=np.ones((1, 4), bool)), 0, (2, 2), (2, 2))
    assert plain.owner.tolist() == [[0, 1], [2, 3]] and not plain.dropped.any()
    pooled = patches_of(describe(valid=valid), 0, (2, 2), (2, 2))
    assert pooled.owner.tolist() == [[0, 1], [2, -1]] and pooled.dropped.sum() == 1
    placed = patches_of(describe(valid=valid, positions=places), 0, grid, grid)
    assert placed.owner.tolist() == [[1, -1, -1], [2, -1, 0]] and placed.dropped.sum() == 3
    merged = np.array([[1, 1, -1, 2, 0, 0]])
    owned = patches_of(describe(valid=valid, positions=places, owner=merged), 0, grid, grid)
    assert owned.owner.tolist() == [[1, 1, -1], [2, 0, 0]] and owned.dropped.sum() == 1
    coarse = patches_of(describe(valid=np.ones((1, 4), bool), owner=merged), 0, (2, 2), grid)
    assert coarse.owner.tolist() == [[0, 1], [2, 3]] and coarse.dropped.shape == grid


def test_encoded_patches_say_only_what_is_not_plain():
    assert each_for_itself().encode() == {"grid": [4, 4], "owner": None, "fine": [4, 4], "dropped": None}
    owner = np.array([[0, 0], [-1, 1]])
    data = Patches(owner, owner < 0).encode()
    assert words(data["owner"]).tolist() == [1, 1, 0, 2] and words(data["dropped"]).tolist() == [2]


def test_a_hundred_queries_with_their_plans_stay_below_six_megabytes():
    side, shown = 16, 8
    tokens = (side**2, side**2)
    entries = entries_within(PLAN_BYTES, tokens, 100 * shown)
    view = sparse_plan(whole_plan(0.78, 1, tokens), entries=entries)
    photo = photos(1, side=64)["photo0"]
    grid = Patches(np.arange(side**2).reshape(side, side), np.zeros((side, side), bool))
    queries = [
        QueryView("photo0", f"q{i}", [candidate(0, j + 1, 1, plan=view) for j in range(shown)])
        for i in range(100)
    ]
    page = render(report(images={"photo0": photo}, patches={"photo0": grid}, queries=queries))
    assert len(page) < 6_500_000
    assert entries_within(PLAN_BYTES, (64, 64), 10) == 32 * 64  # few pairs: as much as anyone looks at


def test_plans_that_explain_another_score_or_another_grid_are_refused(tmp_path):
    off = candidate(1, 1, 1, plan=sparse_plan(whole_plan(0.5), entries=9))
    with pytest.raises(ValueError, match=r"the plan adds up to 0\.\d+, structural score is 0.780000"):
        write_report(tmp_path / "r.html", report(queries=[QueryView("photo0", "q", [off])]))
    with pytest.raises(ValueError, match="patches has no 'photo0'"):
        write_report(tmp_path / "r.html", report(patches={}))
    large = Patches(np.arange(25).reshape(5, 5), np.zeros((5, 5), bool))
    with pytest.raises(ValueError, match=r"patches\['photo1'\] names token 24 of 16"):
        write_report(tmp_path / "r.html", report(patches=dict.fromkeys(photos(5), large)))
